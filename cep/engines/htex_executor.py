"""The one subclass of Parsl's HighThroughputExecutor: what goes to the interchange and comes back.

Owns the link to the interchange, and ends its process. `dispatch` and `request` belong
to one thread (the socket has no lock), `listen` to another; `end` to a third, after both.
Nothing that comes from a worker is unpickled here: `plain_pickle` reads plain values and knows no
classes at all, so that a user's `__reduce__` never runs in the agent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from parsl import curvezmq
from parsl.executors.errors import InvalidResourceSpecification
from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD, HighThroughputExecutor
from parsl.jobs.states import JobStatus

from cep.engines import ahead
from cep.engines.container_guard import guarded, write_guard
from cep.engines.containers import Container
from cep.engines.interchange_link import InterchangeLink
from cep.engines.interchange_process import InterchangeProcess
from cep.engines.job_words import JobWord
from cep.engines.lending import POOL_MODULE, PUBLISHED_POOL, Lending, Refusal
from cep.engines.plain_pickle import loads as plain_loads
from cep.errors import EngineError

log = logging.getLogger(__name__)

#: Parsl's names that this module uses beyond its documented ones; a test keeps watch over them.
PARSL_NAMES = (
    "_check_python_mismatch",
    "_get_launch_command",
    "_launch_block",
    "_task_counter",
    "_workers_per_node",
)
INTERCHANGE_START_MS = 60_000


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the interchange: `kind` is done, back, lost, broken or event."""

    kind: str
    task: int = 0
    frame: bytes = b""
    reason: str = ""
    event: Mapping[str, Any] | None = None


def read_message(data: bytes) -> Received:
    """Understand one message of the results channel without running anything it holds.

    Raises:
        pickle.UnpicklingError: It holds more than plain values.
        KeyError, TypeError, ValueError: They are not those of a message.
    """
    message = plain_loads(data)
    if message["type"] == "cep":
        _check_event(message)
        return Received("event", event=message)
    task = message["task_id"]
    if not isinstance(task, int):
        raise TypeError(f"a task has a number, not a {type(task).__name__}")
    if ahead.NOT_BEGUN in message:
        return Received("back", task)
    if "cep_lost" in message:
        return Received("lost", task, reason=str(_checked(message, "cep_lost", str)))
    if "result" in message:
        if not isinstance(message["result"], bytes):
            return Received("broken", task, reason="The worker's answer is not bytes.")
        _, _, body = message["result"].partition(b"\n")
        try:
            frame = plain_loads(body)
        except pickle.UnpicklingError as error:
            return Received("broken", task, reason=f"The worker's answer is not bytes: {error}.")
        if isinstance(frame, bytes):
            return Received("done", task, frame)
        return Received("broken", task, reason="The worker's answer is not bytes.")
    return Received(
        "broken",
        task,
        reason="The worker could not begin the task; its log says why. Is this version of "
        "cep-endpoint installed where the worker runs?",
    )


_EVENTS: Mapping[str, Mapping[str, type]] = {
    "registered": {"manager": str, "block": str, "workers": int, "host": str},
    "draining": {"manager": str},
    "gone": {"manager": str, "block": str, "ids": list},
    "unreachable": {},
    "retired": {"blocks": list},
    "cancelled": {"ids": list},
}
_MOST_WORKERS = 100_000  # of one manager, which is one node
_VERSIONS = (
    "parsl_version",
    "python_version",
    "endpoint_version",
    "sdk_version",
    "dill_version",
)


def _check_event(event: Mapping[str, Any]) -> None:
    """Refuse an event that the interchange does not tell; workers write to the same channel."""
    kind = _checked(event, "event", str)
    for name, wanted in _EVENTS[kind].items():
        _checked(event, name, wanted)
    for name, item in (("ids", int), ("blocks", str)):
        if not all(isinstance(one, item) for one in event.get(name, ())):
            raise TypeError(f"the event's {name!r} are not what they should be")
    if kind == "registered":
        if not 0 <= event["workers"] <= _MOST_WORKERS:
            raise ValueError(f"a manager with {event['workers']} workers cannot be")
        for name in _VERSIONS:
            if event[name] is not None:
                _checked(event, name, str)


def _checked(message: Mapping[str, Any], name: str, kind: type) -> Any:
    value = message[name]
    if not isinstance(value, kind):
        raise TypeError(f"{name!r} is a {type(value).__name__}, not a {kind.__name__}")
    return value


class Executor(HighThroughputExecutor):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        process: The interchange, started and not yet configured; `end` ends it.
        local: All workers run on this host.
        container: How to wrap the workers' command, or None.
        lending: Finds and equips the Python of the workers; None: `interpreter` has the worker.
        interpreter: The workers' Python without lending.
        run_dir: The endpoint's run directory.
        endpoint_id: Marks its containers.
        arguments: What HighThroughputExecutor takes.
    """

    all_addresses: Collection[str]  # where workers try to reach the interchange, in any order

    def __init__(
        self,
        *,
        process: InterchangeProcess,
        local: bool,
        container: Container | None,
        run_dir: Path,
        endpoint_id: str = "",
        lending: Lending | None = None,
        interpreter: str = sys.executable,
        **arguments: Any,
    ) -> None:
        arguments["block_error_handler"] = False  # blocks are judged by cep.engines.blocks
        self._custom_launch_cmd = arguments.pop("launch_cmd", None)
        super().__init__(**arguments)
        self._check_python_mismatch = False  # messages are plain bytes in any Python
        self.run_dir = str(run_dir)
        self._endpoint_id = endpoint_id
        self._process = process
        # Only our own pool knows the door for managers of this host.
        ours = (self._custom_launch_cmd or PUBLISHED_POOL).startswith(PUBLISHED_POOL)
        self._link = InterchangeLink(run_dir, managers=local and container is None and ours)
        self._unheard = False  # the interchange no longer takes messages
        self._asked_port: int | None = arguments.get("worker_port")
        self._local = local
        self._container = container
        self._lending = lending
        self._interpreter = interpreter
        if lending is not None:
            lending.attach(self.provider)
        self._wake_read, self._wake_write = os.pipe()

    # -- start ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the interchange, in place of what Parsl's executor does.

        Raises:
            CantCreate: The directory for sockets is not ours alone.
            EngineError: It did not come up; the message holds its last words.
        """
        if self._lending is not None:
            self._lending.write()
        if self.encrypted:
            self.cert_dir = curvezmq.create_certificates(self.logdir)
        if self._container is not None:
            write_guard(Path(self.run_dir), self._container)
        self.launch_cmd = self._compose_launch_command()
        self.logconf_path = None
        self._link.open()
        if self._link.door is not None:
            self.all_addresses = [self._link.door, *self.all_addresses]
        self._process.configure(self._interchange_config())
        self.worker_port = self._ask_worker_port()
        self.initialize_scaling()

    def prepare_unstarted(self, worker_port: int) -> None:
        """Compose the launch command as `start` does, without starting or writing anything.

        For showing what would be submitted. The certificates that the command names are made by
        `start`.

        Args:
            worker_port: Stands for the port that the interchange chooses.
        """
        self.cert_dir = f"{self.logdir}/certificates" if self.encrypted else None
        self.logconf_path = None
        self.worker_port = worker_port
        self.launch_cmd = self._compose_launch_command()
        self.initialize_scaling()

    @property
    def lending(self) -> Lending | None:
        """How the workers' Python is found and equipped."""
        return self._lending

    def launch_command(self, block: str) -> str:
        """The command that starts the workers of a block, container included."""
        return self._get_launch_command(block)

    def _interchange_config(self) -> dict[str, Any]:
        return {
            "client_address": self._link.address,
            "client_ports": self._link.NAMES,
            "interchange_address": self.address,
            "worker_port": self._asked_port,
            "worker_port_range": self.worker_port_range,
            "hub_address": None,
            "hub_zmq_port": None,
            "heartbeat_threshold": self.heartbeat_threshold,
            "logdir": self.logdir,
            "logging_level": logging.DEBUG if self.worker_debug else logging.INFO,
            "poll_period": self.poll_period,
            "cert_dir": self.cert_dir,
            "manager_selector": self.manager_selector,
            "run_id": self.run_id,
            "log_config": None,
            "_check_python_mismatch": self._check_python_mismatch,
            "disconnect_grace_s": 0.0 if self._local else 2.0 * self.heartbeat_period,
            "silence_s": 2.0 * self.heartbeat_period,
            "door": self._link.door,
        }

    def _ask_worker_port(self) -> int:
        answer = self._link.first_answer("WORKER_BINDS", self._process.life, INTERCHANGE_START_MS)
        if answer is None:
            words = self._process.last_words() or "no answer"
            raise EngineError(
                f"Parsl's interchange did not start: {words}",
                hint=f"Its log is {self.logdir}/interchange.log.",
            )
        return int(plain_loads(answer))

    def _compose_launch_command(self) -> str:
        """The template that Parsl fills in; our own values are quoted for the shell."""
        if self._custom_launch_cmd is not None:
            command = str(self._custom_launch_cmd)
        else:
            command = DEFAULT_LAUNCH_CMD
            for name, value in (("cert_dir", self.cert_dir), ("logdir", self.worker_logdir)):
                quoted = shlex.quote(str(value))
                command = command.replace(f"{{{name}}}", _literal(quoted))
        if command.startswith(PUBLISHED_POOL):
            command = f"{self._start_of_command()}{command[len(PUBLISHED_POOL) :]}"
        return command

    def _start_of_command(self) -> str:
        if self._lending is None:
            return _literal(f"{shlex.quote(self._interpreter)} -m {POOL_MODULE}")
        mark = "{{block_id}}"  # survives the first formatting and is filled in by the second
        before, after = self._lending.command(mark).rsplit(mark, 1)
        return f"{_literal(before)}{mark}{_literal(after)}"

    def _get_launch_command(self, block_id: str) -> str:
        if self._lending is not None:
            self._lending.block = block_id
        command = str(super()._get_launch_command(block_id))
        if self._container is None:
            return command
        line = self.in_container(command)
        return guarded(line, self._container, self.run_dir, self._endpoint_id, block_id)

    def in_container(self, command: str) -> str:
        """The container's line around a command; the command itself without a container.

        Worker sets are made outside of the run directory, so they are mounted where there are any.
        """
        if self._container is None:
            return command
        sets = None if self._lending is None else self._lending.sets
        mounts = [str(sets)] if sets is not None and sets.is_dir() else []
        return self._container.wrap(command, self.run_dir, read_only=mounts)

    # -- tasks: the submit thread --------------------------------------------------------------

    def dispatch(self, number: int, context: Mapping[str, Any], buffer: bytes) -> bool:
        """Send a message to whichever worker is next; `number` comes back with the answer.

        Returns:
            False when the interchange is gone and nothing was sent.
        """
        self._task_counter += 1
        return self._put({"task_id": number, "context": context, "buffer": buffer})

    def request(self, verb: str, **what: Any) -> bool:
        """Ask the interchange for something; see `cep.engines.interchange`.

        Returns:
            False when the interchange is gone and nothing was sent.
        """
        return self._put({"cep": verb, **what})

    def _put(self, message: Mapping[str, Any]) -> bool:
        if self._unheard:
            return False
        try:
            self._link.tasks.send(pickle.dumps(message))
        except zmq.Again:
            self._unheard = True
        return not self._unheard

    def refusal(self, specification: object) -> str | None:
        """Say why a resource specification cannot be had here, or None when it can."""
        if not isinstance(specification, dict):
            return (
                f"The resource specification must be a mapping, not {type(specification).__name__}."
            )
        try:
            self.validate_resource_spec(specification)
        except InvalidResourceSpecification as error:
            keys = ", ".join(sorted(map(str, error.invalid_keys)))
            return (
                f"GlobusComputeEngine cannot meet this task's resource_specification: it has the "
                f"unknown keys {keys}; known is only: priority."
            )
        priority = specification.get("priority", 0)
        if isinstance(priority, bool) or not isinstance(priority, int | float):
            return (
                "The priority in the task's resource_specification must be a number, "
                f"not {priority!r}."
            )
        return None

    # -- answers: the results thread -----------------------------------------------------------

    def listen(self, take: Callable[[Sequence[Received]], None]) -> bool:
        """Hand over batches of messages until the interchange dies or `stop_listening`.

        Returns:
            True when the interchange died; all it had sent was handed over.
        """
        socket = self._link.results
        poller = zmq.Poller()
        for source in (socket, self._wake_read, self._process.life):
            poller.register(source, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if batch := self._read_batch(socket):
                take(batch)
            if self._wake_read in ready:
                return False
            if self._process.life in ready and not batch:
                self._unheard = True
                return True

    def _read_batch(self, socket: Any) -> list[Received]:
        batch: list[Received] = []
        with contextlib.suppress(zmq.Again):
            while len(batch) < 1000:
                data = socket.recv(zmq.NOBLOCK)
                try:
                    batch.append(read_message(data))
                except (pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
                    log.error(
                        "unreadable message from the interchange: %s",
                        error,
                        extra={"event": "htex.unreadable-message"},
                    )
        return batch

    def stop_listening(self) -> None:
        """Let `listen` return; from any thread."""
        if self._wake_write >= 0:
            os.write(self._wake_write, b"w")

    # -- blocks: the block thread --------------------------------------------------------------

    def launch_block(self, block: str) -> str:
        """Submit a block to the provider.

        Returns:
            The provider's id of the job.
        """
        if self._lending is not None:
            self._lending.forget(block)
        return str(self._launch_block(block))

    def refusal_of(self, block: str) -> Refusal | None:
        """Why the Python of a block that failed cannot run tasks; None when it does not say so."""
        return None if self._lending is None else self._lending.refusal(block)

    def job_words(self, jobs: Sequence[str]) -> Sequence[JobWord]:
        """Ask the provider about jobs, all at once; in the scheduler's own words where it can."""
        if hasattr(self.provider, "words"):
            words: Sequence[JobWord] = self.provider.words(jobs)
            return words
        return [_word_of(status) for status in self.provider.status(list(jobs))]

    def end_leftovers(self) -> None:
        """Cancel jobs that earlier lives of the endpoint have left, where they can be told."""
        if hasattr(self.provider, "end_leftovers"):
            self.provider.end_leftovers()

    @property
    def expected_workers_per_node(self) -> int:
        """How many workers a node will have, as far as the configuration tells."""
        return int(self._workers_per_node)

    @property
    def tasks_sent(self) -> int:
        """Messages sent so far."""
        return int(self._task_counter)

    def last_words(self) -> str:
        """The last lines that the interchange wrote."""
        return self._process.last_words()

    # -- the end -------------------------------------------------------------------------------

    def end(self, timeout_s: float) -> None:
        """End the interchange and close all sockets; safe after a failed start and twice."""
        self._process.end(timeout_s)
        self._link.close()
        for descriptor in (self._wake_read, self._wake_write):
            if descriptor >= 0:
                os.close(descriptor)
        self._wake_read = self._wake_write = -1


def _word_of(status: JobStatus) -> JobWord:
    """What Parsl says of a job. That it is lost to its provider (UNKNOWN) ends nothing."""
    return JobWord(
        status.status_name,
        status.message or "",
        exit_code=status.exit_code,
        stderr_path=status.stderr_path,
    )


def _literal(text: str) -> str:
    """The text so that it is itself again after Parsl has formatted the template twice."""
    return text.replace("{", "{{{{").replace("}", "}}}}")
