"""One endpoint for a sitting: the agent, the proxy before it, its broker and its client."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import psutil

from cep.wire.task import pack_task
from tests.integration.agent_rig import Bench, bench
from tests.integration.faults.books import Books, Verdict
from tests.integration.faults.client import Client, Parcel
from tests.integration.faults.proxy import Proxy
from tests.integration.faults.schedule import Sitting
from tests.integration.rabbitmq import RabbitMq
from tests.integration.scene import until

WORKERS = 2
# Seconds; the broker gives a silent client up after two of them.
HEARTBEAT_S = 2
ENGINES = {
    "threads": "type: ThreadPoolEngine, max_workers: 2",
    "processes": "type: ProcessPoolEngine, max_workers: 2",
    "htex": (
        "type: GlobusComputeEngine, max_workers_per_node: 2, provider: "
        "{type: LocalProvider, init_blocks: 1, min_blocks: 0, max_blocks: 1}"
    ),
}


def configuration(engine: str, retries: int) -> str:
    """The endpoint's configuration, without the service's address."""
    block = f"engine: {{{ENGINES[engine]}, max_retries_on_system_failure: {retries}}}\n"
    return f"{block}heartbeat_period: 5\non_restart: {'retry' if retries else 'fail'}\n"


def work(executed: str, label: str, seconds: float, _filling: bytes) -> str:
    """The test function: leave a trace, take its time, return the label."""
    import os
    import threading

    handle = os.open(executed, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(handle, f"{label}\n".encode())
    finally:
        os.close(handle)
    if seconds:
        threading.Event().wait(seconds)
    return label


def crash_file_of(scene: Bench) -> Path:
    """Where the agents of this endpoint read at which point they are to die."""
    return scene.directory / "crash-at"


class TaskClient(Protocol):
    """Who submits: straight to the broker, or through the hub."""

    asked: list[str]

    def submit(self, parcels: Sequence[Parcel]) -> None: ...


class Site:
    """See the module; made by `site`.

    Args:
        scene: The endpoint's directory and its agents.
        proxy: Stands between the agent and its broker.
        client: Submits tasks and fills the books.
        books: What is known of the tasks.
        user: The agent's user at the broker.
    """

    def __init__(
        self, scene: Bench, proxy: Proxy, client: TaskClient, books: Books, user: str
    ) -> None:
        self.scene = scene
        self.proxy = proxy
        self.client = client
        self.books = books
        self.user = user
        self.agent: subprocess.Popen[bytes]
        self._crash_file = crash_file_of(scene)
        self._code = scene._serializer.serialize(work)

    @property
    def broker(self) -> RabbitMq:
        """The endpoint's broker; there is none of its own behind a hub."""
        return self.scene.broker

    # --- tasks ------------------------------------------------------------------------------------

    def all_answered(self) -> bool:
        """Whether everything that was to be submitted so far has its answer."""
        return self.books.wait(self.client.asked, len(self.client.asked), 0)

    def judge(self, labels: Sequence[str], *, retries: int, spare: int) -> Verdict:
        """The verdict on these tasks; see `Books.verdict`."""
        return self.books.verdict(labels, retries=retries, spare=spare)

    def parcels(self, labels: Sequence[str], task_ms: int, filling: int) -> list[Parcel]:
        """Tasks ready to submit, one per label."""
        serializer = self.scene._serializer
        function = f"0f0f0f0f-1111-4222-8333-{task_ms:012d}"
        padding = os.urandom(filling)
        made = []
        for label in labels:
            id_ = str(uuid4())
            arguments = (str(self.scene.executed), label, task_ms / 1000, padding)
            buffers = [self._code, serializer.serialize(arguments), serializer.serialize({})]
            body = pack_task(id_, serializer.pack_buffers(buffers))
            headers = {"task_uuid": id_, "function_uuid": function}
            made.append(Parcel(id_, label, body, headers))
        return made

    # --- the agent --------------------------------------------------------------------------------

    def start(self) -> float:
        """Start the agent and wait until it is ready; returns when its process began."""
        began = time.monotonic()
        self.agent = self.scene.start(crash_file=self._crash_file)
        return began

    def launch(self) -> subprocess.Popen[bytes]:
        """Start an agent without waiting for its word."""
        return self.scene.start(crash_file=self._crash_file, wait=False)

    def arm(self, words: str) -> None:
        """Tell the agent where to kill itself (`POINT:N`)."""
        self._crash_file.write_text(words)
        self.agent.send_signal(signal.SIGUSR2)

    def kill(self) -> None:
        """kill -9 of the agent, and wait for its end."""
        self.scene.kill(self.agent)

    def connected(self) -> bool:
        """Whether the broker lists connections of the agent."""
        return bool(self.broker.connections_of(self.user))

    def count_in_log(self, text: str) -> int:
        """How often the agent's log says this."""
        return self.scene.log().count(text)

    def disturbances(self) -> int:
        """How often an agent started or lost a link, as its log tells: what excuses a repeat."""
        return self.count_in_log("starts endpoint") + self.count_in_log("is down:")

    # --- its processes ----------------------------------------------------------------------------

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes below the agent that have one of these words in their command line."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.agent.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                    line = " ".join(child.cmdline())
                    if any(word in line for word in words):
                        found.append(child)
        return sorted(found, key=lambda process: process.pid)

    def workers(self) -> list[psutil.Process]:
        """The engine's worker processes."""
        own = self.processes("cep worker ")
        own = [process for process in own if "pool" not in " ".join(process.cmdline())]
        if own:
            return own
        # A manager forks its workers from a fork server, whose command line they keep.
        servers = self.processes("forkserver")
        pids = {process.pid for process in servers}
        forked = []
        for process in servers:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.ppid() in pids:
                    forked.append(process)
        return forked

    def strike(self, pick: int, what: str, *words: str) -> None:
        """kill -9 of one of the engine's processes, as soon as there is one."""
        found: list[psutil.Process] = []

        def look() -> bool:
            found[:] = self.processes(*words) if words else self.workers()
            return bool(found)

        until(look, within_s=60, what=f"there is a {what} to kill")
        victim = found[pick % len(found)]
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()


@contextlib.contextmanager
def site(directory: Path, broker: RabbitMq, sitting: Sitting) -> Iterator[Site]:
    """An endpoint that runs, with its client; stopped in good order at the end."""
    user = f"agent-{uuid4().hex[:8]}"
    login = broker.add_user(user, "secret", configure=".*", write=".*", read=".*")
    try:
        with (
            Proxy(broker.port) as proxy,
            bench(directory, broker) as scene,
        ):
            port = f"127.0.0.1:{broker.port}"
            scene.url = login.replace(port, f"127.0.0.1:{proxy.port}")
            scene.url += f"?heartbeat={HEARTBEAT_S}"
            scene.configure(configuration(sitting.engine, sitting.retries))
            books = Books(scene.executed)
            with Client(broker, scene.tasks_queue, scene.results_queue, books) as client:
                made = Site(scene, proxy, client, books, user)
                made.start()
                yield made
                assert scene.stop(made.agent) == 0, scene.log()
            assert scene.queued() == 0, "tasks are unsettled at the broker"
    finally:
        broker.remove_user(user)
