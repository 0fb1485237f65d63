"""One life of the interchange: the threads that talk to it, and what was given to it.

Owns the executor, the provider, the scaler and three threads: `htex-submit` is the only one that
sends to the interchange, `htex-results` reads from it and notices its death, `htex-blocks` is the
scaler's. When the interchange dies the session is over and the engine makes another one.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import psutil

from cep.config.settings import HtexSettings
from cep.engines import worker_logs
from cep.engines.base import EngineEvent, EngineRun, Outcomes, SlotsChanged
from cep.engines.blocks import ScalingRules
from cep.engines.containers import container_of
from cep.engines.htex_executor import Executor, Received
from cep.engines.htex_task import ENTRY, pack_bodies, unpack_answers
from cep.engines.providers import (
    LOCAL,
    address_of,
    htex_arguments,
    provider_of,
    workers_on_this_host,
)
from cep.engines.scaler import Scaler
from cep.errors import CepError, ConfigError, EngineError
from cep.model import EngineStatus, Outcome, OutcomeKind, Task
from cep.wire.result import BLOCK_LOST, TASK_REFUSED, WORKER_LOST
from cep.worker.context import WorkerContext

log = logging.getLogger(__name__)

DEFAULT_LABEL = "GlobusComputeEngine"
SLOTS_PER_WORKER = 2
#: Environment variable that marks all processes of one endpoint, by its run directory.
MARK_VARIABLE = "CEP_ENDPOINT_DIR"


@dataclass(slots=True)
class _Manager:
    """A manager that is connected, as its registration said."""

    block: str
    workers: int
    facts: dict[str, Any]
    draining: bool = False


class Session:
    """See the module's docstring.

    Args:
        settings: The engine's configuration.
        run: The endpoint it works for.
        deliver: Takes events, from any thread.
        died: Called on the results thread when the interchange is gone and all that it had sent
            was delivered.
    """

    def __init__(
        self,
        settings: HtexSettings,
        run: EngineRun,
        deliver: Callable[[EngineEvent], None],
        died: Callable[[Session], None],
    ) -> None:
        self._settings = settings
        self._run = run
        self._deliver = deliver
        self._died = died
        self._lock = threading.Lock()
        self._outbox: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._number = 0
        self._flights: dict[int, tuple[int, ...]] = {}  # message number -> sequence numbers
        self._number_of: dict[int, int] = {}  # sequence number -> message number
        self._queued = 0  # taken by `submit`, not yet sent
        self._waiting = 0
        self._answered = 0
        self._idle_since = time.monotonic()
        self._managers: dict[str, _Manager] = {}
        self._slots = 0
        self._threads: list[threading.Thread] = []
        self.born = time.monotonic()

    # -- start ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the interchange and the threads.

        Raises:
            ConfigError: The settings cannot work; nothing was started.
            EngineError: The interchange did not come up; nothing is left of it.
        """
        settings, run = self._settings, self._run
        run_dir = run.run_dir.resolve()
        mark = {MARK_VARIABLE: str(run_dir), "SPT_NOENV": "1"}
        container = container_of(settings)
        arguments = htex_arguments(settings)
        self._provider = provider_of(settings, mark=mark, run_dir=run_dir)
        label = settings.label or DEFAULT_LABEL
        try:
            self._executor = Executor(
                mark=mark,
                local=settings.provider.type == LOCAL,
                container=container,
                run_dir=run_dir,
                label=f"{label}-HighThroughputExecutor",
                provider=self._provider,
                address=address_of(settings, container),
                encrypted=settings.encrypted,
                heartbeat_period=settings.heartbeat_period,
                heartbeat_threshold=settings.heartbeat_threshold,
                poll_period=settings.poll_period,
                **arguments,
            )
        except CepError:
            raise
        except Exception as error:
            raise ConfigError(f"The engine cannot be made from its settings: {error}") from error
        worker_logs.prune(Path(self._executor.worker_logdir), Path(self._provider.script_dir))
        self._context = astuple(self._worker_context(run_dir))
        self._slots_directory = self._start_slots()
        try:
            self._executor.start()
        except Exception as error:
            self._executor.end(1.0)
            if isinstance(error, CepError):
                raise
            raise EngineError(f"Parsl's interchange could not be started: {error}") from error
        self._scaler = self._make_scaler()
        self._start_threads()

    def _worker_context(self, run_dir: Path) -> WorkerContext:
        settings = self._settings
        return WorkerContext(
            endpoint_id=self._run.endpoint_id,
            working_dir=str(run_dir / Path(settings.working_dir).expanduser()),
            run_in_sandbox=settings.run_in_sandbox,
            result_size_limit=settings.result_size_limit,
            allowed_serializers=settings.allowed_serializers,
            oversized_dir=str(self._run.oversized_results.absolute()),
        )

    def _start_slots(self) -> str | None:
        if self._run.start_slots is None or not workers_on_this_host(self._settings):
            return None
        return str(self._run.start_slots.absolute())

    def _make_scaler(self) -> Scaler:
        settings, provider = self._settings, self._provider
        watched = hasattr(provider, "ended")
        scaler = Scaler(
            ScalingRules(
                init_blocks=provider.init_blocks,
                min_blocks=provider.min_blocks,
                max_blocks=provider.max_blocks,
                parallelism=provider.parallelism,
                nodes_per_block=provider.nodes_per_block,
                strategy=settings.strategy,
                max_idle_s=settings.max_idletime_s,
                period_s=settings.strategy_period_s,
            ),
            self._executor,
            cancel=provider.cancel,
            forget=getattr(provider, "forget", lambda job: None),
            request=self._request,
            watched=watched,
            expected_workers_per_node=self._expected_workers(),
        )
        if watched:
            provider.ended = lambda job: scaler.tell("ended", job)
        return scaler

    def _expected_workers(self) -> int:
        expected = self._executor.expected_workers_per_node
        if self._settings.provider.type == LOCAL and "max_workers_per_node" not in dict(
            self._settings.htex
        ):
            cores = psutil.cpu_count() or 1
            return max(expected, int(cores / self._executor.cores_per_worker))
        return expected

    def _start_threads(self) -> None:
        for name, target in (
            ("htex-submit", self._send_all),
            ("htex-results", self._receive_all),
        ):
            thread = threading.Thread(target=target, name=name)
            self._threads.append(thread)
            thread.start()
        self._scaler.start()

    # -- the agent's verbs ---------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task], waiting: int) -> None:
        """Take tasks, and the number of those that wait behind them."""
        with self._lock:
            self._queued += len(tasks)
            self._waiting = waiting
            self._tell_demand()
        if tasks:
            self._outbox.put(("tasks", tasks))

    def cancel(self, seqs: Sequence[int]) -> None:
        """Ask for tasks that no worker has yet."""
        self._outbox.put(("cancel", seqs))

    def _request(self, verb: str, **what: Any) -> None:
        self._outbox.put(("request", (verb, what)))

    def _tell_demand(self) -> None:
        """Tell the scaler how much there is to do. The lock is held."""
        unfinished = self._queued + len(self._number_of)
        demand = unfinished + self._waiting
        if unfinished == 0:
            self._idle_since = time.monotonic()
        self._scaler.tell_demand(demand, self._answered)

    # -- the submit thread ---------------------------------------------------------------------

    def _send_all(self) -> None:
        try:
            while (item := self._outbox.get()) is not None:
                kind, what = item
                if kind == "tasks":
                    self._send_tasks(what)
                elif kind == "cancel":
                    self._send_cancel(what)
                else:
                    verb, details = what
                    self._executor.request(verb, **details)
        except Exception:
            log.exception("the submit thread failed", extra={"event": "htex.submit-failed"})

    def _send_tasks(self, tasks: Sequence[Task]) -> None:
        refused: list[Outcome] = []
        for task in tasks:
            specification, why = self._specification(task)
            if why is not None:
                refused.append(
                    Outcome(task.seq, OutcomeKind.REFUSED, code=TASK_REFUSED, reason=why)
                )
                continue
            self._send([task], specification)
        if refused:
            with self._lock:
                self._queued -= len(refused)
                self._tell_demand()
            self._deliver(Outcomes(tuple(refused)))

    def _specification(self, task: Task) -> tuple[dict[str, Any], str | None]:
        if task.resource_specification is None:
            return {}, None
        try:
            specification = json.loads(task.resource_specification)
        except ValueError as error:
            return {}, f"The resource specification is not JSON: {error}."
        if not specification:
            return {}, None
        return specification, self._executor.refusal(specification)

    def _send(self, tasks: Sequence[Task], specification: dict[str, Any]) -> None:
        described = tuple((task.seq, task.task_id, task.result_serializers) for task in tasks)
        context: dict[str, Any] = {
            "task_executor": {
                "f": ENTRY,
                "a": (described, self._context, self._slots_directory),
                "k": {},
            }
        }
        if specification:
            context["resource_spec"] = specification
        seqs = tuple(task.seq for task in tasks)
        with self._lock:
            self._number += 1
            number = self._number
            self._flights[number] = seqs
            self._number_of.update(dict.fromkeys(seqs, number))
            self._queued -= len(seqs)
        self._executor.dispatch(number, context, pack_bodies([task.body for task in tasks]))

    def _send_cancel(self, seqs: Sequence[int]) -> None:
        with self._lock:
            numbers = {self._number_of[seq] for seq in seqs if seq in self._number_of}
        if numbers:
            self._executor.request("cancel", ids=sorted(numbers))

    # -- the results thread --------------------------------------------------------------------

    def _receive_all(self) -> None:
        try:
            died = self._executor.listen(self._take)
        except Exception:
            log.exception("the results thread failed", extra={"event": "htex.results-failed"})
            died = True
        if died and not self._closed:
            self._died(self)

    def _take(self, batch: Sequence[Received]) -> None:
        outcomes: list[Outcome] = []
        slots = self._slots
        with self._lock:
            for message in batch:
                if message.kind == "event":
                    assert message.event is not None
                    outcomes += self._note(dict(message.event))
                else:
                    outcomes += self._land(message)
            self._slots = SLOTS_PER_WORKER * sum(
                manager.workers for manager in self._managers.values() if not manager.draining
            )
            self._answered += sum(outcome.kind is OutcomeKind.DONE for outcome in outcomes)
            if outcomes:
                self._tell_demand()
            if self._slots != slots:
                self._deliver(SlotsChanged(self._slots))
        if outcomes:
            self._deliver(Outcomes(tuple(outcomes)))

    def _land(self, message: Received) -> list[Outcome]:
        """The answer to one message. The lock is held."""
        seqs = self._take_off(message.task)
        if message.kind == "done":
            try:
                answers = unpack_answers(message.frame)
                if len(answers) != len(seqs):
                    raise ValueError(f"{len(answers)} answers came for {len(seqs)} tasks.")
            except ValueError as error:
                return _lost(seqs, WORKER_LOST, f"The worker's answer cannot be used: {error}")
            return [
                Outcome(seq, OutcomeKind.DONE, answer.result)
                if answer.begun
                else Outcome(seq, OutcomeKind.NOT_BEGUN)
                for seq, answer in zip(seqs, answers, strict=True)
            ]
        return _lost(seqs, WORKER_LOST, message.reason)

    def _take_off(self, number: int) -> tuple[int, ...]:
        seqs = self._flights.pop(number, ())
        for seq in seqs:
            self._number_of.pop(seq, None)
        return seqs

    def _note(self, event: dict[str, Any]) -> list[Outcome]:
        """Something that the interchange tells. The lock is held."""
        what = event["event"]
        if what == "registered":
            manager = _Manager(event["block"], event["workers"], event)
            self._managers[event["manager"]] = manager
            told = (event["manager"], manager.block, manager.workers)
            self._scaler.tell("registered", told)
        elif what == "draining":
            if event["manager"] in self._managers:
                self._managers[event["manager"]].draining = True
        elif what == "gone":
            return self._lose(event)
        elif what == "unreachable":
            self._scaler.tell("look")
        elif what == "retired":
            for manager in self._managers.values():
                manager.draining = manager.draining or manager.block in event["blocks"]
            self._scaler.tell("retired", event["blocks"])
        elif what == "cancelled":
            seqs = [seq for number in event["ids"] for seq in self._take_off(number)]
            return [Outcome(seq, OutcomeKind.NOT_BEGUN) for seq in seqs]
        return []

    def _lose(self, event: dict[str, Any]) -> list[Outcome]:
        manager = self._managers.pop(event["manager"], None)
        self._scaler.tell("gone", event["manager"])
        host = "" if manager is None else f" on host {manager.facts['host']}"
        reason = f"The block that ran the task was lost (block {event['block']}{host})."
        return [
            outcome
            for number in event["ids"]
            for outcome in _lost(self._take_off(number), BLOCK_LOST, reason)
        ]

    # -- status --------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        """A picture of now."""
        picture = self._scaler.picture
        with self._lock:
            managers = list(self._managers.values())
            given = self._queued + len(self._number_of)
            idle_s = 0.0 if given else time.monotonic() - self._idle_since
        workers = sum(manager.workers for manager in managers)
        idle = max(0, workers - given)
        return EngineStatus(
            slots=self._slots,
            workers=workers,
            idle_workers=idle,
            report=self._report(managers, given, idle, idle_s),
            blocks=picture.blocks,
            summary=self._summary(workers, idle),
        )

    def _report(
        self, managers: Sequence[_Manager], given: int, idle: int, idle_s: float
    ) -> dict[str, Any]:
        executor, provider = self._executor, self._provider
        jobs = {block["block"]: block["job"] for block in self._scaler.picture.blocks}
        nodes: dict[str, list[dict[str, Any]]] = {}
        for manager in managers:
            nodes.setdefault(jobs.get(manager.block, manager.block), []).append(
                {
                    "worker_count": manager.workers,
                    "idle_duration": idle_s,
                    "parsl_version": manager.facts["parsl_version"],
                    "endpoint_version": manager.facts["endpoint_version"],
                    "sdk_version": manager.facts["sdk_version"],
                    "python_version": manager.facts["python_version"],
                }
            )
        workers = sum(manager.workers for manager in managers)
        limit = executor.max_workers_per_node
        return {
            "managers": len(managers),
            "active_managers": sum(not manager.draining for manager in managers),
            "total_workers": workers,
            "idle_workers": idle,
            "pending_tasks": max(0, given - workers),
            "outstanding_tasks": given,
            "total_tasks": executor.tasks_sent,
            "scaling_enabled": provider.max_blocks > 0,
            "mem_per_worker": executor.mem_per_worker,
            "cores_per_worker": executor.cores_per_worker,
            "prefetch_capacity": executor.prefetch_capacity,
            "max_blocks": provider.max_blocks,
            "min_blocks": provider.min_blocks,
            "max_workers_per_node": None if limit == float("inf") else limit,
            "nodes_per_block": provider.nodes_per_block,
            "node_info": nodes,
            "engine_type": "GlobusComputeEngine",
            "provider_type": self._settings.provider.type,
            "queue": _first_of(provider, "queue", "partition"),
            "account": _first_of(provider, "account", "allocation", "project"),
        }

    def _summary(self, workers: int, idle: int) -> str:
        picture = self._scaler.picture
        head = f"blocks {picture.active}/{self._provider.max_blocks}"
        if workers:
            return f"{head}, {workers} workers, {idle} idle"
        if picture.trouble:
            return f"{head}, {picture.trouble}"
        if picture.active:
            return f"{head}, waiting for the first workers"
        return f"{head}, first starts with the first task"

    # -- the end -------------------------------------------------------------------------------

    def give_back_unsent(self) -> None:
        """End the submit thread; what it had not sent is handed back as not begun."""
        self._closed = True
        unsent: list[Outcome] = []
        held: list[tuple[str, Any]] = []
        while not self._outbox.empty():
            item = self._outbox.get()
            if item is not None:
                held.append(item)
        self._outbox.put(None)
        for kind, what in held:
            if kind == "tasks":
                unsent += [Outcome(task.seq, OutcomeKind.NOT_BEGUN) for task in what]
        if unsent:
            self._deliver(Outcomes(tuple(unsent)))

    def end(self, deadline_s: float) -> list[int]:
        """Cancel the blocks, end the interchange and the threads.

        Returns:
            Sequence numbers of the tasks that are still unanswered.
        """
        until = time.monotonic() + deadline_s
        self._closed = True
        scaler: Scaler | None = getattr(self, "_scaler", None)
        if scaler is not None:
            scaler.stop()
        self._outbox.put(None)
        if getattr(self, "_executor", None) is not None and self._threads:
            self._executor.stop_listening()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        if getattr(self, "_executor", None) is not None:
            self._executor.end(max(0.5, until - time.monotonic()))
        if hasattr(getattr(self, "_provider", None), "close"):
            self._provider.close()
        with self._lock:
            left = sorted(self._number_of)
            self._flights.clear()
            self._number_of.clear()
        return left

    def why_it_died(self) -> str:
        """The interchange's last words."""
        words = self._executor.last_words()
        return f"Parsl's interchange ended unexpectedly{f': {words}' if words else ''}."


def _lost(seqs: Sequence[int], code: str, reason: str) -> list[Outcome]:
    return [Outcome(seq, OutcomeKind.LOST, code=code, reason=reason) for seq in seqs]


def _first_of(provider: object, *names: str) -> str | None:
    for name in names:
        value = getattr(provider, name, None)
        if value:
            return str(value)
    return None
