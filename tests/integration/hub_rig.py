"""A hub as a process on ports of its own, a plain REST client, and a fake endpoint.

`FakeEndpoint` is no endpoint: it registers, consumes and answers with what the test says, over
pika, so that a test can send what a real endpoint never would.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pika
import pika.exceptions
import psutil

from cep.wire.buffers import pack_buffers
from cep.wire.status import pack_status_report

CEP = Path(sys.executable).parent / "cep"
COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
ARGUMENTS = pack_buffers(["00\ngASVBQAAAAAAAABLAYWULg==\n", "00\ngAR9lC4=\n"])


class HubProcess:
    """A hub started by its command; `stop` or the context's end stops it.

    Args:
        state_dir: Its directory.
        variables: Environment variables, such as the addresses of RabbitMQ and PostgreSQL.
    """

    def __init__(self, state_dir: Path, variables: Mapping[str, str] | None = None) -> None:
        self.state_dir = state_dir
        self.variables = dict(variables or {})
        self.port = "0"

    def __enter__(self) -> HubProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cep("stop", check=False)

    def cep(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `cep hub WORDS` on this hub's state directory."""
        done = subprocess.run(
            [CEP, "hub", *words, "--state-dir", self.state_dir],
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
            env={**_own_environment(), **self.variables},
        )
        assert not check or done.returncode == 0, f"{words}: {done.stderr}\n{self.log()}"
        return done

    def start(self) -> None:
        """Serve; again on the same ports after the first time."""
        self.cep("serve", "--detach", "--port", self.port)
        self.port = self.running["url"].rpartition(":")[2]

    def kill(self) -> None:
        """`kill -9`, and wait until the process is gone."""
        process = psutil.Process(self.running["pid"])
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=60)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The process stands still for the length of a block."""
        process = psutil.Process(self.running["pid"])
        process.suspend()
        try:
            yield
        finally:
            process.resume()

    @property
    def running(self) -> dict[str, Any]:
        """What the hub wrote about itself."""
        return dict(json.loads((self.state_dir / "running.json").read_text()))

    def log(self) -> str:
        """The hub's log."""
        file = self.state_dir / "hub.log"
        return file.read_text() if file.exists() else ""

    def client(self, name: str) -> Rest:
        """Add a client to the hub and log it in."""
        made = json.loads(self.cep("client", "add", name, "--json").stdout)
        return Rest(self.running["url"], made["client_id"], made["client_secret"])

    def status(self) -> dict[str, Any]:
        """What `cep hub status --json` says."""
        return dict(json.loads(self.cep("status", "--json").stdout))


def _own_environment() -> dict[str, str]:
    """The variables without addresses of somebody's servers."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CEP_HUB_")}


class Rest:
    """A logged-in client of the hub's REST routes."""

    def __init__(self, url: str, client_id: str, secret: str) -> None:
        self.url = url
        self.client_id = client_id
        self.secret = secret
        self.token = ""
        self.login()

    def login(self) -> int:
        """Get a token; returns the status."""
        login = base64.b64encode(f"{self.client_id}:{self.secret}".encode()).decode()
        form = urlencode({"grant_type": "client_credentials", "scope": COMPUTE_SCOPE}).encode()
        status, answer = self._send(
            "POST", "/v2/oauth2/token", form, {"Authorization": f"Basic {login}"}
        )
        self.token = str(answer.get("access_token"))
        return status

    def __call__(self, method: str, path: str, content: Any = None) -> dict[str, Any]:
        """Send a request that must succeed; returns the answer."""
        status, answer = self.send(method, path, content)
        assert status == 200, answer
        return answer

    def send(self, method: str, path: str, content: Any = None) -> tuple[int, dict[str, Any]]:
        """Send a request; returns status and answer."""
        body = None if content is None else json.dumps(content).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        return self._send(method, path, body, headers)

    def send_and_break_off(self, path: str, content: Any, hub: HubProcess) -> None:
        """Send a POST and reset the connection: the hub finds both at once."""
        body = json.dumps(content).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        port = int(self.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            # Closing with a linger time of zero sends a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(head.encode() + body[:-1])
            with hub.suspended():
                connection.sendall(body[-1:])
                connection.close()

    def _send(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.load(exc)

    def function(self) -> str:
        """Register a function that nobody will run; returns its id."""
        content = {
            "function_name": "f",
            "function_code": pack_buffers(["01\nY29kZQ==\n"]),
            "serialized": True,
        }
        return str(self("POST", "/v3/functions", content)["function_uuid"])

    def submit(self, endpoint_id: str, function_id: str, count: int = 1) -> dict[str, Any]:
        """Submit tasks with a result queue; returns the answer."""
        content = {"create_queue": True, "tasks": {function_id: [ARGUMENTS] * count}}
        return self("POST", f"/v3/endpoints/{endpoint_id}/submit", content)

    def status_of(self, endpoint_id: str) -> str:
        """`online` or `offline`."""
        return str(self("GET", f"/v2/endpoints/{endpoint_id}/status")["status"])

    def results(self, group: str, count: int, timeout_s: float = 60) -> list[bytes]:
        """Take this many results from the task group's queue, as the SDK does."""
        found = self("GET", "/v2/get_amqp_result_connection_url")
        bodies = []
        with pika.BlockingConnection(pika.URLParameters(found["connection_url"])) as connection:
            channel = connection.channel()
            queue = f"{found['queue_prefix']}{group}"
            for method, _, body in channel.consume(queue, inactivity_timeout=timeout_s):
                assert method is not None, f"{len(bodies)} of {count} results within {timeout_s} s"
                channel.basic_ack(method.delivery_tag)
                bodies.append(body)
                if len(bodies) == count:
                    return bodies
        raise AssertionError("the connection ended")


class FakeEndpoint:
    """Registered, connected, and silent until told; not a real endpoint."""

    def __init__(self, rest: Rest, endpoint_id: str | None = None) -> None:
        content = {"endpoint_name": "fake"}
        if endpoint_id is None:
            self.answer = rest("POST", "/v3/endpoints", content)
        else:
            self.answer = rest("PUT", f"/v3/endpoints/{endpoint_id}", content)
        self.id = str(self.answer["endpoint_id"])
        self._connect()

    def _connect(self) -> None:
        url = self.answer["task_queue_info"]["connection_url"]
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()

    def reconnect(self) -> None:
        """Come back after `close`, with the same login."""
        self._connect()

    def take(self, count: int, timeout_s: float = 60) -> list[tuple[dict[str, Any], bytes]]:
        """Take this many tasks, exclusively and acked: headers and body of each."""
        taken = []
        queue = self.answer["task_queue_info"]["queue"]
        for method, properties, body in self.channel.consume(
            queue, exclusive=True, inactivity_timeout=timeout_s
        ):
            assert method is not None, f"{len(taken)} of {count} tasks within {timeout_s} s"
            self.channel.basic_ack(method.delivery_tag)
            taken.append((properties.headers, body))
            if len(taken) == count:
                break
        self.channel.cancel()
        return taken

    def send(self, block: str, body: bytes) -> None:
        """Publish as the registration's answer says, and wait for the confirm."""
        how = self.answer[block]["queue_publish_kwargs"]
        self.channel.basic_publish(
            exchange=how["exchange"],
            routing_key=how["routing_key"],
            body=body,
            properties=pika.BasicProperties(**how["properties"]),
            mandatory=how["mandatory"],
        )

    def result(self, body: bytes) -> None:
        """Send a result message."""
        self.send("result_queue_info", body)

    def report(self, **state: Any) -> None:
        """Send a status report."""
        self.send("heartbeat_queue_info", pack_status_report(self.id, state))

    def wait_cut_off(self) -> None:
        """Wait until the broker has closed the connection."""
        wait_cut_off(self.connection)

    def close(self) -> None:
        """Disconnect."""
        if self.connection.is_open:
            self.connection.close()


def wait_cut_off(connection: pika.BlockingConnection, within_s: float = 60) -> None:
    """Wait until the broker has closed this connection."""
    deadline = time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0:
        try:
            connection.process_data_events(time_limit=left)
        except pika.exceptions.AMQPError:
            return
    raise AssertionError(f"the connection is still there after {within_s} s")
