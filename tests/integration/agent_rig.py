"""A bench for one real agent on a real broker, with an account of every task.

Real: the agent (its own process, started as `cep start` starts it), its engine, RabbitMQ. Not
real: the web service, whose REST side is a stand-in of a few routes here, and the client, which
publishes task messages and reads the result queue itself, so that it sees what the service would.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from uuid import uuid4

import pika
from globus_compute_sdk.serialize import ComputeSerializer

from cep.agent.launch import Word, read_words
from cep.agent.options import StartOptions
from cep.wire.result import ResultMessage, unpack_result
from cep.wire.task import pack_task
from tests.integration.rabbitmq import RabbitMq

REPOSITORY = Path(__file__).resolve().parents[2]
FUNCTION = "0f0f0f0f-1111-4222-8333-444444444444"
ANSWER_S = 60.0


class _Routes(BaseHTTPRequestHandler):
    """The stand-in service: version, token, registration."""

    protocol_version = "HTTP/1.1"
    # Header and body of an answer in one packet, as servers send them: the second of two would wait
    # for the client's delayed acknowledgement (tcp(7)), 40 ms for each request of a start.
    wbufsize = -1

    def _answer(self, document: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("content-length") or 0))

    def do_GET(self) -> None:
        self._answer({"api": "1.0", "min_ep_version": "2.0.0", "min_sdk_version": "2.0.0"})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("/oauth2/token"):
            scopes = parse_qs(body.decode())["scope"][0]
            self._answer(_tokens(scopes))
        else:
            self._answer(self.server.register(json.loads(body)))  # type: ignore[attr-defined]

    do_PUT = do_POST

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _tokens(scopes: str) -> dict[str, Any]:
    def token(server: str) -> dict[str, Any]:
        return {
            "access_token": f"token-for-{server}",
            "resource_server": server,
            "scope": scopes,
            "token_type": "Bearer",
            "expires_in": 172800,
        }

    # As the real one: a token for each resource that was asked for, and no other.
    asked = {
        "funcx_service": "facd7ccc" in scopes,
        "auth.globus.org": "openid" in scopes or "/scopes/auth.globus.org" in scopes,
        "groups.api.globus.org": "groups.api.globus.org" in scopes,
    }
    first, *others = [token(server) for server, wanted in asked.items() if wanted]
    return {**first, "other_tokens": others}


def stand_in_service(register: Callable[[dict[str, Any]], dict[str, Any]]) -> ThreadingHTTPServer:
    """Serve the stand-in's routes on a free port; the caller shuts it down.

    Args:
        register: Answers a registration request.
    """
    service = ThreadingHTTPServer(("127.0.0.1", 0), _Routes)
    service.register = register  # type: ignore[attr-defined]
    threading.Thread(target=service.serve_forever, daemon=True).start()
    return service


@dataclass
class Account:
    """What became of the tasks of one scenario."""

    labels: dict[str, str]  # of every submitted task, by its id
    answers: dict[str, ResultMessage] = field(default_factory=dict)
    repeats: int = 0
    executions: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> list[str]:
        """Error codes of the answers that are errors."""
        return [a.error_code for a in self.answers.values() if a.error_code is not None]

    @property
    def errors_without_a_trace(self) -> list[str]:
        """Labels of tasks answered with an error whose function left no trace of having run."""
        wrong = [a.task_id for a in self.answers.values() if a.error_code is not None]
        return [self.labels[id_] for id_ in wrong if not self.executions[self.labels[id_]]]

    @property
    def results_without_a_trace(self) -> list[str]:
        """Labels of tasks answered with a result although their function never ran."""
        right = [a.task_id for a in self.answers.values() if a.error_code is None]
        return [self.labels[id_] for id_ in right if not self.executions[self.labels[id_]]]

    @property
    def run_twice(self) -> list[str]:
        """Labels of tasks that were executed more than once."""
        return [label for label, count in self.executions.items() if count > 1]


class Bench:
    """One endpoint in `directory` on the given broker."""

    def __init__(self, directory: Path, broker: RabbitMq) -> None:
        self.directory = directory
        self.root = directory / "bench"
        self.root.mkdir(parents=True)
        self.executed = directory / "executed"
        self.executed.touch()
        self.broker = broker
        self.url = broker.url  # what the next registration hands out
        self.credentials = (str(uuid4()), "bench-secret")
        self.reports_url: str | None = None  # and for status reports, when it is another address
        self.endpoint_id = str(uuid4())
        self.tasks_queue = f"{self.endpoint_id}.tasks"
        self.results_queue = f"{self.endpoint_id}.results"
        self.more_queues: dict[str, Any] = {}  # what a registration's answer has besides these two
        self.registrations: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self._children: list[subprocess.Popen[bytes]] = []
        self._serializer = ComputeSerializer()
        self.labels: dict[str, str] = {}  # of each submitted task, by its id
        self._service = stand_in_service(self._register)
        with broker.channel() as channel:
            channel.exchange_declare("results", "direct", durable=True)
            for name in (self.tasks_queue, self.results_queue):
                channel.queue_declare(name, durable=True)
            channel.queue_bind(self.results_queue, "results", self.results_queue)

    def _register(self, request: dict[str, Any]) -> dict[str, Any]:
        self.registrations.append(request)
        url = self.url
        reports = (
            {} if self.reports_url is None else {"heartbeat_queue_info": self._reports_block()}
        )
        return {
            **self.more_queues,
            **reports,
            "endpoint_id": self.endpoint_id,
            "task_queue_info": {"connection_url": url, "exchange": "", "queue": self.tasks_queue},
            "result_queue_info": {
                "connection_url": url,
                "exchange": "results",
                "queue": self.results_queue,
                "queue_publish_kwargs": {
                    "exchange": "results",
                    "routing_key": self.results_queue,
                    "mandatory": True,
                    "properties": {"delivery_mode": 2},
                },
            },
        }

    def _reports_block(self) -> dict[str, Any]:
        return {
            "connection_url": self.reports_url,
            "exchange": "results",
            "queue": self.results_queue,
            "queue_publish_kwargs": {
                "exchange": "results",
                "routing_key": self.results_queue,
                "mandatory": True,
                "properties": {"delivery_mode": 2},
            },
        }

    # -- the agent -----------------------------------------------------------------------------

    def configure(self, text: str) -> None:
        """Write the configuration; the service's address is added."""
        port = self._service.server_address[1]
        (self.root / "config.yaml").write_text(f"service_url: http://127.0.0.1:{port}\n{text}")

    def start(
        self,
        *,
        crash: str | None = None,
        wait: bool = True,
        prefix: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        take_over: bool = False,
        crash_file: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start the agent, detached, as `cep start` does.

        Args:
            crash: `POINT:N`: the agent kills itself the N-th time it reaches this named point.
            wait: Return only when it is ready (or, with `crash`, dead).
            prefix: A command that runs the agent's command, such as `unshare` or `faketime`.
            variables: More environment variables.
            take_over: `--take-over`.
            crash_file: Where the agent reads such words from at each SIGUSR2.
        """
        read_end, write_end = os.pipe()
        plain = crash is None and crash_file is None
        module = "cep.agent" if plain else "tests.integration.crash_agent"
        options = json.dumps(asdict(StartOptions(take_over=take_over)))
        environment = {
            **os.environ,
            "GLOBUS_COMPUTE_CLIENT_ID": self.credentials[0],
            "GLOBUS_COMPUTE_CLIENT_SECRET": self.credentials[1],
            "GLOBUS_COMPUTE_USER_DIR": str(self.directory),
            "XDG_RUNTIME_DIR": str(self.directory),
            "CRASH_AT": crash or "",
            "CRASH_FILE": str(crash_file or ""),
            **(variables or {}),
        }
        command = [sys.executable, "-m", module, str(self.directory), "bench", str(write_end)]
        child = subprocess.Popen(
            [*prefix, *command, options],
            cwd=REPOSITORY,
            env=environment,
            pass_fds=(write_end,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(write_end)
        self._children.append(child)
        with os.fdopen(read_end) as pipe:
            self.words: list[Word] = list(read_words(pipe)) if wait else []
        if wait and crash is None and not any("ready" in word for word in self.words):
            raise AssertionError(f"the agent did not start: {self.words}\n{self.log()}")
        return child

    def kill(self, child: subprocess.Popen[bytes]) -> None:
        """kill -9, and wait for the end."""
        child.kill()
        child.wait(60)

    def stop(self, child: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
        """Send a stop signal and return the exit code."""
        child.send_signal(number)
        return child.wait(60)

    def log(self) -> str:
        """The agent's log."""
        path = self.root / "endpoint.log"
        return path.read_text(errors="replace") if path.exists() else "(no log)"

    # -- the client ----------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], labels: Sequence[str], *args: Any) -> list[str]:
        """Publish one task per label; each calls `function(executed file, label, *args)`."""
        ids = [str(uuid4()) for _ in labels]
        code = self._serializer.serialize(function)
        with self.broker.channel() as channel:
            channel.confirm_delivery()
            for id_, label in zip(ids, labels, strict=True):
                buffers = [
                    code,
                    self._serializer.serialize((str(self.executed), label, *args)),
                    self._serializer.serialize({}),
                ]
                self.publish(channel, id_, pack_task(id_, self._serializer.pack_buffers(buffers)))
                self.labels[id_] = label
        return ids

    def publish(self, channel: Any, id_: str, body: bytes, **headers: Any) -> None:
        """Publish one message to the task queue."""
        properties = pika.BasicProperties(
            delivery_mode=2, headers={"task_uuid": id_, "function_uuid": FUNCTION, **headers}
        )
        channel.basic_publish("", self.tasks_queue, body, properties, mandatory=True)

    def collect(
        self, wanted: int, within_s: float = ANSWER_S, onto: Account | None = None
    ) -> Account:
        """Read the result queue until `wanted` different tasks have an answer.

        Args:
            wanted: How many, those in `onto` included.
            within_s: Stop then at the latest.
            onto: An earlier account to go on with.
        """
        account = onto or Account(self.labels)
        with self.broker.channel() as channel:
            deadline = time.monotonic() + within_s
            for method, _, body in channel.consume(self.results_queue, inactivity_timeout=within_s):
                if method is None or time.monotonic() > deadline:
                    break
                channel.basic_ack(method.delivery_tag)
                self._enter(account, body)
                if len(account.answers) >= wanted:
                    break
            channel.cancel()
        account.executions = Counter(self.executed.read_text().split())
        return account

    def collect_rest(self, account: Account) -> Account:
        """Read what lies in the result queue, after the last one who writes there has ended."""
        with self.broker.channel() as channel:
            while (got := channel.basic_get(self.results_queue, auto_ack=True))[0] is not None:
                self._enter(account, got[2])
        account.executions = Counter(self.executed.read_text().split())
        return account

    def _enter(self, account: Account, body: bytes) -> None:
        if b'"message_type":"ep_status_report"' in body[:60]:
            self.reports.append(json.loads(body[1:])["data"])
            return
        result = unpack_result(body)
        if result.task_id in account.answers:
            account.repeats += 1
        account.answers[result.task_id] = result

    def queued(self) -> int:
        """Messages waiting in the task queue."""
        with self.broker.channel() as channel:
            return int(channel.queue_declare(self.tasks_queue, passive=True).method.message_count)

    def close(self) -> None:
        """End everything of this bench and remove its queues."""
        for child in self._children:
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                child.wait(60)
        self._service.shutdown()
        self._service.server_close()
        with self.broker.channel() as channel:
            channel.queue_delete(self.tasks_queue)
            channel.queue_delete(self.results_queue)


@contextlib.contextmanager
def bench(directory: Path, broker: RabbitMq) -> Iterator[Bench]:
    """A bench that is taken down at the end."""
    made = Bench(directory, broker)
    try:
        yield made
    finally:
        made.close()


def note(executed: str, label: str, _filling: bytes = b"") -> str:
    """The test function: append the label to the file, in one write, and return it."""
    import os

    handle = os.open(executed, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{label}\n".encode())
    finally:
        os.close(handle)
    return label
