"""One life of the interchange: the threads that talk to it, and what was given to it.

Owns the executor, the scaler and two threads: `htex-submit` is the only one that sends to the
interchange, `htex-results` reads from it and notices its death (the scaler has a third). When the
interchange dies the session is over and the engine makes another one.

A message to a worker is a *flight*: one task, or several tiny ones. At most two flights per worker
are under way; what the agent gave beyond that waits in `_line`.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cep.config.settings import HtexSettings
from cep.engines import ahead, htex_report, scaling
from cep.engines.base import EngineEvent, Outcomes, SlotsChanged, WaitingRefused
from cep.engines.blocks import ScalingRules
from cep.engines.breaker import BlockBreaker
from cep.engines.coalescing import Coalescer
from cep.engines.htex_executor import Executor, Received
from cep.engines.htex_report import Manager
from cep.engines.htex_task import ENTRY, pack_bodies, place_of, unpack_answers
from cep.engines.memory_limit import MemoryLimit
from cep.engines.scaler import Scaler, Wires
from cep.model import EngineStatus, Outcome, OutcomeKind, Place, Task
from cep.wire.result import BLOCK_LOST, TASK_REFUSED, WORKER_LOST
from cep.worker import versions
from cep.worker.slots import begun_seqs

log = logging.getLogger(__name__)

FLIGHTS_PER_WORKER = 2


@dataclass(frozen=True, slots=True)
class _Loss:
    """Tasks that were lost with a block, for which the scheduler's word is waited for."""

    tasks: tuple[Task, ...]
    sentence: str
    place: Place


class Session:
    """See the module's docstring.

    Args:
        executor: Started; this session ends it.
        rules: How many blocks when.
        breaker: When to ask for no more of them.
        provider_type: The provider's name in the configuration.
        expected_workers_per_node: Until the first node has come.
        context: The fields of `WorkerContext`, for each message.
        slots_directory: Where workers mark begun tasks, or None.
        coalesce: Tiny tasks may travel together.
        deliver: Takes events, from any thread.
        died: Called, from one of the session's threads, when it cannot go on; what the
            interchange had sent was delivered before.

    Attributes:
        why_it_died: A sentence, once it cannot go on.
    """

    def __init__(
        self,
        executor: Executor,
        rules: ScalingRules,
        breaker: BlockBreaker,
        *,
        provider_type: str,
        expected_workers_per_node: int,
        context: tuple[Any, ...],
        slots_directory: Path | None,
        coalesce: bool,
        deliver: Callable[[EngineEvent], None],
        died: Callable[[Session], None],
    ) -> None:
        self._executor = executor
        self._provider = executor.provider
        self._provider_type = provider_type
        self._context = context
        self._slots_directory = slots_directory
        self._memory_limit = MemoryLimit()
        self._deliver = deliver
        self._died = died
        self._lock = threading.Lock()  # around everything below but the queue
        self._coalescer = Coalescer(coalesce)
        self._line: deque[Task] = deque()
        self._specifications: dict[int, dict[str, Any]] = {}  # by sequence number
        self._flights: dict[int, tuple[Task, ...]] = {}
        self._flight_of: dict[int, int] = {}  # sequence number -> flight
        self._unexplained: dict[str, list[_Loss]] = {}  # lost block -> what was lost with it
        self._last_flight = 0
        self._waiting = 0
        self._answered = 0
        self._idle_since = time.monotonic()
        self._managers: dict[str, Manager] = {}
        self._slots = 0
        self._size = 1  # tasks per flight that the window counts with
        self._closed = False
        self.why_it_died = ""
        self._outbox: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._send_all, name="htex-submit"),
            threading.Thread(target=self._receive_all, name="htex-results"),
        ]
        watched = hasattr(self._provider, "ended")
        self._scaler = Scaler(
            rules,
            executor,
            breaker,
            Wires(
                cancel=self._provider.cancel,
                forget=getattr(self._provider, "forget", _nothing),
                request=self._request,
                refuse=self._refuse,
                explain=self._explain,
                end_workers=getattr(self._provider, "end_workers", _nothing),
                failed=self._break,
            ),
            watched=watched,
            expected_workers_per_node=expected_workers_per_node,
        )
        if watched:
            self._provider.ended = lambda job: self._scaler.tell("ended", job)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()
        self._scaler.start()

    # -- the agent's verbs ---------------------------------------------------------------------

    def submit(self, tasks: Sequence[Task], waiting: int) -> None:
        """Take tasks, and the number of those that wait behind them."""
        refused: list[Outcome] = []
        with self._lock:
            self._waiting = waiting
            for task in tasks:
                specification, why = self._specification(task)
                if why is not None:
                    refused.append(_refused(task, why))
                    continue
                if specification:
                    self._specifications[task.seq] = specification
                self._line.append(task)
            self._coalescer.came(tasks)
            self._tell_demand()
        if tasks:
            self._outbox.put(("send", None))
        if refused:
            self._deliver(Outcomes(tuple(refused)))

    def _specification(self, task: Task) -> tuple[dict[str, Any], str | None]:
        if task.resource_specification is None:
            return {}, None
        try:
            specification = json.loads(task.resource_specification)
        except (ValueError, RecursionError) as error:
            return {}, f"The task's resource_specification is not JSON: {error}."
        if not specification:
            return {}, None
        return specification, self._executor.refusal(specification)

    def cancel(self, seqs: Sequence[int]) -> None:
        """Hand back what waits here, and ask the interchange for what waits there."""
        wanted = set(seqs)
        with self._lock:
            held = [task for task in self._line if task.seq in wanted]
            self._line = deque(task for task in self._line if task.seq not in wanted)
            flights = {self._flight_of[seq] for seq in wanted if seq in self._flight_of}
            self._tell_demand()
        if held:
            self._deliver(Outcomes(_not_begun(held)))
        if flights:
            self._request("cancel", ids=sorted(flights))

    def beat(self, echo: Callable[[], None]) -> None:
        """Have the submit thread call this when it comes round."""
        self._outbox.put(("beat", echo))

    def pause_blocks(self, paused: bool) -> None:
        """Ask for no more blocks, or ask for them again."""
        self._scaler.tell("pause" if paused else "resume")

    def rescale(self, settings: HtexSettings) -> None:
        """Use other numbers of blocks and other times for them."""
        scaling.put(settings, self._provider)
        self._scaler.tell("rules", scaling.rules(settings, self._provider))

    def _request(self, verb: str, **what: Any) -> None:
        self._outbox.put((verb, what))

    def _tell_demand(self) -> None:
        """Tell the scaler how much there is to do. The lock is held."""
        unfinished = self._unfinished()
        if unfinished == 0:
            self._idle_since = time.monotonic()
        self._scaler.tell_demand(unfinished + self._waiting, self._answered)

    def _unfinished(self) -> int:
        return len(self._line) + len(self._flight_of)

    # -- the submit thread ---------------------------------------------------------------------

    def _send_all(self) -> None:
        try:
            while (item := self._outbox.get()) is not None:
                verb, what = item
                if verb == "send":
                    self._send_flights()
                elif verb == "beat":
                    what()
                else:
                    self._executor.request(verb, **what)
        except Exception as error:
            log.exception("the submit thread failed", extra={"event": "htex.submit-failed"})
            self._break(f"The thread that sends tasks failed: {error!r}.")

    def _send_flights(self) -> None:
        while (flight := self._next_flight()) is not None:
            number, tasks, specification, short = flight
            described = tuple((task.seq, task.task_id, task.result_serializers) for task in tasks)
            directory = None if self._slots_directory is None else str(self._slots_directory)
            arguments = (described, self._context, directory)
            context: dict[str, Any] = {"task_executor": {"f": ENTRY, "a": arguments, "k": {}}}
            if specification:
                context["resource_spec"] = specification
            elif short and directory is not None:
                context[ahead.SHORT] = True
            buffer = pack_bodies([task.body for task in tasks])
            if not self._executor.dispatch(number, context, buffer):
                with self._lock:
                    self._take_off(number)
                    self._line.extendleft(reversed(tasks))
                return

    def _next_flight(self) -> tuple[int, tuple[Task, ...], dict[str, Any], bool] | None:
        with self._lock:
            room = FLIGHTS_PER_WORKER * self._workers() - len(self._flights)
            if room <= 0 or not self._line or self._closed:
                return None
            tasks = tuple(self._coalescer.cut(self._line, room))
            self._last_flight += 1
            number = self._last_flight
            # What flies is told apart by its number; a window of large bodies is not held twice.
            self._flights[number] = tuple(task._replace(body=b"") for task in tasks)
            self._flight_of.update((task.seq, number) for task in tasks)
            specification = self._specifications.pop(tasks[0].seq, {})
            return number, tasks, specification, self._coalescer.short(tasks)

    def _workers(self) -> int:
        """Workers that may be given tasks. The lock is held."""
        return sum(manager.workers for manager in self._managers.values() if not manager.draining)

    # -- the results thread --------------------------------------------------------------------

    def _receive_all(self) -> None:
        try:
            died = self._executor.listen(self._take)
        except Exception as error:
            log.exception("the results thread failed", extra={"event": "htex.results-failed"})
            self._break(f"The thread that takes results failed: {error!r}.")
            return
        if died:
            words = self._executor.last_words()
            self._break(f"Parsl's interchange ended unexpectedly{f': {words}' if words else ''}.")

    def _break(self, why: str) -> None:
        """This session cannot go on; from any of its threads."""
        with self._lock:
            self.why_it_died = self.why_it_died or why
        self._died(self)

    def _take(self, batch: Sequence[Received]) -> None:
        outcomes: list[Outcome] = []
        with self._lock:
            for message in batch:
                if message.event is not None:
                    outcomes += self._note(message.event)
                else:
                    outcomes += self._land(message)
            self._answered += sum(outcome.kind is OutcomeKind.DONE for outcome in outcomes)
            size = self._coalescer.size_now()
            narrower, self._size = size < self._size, size
            slots = FLIGHTS_PER_WORKER * self._workers() * size
            changed, self._slots = slots != self._slots, slots
            if outcomes:
                self._tell_demand()
            if narrower:
                outcomes += _not_begun(self._surplus())
            more = bool(self._line)
        if outcomes:
            self._deliver(Outcomes(tuple(outcomes)))
        if changed:
            self._deliver(SlotsChanged(slots, firm=slots // size))
        if more:
            self._outbox.put(("send", None))

    def _surplus(self) -> list[Task]:
        """Take what waits here beyond a window that became narrower. The lock is held."""
        surplus: list[Task] = []
        while self._line and self._unfinished() > self._slots:
            task = self._line.pop()
            self._specifications.pop(task.seq, None)
            surplus.append(task)
        return surplus

    def _land(self, message: Received) -> list[Outcome]:
        """What the answer to one flight means for its tasks. The lock is held."""
        if self._closed and message.kind != "done":
            return []  # `end` has the better reason
        tasks = self._take_off(message.task)
        if message.kind == "back":
            return list(_not_begun(tasks))
        if message.kind != "done":
            unlike = htex_report.unlike(list(self._managers.values()), versions.own())
            reason = f"{self._with_limit(message.reason)}{unlike}"
            return self._lost(tasks, WORKER_LOST, reason)
        try:
            answers = unpack_answers(message.frame)
            if len(answers) != len(tasks):
                raise ValueError(f"{len(answers)} answers came for {len(tasks)} tasks.")
        except ValueError as error:
            return self._lost(tasks, WORKER_LOST, f"The worker's answer is of no use: {error}")
        outcomes = []
        place = self._place(message.frame)
        for task, answer in zip(tasks, answers, strict=True):
            if answer.begun:
                self._coalescer.ran(task.function_id, answer.run_time_s)
                outcomes.append(
                    Outcome(
                        task.seq,
                        OutcomeKind.DONE,
                        answer.result,
                        run_s=answer.run_time_s,
                        place=place,
                    )
                )
            else:
                outcomes.append(Outcome(task.seq, OutcomeKind.NOT_BEGUN))
        return outcomes

    def _place(self, frame: bytes) -> Place | None:
        """Where an answer's tasks ran. What a worker says of itself is made sure to be short."""
        try:
            block, host, pid = place_of(frame)
        except ValueError:
            return None
        return Place(node=host[:255], worker=pid[:20], block=block[:20], job=self._job_of(block))

    def _job_of(self, block: str) -> str:
        blocks = self._scaler.picture.blocks
        return next((str(one["job"]) for one in blocks if one["block"] == block), "")

    def _take_off(self, flight: int) -> tuple[Task, ...]:
        tasks = self._flights.pop(flight, ())
        for task in tasks:
            self._flight_of.pop(task.seq, None)
        return tasks

    def _lost(
        self, tasks: Sequence[Task], code: str, reason: str, place: Place | None = None
    ) -> list[Outcome]:
        """Tasks whose worker is gone: lost, but for those that no worker marked as begun."""
        begun = None if self._slots_directory is None else begun_seqs(self._slots_directory)
        return [
            Outcome(task.seq, OutcomeKind.LOST, code=code, reason=reason, place=place)
            if begun is None or task.seq in begun
            else Outcome(task.seq, OutcomeKind.NOT_BEGUN)
            for task in tasks
        ]

    def _with_limit(self, reason: str) -> str:
        """The reason of a loss, and whether our service's memory limit was behind it."""
        local = self._slots_directory is not None
        return " ".join([reason, *(filter(None, [self._memory_limit.killed()]) if local else ())])

    def _note(self, event: Any) -> Iterable[Outcome]:
        """Something that the interchange tells. The lock is held."""
        what = event["event"]
        if what == "registered":
            manager = Manager(event["block"], event["workers"], event)
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
            blocks = set(event["blocks"])
            self._managers = {
                name: manager
                for name, manager in self._managers.items()
                if manager.block not in blocks
            }
            self._scaler.tell("retired", event["blocks"])
        elif what == "cancelled":
            return _not_begun([task for flight in event["ids"] for task in self._take_off(flight)])
        return ()

    def _lose(self, event: Any) -> list[Outcome]:
        manager = self._managers.pop(event["manager"], None)
        self._scaler.tell("gone", event["manager"])
        if self._closed:
            return []  # `end` has the better reason
        host = "" if manager is None else f" on host {manager.facts['host']}"
        block = str(event["block"])
        node = "" if manager is None else str(manager.facts["host"])
        place = Place(node=node, block=block, job=self._job_of(block))
        sentence = self._with_limit(
            f"The block that ran the task was lost (block {event['block']}{host})."
        )
        tasks = [task for flight in event["ids"] for task in self._take_off(flight)]
        if tasks:
            self._unexplained.setdefault(block, []).append(_Loss(tuple(tasks), sentence, place))
            self._scaler.tell("lost", block)
        return []

    def _explain(self, block: str, end: str) -> None:
        """The block thread says how a block ended, or (with an empty text) that nobody knows."""
        with self._lock:
            losses = self._unexplained.pop(block, [])
            self._tell_demand()
            outcomes = [
                outcome
                for loss in losses
                for outcome in self._lost(
                    loss.tasks,
                    BLOCK_LOST,
                    f"BLOCK_LOST ({end}): {loss.sentence}" if end else loss.sentence,
                    loss.place,
                )
            ]
        if outcomes:
            self._deliver(Outcomes(tuple(outcomes)))

    def _refuse(self, reason: str) -> None:
        self._deliver(WaitingRefused(reason))

    # -- status --------------------------------------------------------------------------------

    def status(self) -> EngineStatus:
        """A picture of now."""
        picture = self._scaler.picture
        with self._lock:
            managers = list(self._managers.values())
            given = self._unfinished()
            idle_s = 0.0 if given else time.monotonic() - self._idle_since
        workers = sum(manager.workers for manager in managers)
        idle = max(0, workers - given)
        return EngineStatus(
            slots=self._slots,
            workers=workers,
            idle_workers=idle,
            report=htex_report.report(
                self._executor, self._provider_type, picture, managers, given=given, idle_s=idle_s
            ),
            blocks=picture.blocks,
            ended_blocks=picture.ended,
            breaker=picture.breaker,
            silence=picture.silence,
            summary=htex_report.summary(picture, self._provider.max_blocks, workers, idle),
        )

    # -- the end -------------------------------------------------------------------------------

    def end(self, deadline_s: float, code: str, reason: str) -> None:
        """Cancel the blocks, end the interchange and the threads, and settle what is left.

        Not from one of its own threads.

        Args:
            deadline_s: Seconds that it may take.
            code: Error code for tasks that may have begun.
            reason: The sentence for them.
        """
        until = time.monotonic() + deadline_s
        with self._lock:
            self._closed = True
        blocks_gone = self._scaler.stop(deadline_s)
        self._outbox.put(None)
        self._executor.stop_listening()
        for thread in self._threads:
            thread.join()
        self._executor.end(max(0.5, until - time.monotonic()))
        if blocks_gone and hasattr(self._provider, "close"):
            self._provider.close()
        with self._lock:
            flying = [task for tasks in self._flights.values() for task in tasks]
            outcomes = [*_not_begun(self._line), *self._lost(flying, code, reason)]
            for losses in self._unexplained.values():
                for loss in losses:
                    outcomes += self._lost(loss.tasks, BLOCK_LOST, loss.sentence, loss.place)
            self._unexplained.clear()
            self._line.clear()
            self._flights.clear()
            self._flight_of.clear()
        if outcomes:
            self._deliver(Outcomes(tuple(outcomes)))


def _nothing(job: str) -> None:
    del job


def _not_begun(tasks: Iterable[Task]) -> tuple[Outcome, ...]:
    return tuple(Outcome(task.seq, OutcomeKind.NOT_BEGUN) for task in tasks)


def _refused(task: Task, why: str) -> Outcome:
    return Outcome(task.seq, OutcomeKind.REFUSED, code=TASK_REFUSED, reason=why)
