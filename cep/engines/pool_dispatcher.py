"""The process engine's dispatcher thread: which worker gets which task, and what became of it.

It owns all state of the pool and waits on all sockets at once. Payloads pass through unopened.

A worker has the next task waiting in its socket while it runs one, so it never idles between two;
what it has not begun can be taken back, for a worker with nothing to do, for a cancel, or when it
dies. What it has begun stands in its start slots. So a dead worker costs only the task it ran.
"""

from __future__ import annotations

import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cep.config.settings import ProcessPoolSettings
from cep.engines.base import EngineDown, EngineEvent, Outcomes, SlotsChanged, Submission
from cep.engines.local import local_report, refuse_resources
from cep.engines.memory_limit import MemoryLimit
from cep.engines.pace import Pace
from cep.engines.pool_link import KILLED, PoolLink, Worker, ending, kill_and_wait
from cep.engines.pool_sharing import WINDOW, hand_out, refuse_long_names, take_for_idle
from cep.errors import EngineError
from cep.model import EngineStatus, Outcome, OutcomeKind, Place, Task
from cep.wire.result import WORKER_LOST
from cep.worker import packets

log = logging.getLogger(__name__)

ENGINE_TYPE = "ProcessPoolEngine"
_STARTS = 5  # workers in a row that end before they are ready, until the engine gives up
_BACK_OFF_S = 0.1  # after the first of them, doubled each time
_LONGEST_BACK_OFF_S = 30.0
_RETRY_S = 1.0  # after the host had no memory or descriptor for a hand-over


_ENDED = "was ended with the engine"


@dataclass(frozen=True, slots=True)
class Stop:
    """End the engine.

    Attributes:
        until: Deadline by the monotonic clock.
    """

    until: float


# Tasks, sequence numbers to cancel, or the end.
@dataclass(frozen=True, slots=True)
class Beat:
    """Call this when the thread comes round."""

    echo: Callable[[], None]


Command: TypeAlias = Submission | Sequence[int] | Stop | Beat


class Dispatcher:
    """What the dispatcher thread does; all of its state belongs to that thread.

    Args:
        settings: The `engine:` block.
        count: Number of workers.
        link: The open pool.
        slots: Directory of start slots.
        commands: What the main thread wants, in order.
        wake: An eventfd that says there is a command.
        deliver: Takes events.
    """

    def __init__(
        self,
        settings: ProcessPoolSettings,
        *,
        count: int,
        link: PoolLink,
        slots: Path,
        commands: deque[Command],
        wake: int,
        deliver: Callable[[EngineEvent], None],
    ) -> None:
        self._room = settings.max_tasks_per_child
        self._count = count
        self._link = link
        self._slots_dir = slots
        self._commands = commands
        self._wake = wake
        self._deliver = deliver
        self._pace = Pace(settings.coalesce)
        self._size = 1
        self._poll = select.epoll()
        self._workers: dict[int, Worker] = {}
        self._by_handle: dict[int, Worker] = {}
        self._pending: deque[Task] = deque()
        self._outcomes: list[Outcome] = []
        self._failed_starts = 0
        self._respawn_at: float | None = None
        self._to_spawn: list[int] = list(range(count))
        self._announced = 0
        self._retry_at: float | None = None
        self._stop: Stop | None = None
        self._down: str | None = None  # why the engine is finished
        self._memory_limit = MemoryLimit()

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """The thread: until `stop`, or until the pool cannot be mended."""
        try:
            self._poll.register(self._wake, select.EPOLLIN)
            self._watch_pool()
            while self._stop is None and self._down is None:
                self._turn()
        except Exception:
            log.exception("The process pool's thread failed", extra={"event": "engine.failed"})
            self._down = "its thread failed; the log has the traceback"
        try:
            self._end()
        except Exception:
            log.exception(
                "The process pool did not end in order", extra={"event": "engine.end_failed"}
            )
        if self._down is not None:
            self._deliver(EngineDown(f"The process pool is finished: {self._down}.", False))

    def _turn(self) -> None:
        self._spawn_due()
        self._fill()
        self._tell()
        due = min((at for at in (self._respawn_at, self._retry_at) if at is not None), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        pool_spoke = False
        control = self._link.control.fileno() if self._link.control is not None else -1
        for handle, _events in self._poll.poll(timeout):
            if handle == self._wake:
                os.eventfd_read(self._wake)
                self._obey()
            elif handle == control:
                pool_spoke = True
            else:
                self._hear(self._by_handle[handle])
        if pool_spoke:  # after the workers, whose last words shall count
            self._hear_pool()

    def _obey(self) -> None:
        while self._commands and self._stop is None:
            command = self._commands.popleft()
            if isinstance(command, Stop):
                self._stop = command
            elif isinstance(command, Submission):
                self._take(command.tasks)
            elif isinstance(command, Beat):
                command.echo()
            else:
                self._cancel(set(command))

    def _tell(self) -> None:
        """Deliver what has come together in this turn."""
        if self._outcomes:
            self._deliver(Outcomes(self._outcomes))
            self._outcomes = []
        if not self._announced and not any(w.pid for w in self._workers.values()):
            return
        slots = WINDOW * self._count * self._size
        if slots != self._announced:
            self._announced = slots
            self._deliver(SlotsChanged(slots, firm=WINDOW * self._count))

    def status(self) -> EngineStatus:
        """A picture of now, for another thread: reads only what cannot be half changed."""
        ready = [worker for worker in tuple(self._workers.values()) if worker.pid is not None]
        idle = sum(not worker.given for worker in ready)
        pending = len(self._pending)
        outstanding = pending + sum(len(worker.given) for worker in ready)
        return EngineStatus(
            slots=self._announced,
            workers=len(ready),
            idle_workers=idle,
            report=local_report(
                ENGINE_TYPE,
                workers=len(ready),
                most=self._count,
                pending=pending,
                outstanding=outstanding,
            ),
            summary=f"workers {len(ready) - idle}/{len(ready)} busy",
        )

    # -- tasks ---------------------------------------------------------------------------------

    def _take(self, tasks: Iterable[Task]) -> None:
        for task in tasks:
            refusal = refuse_resources(task, ENGINE_TYPE) or refuse_long_names(task)
            if refusal is None:
                self._pending.append(task)
            else:
                self._outcomes.append(refusal)

    def _cancel(self, seqs: set[int]) -> None:
        for worker in self._workers.values():
            if not seqs.isdisjoint(worker.given):
                self._pending.extendleft(reversed(worker.take_back()))
        kept: deque[Task] = deque()
        for task in self._pending:
            if task.seq in seqs:
                self._outcomes.append(Outcome(task.seq, OutcomeKind.NOT_BEGUN))
            else:
                kept.append(task)
        self._pending = kept

    def _fill(self) -> None:
        """Give waiting tasks to workers."""
        ready = [w for w in self._workers.values() if w.pid is not None and not w.leaving]
        self._retry_at = None
        if not self._pending:
            self._pending.extend(take_for_idle(ready))
        try:
            hand_out(self._pending, ready, self._pace)
        except OSError as exc:
            # A large body needs a file in memory, and the host has no descriptor or page left.
            log.warning(
                "A task cannot be handed to a worker now: %s",
                exc.strerror,
                extra={"event": "engine.hand_over_failed"},
            )
            self._retry_at = time.monotonic() + _RETRY_S

    # -- workers -------------------------------------------------------------------------------

    def _watch_pool(self) -> None:
        assert self._link.control is not None
        self._poll.register(self._link.control, select.EPOLLIN)

    def _spawn_due(self) -> None:
        if not self._to_spawn:
            return
        if self._respawn_at is not None and time.monotonic() < self._respawn_at:
            return
        self._respawn_at = None
        if self._link.control is None:
            try:
                self._link.open()
            except EngineError as exc:
                self._start_failed(str(exc))
                return
            self._watch_pool()
        fresh = [Worker(number, self._room, self._slots_dir) for number in self._to_spawn]
        self._to_spawn = []
        for worker in fresh:
            self._workers[worker.number] = worker
            self._by_handle[worker.sock.fileno()] = worker
            self._poll.register(worker.sock, select.EPOLLIN)
        self._link.spawn(fresh)

    def _hear(self, worker: Worker) -> None:
        """Take what a worker has sent."""
        worker.full = False
        for packet, handles in worker.receive():
            if worker.pid is None:
                packets.close_all(handles)
                worker.pid = packets.read_hello(packet)
                worker.place = Place(worker=str(worker.pid))
                self._failed_starts = 0
                continue
            try:
                for record in packets.read_results(packet, handles):
                    self._finished(worker, record)
            except ValueError as exc:
                log.error(
                    "Worker %d sent something that is no result (%s) and is replaced",
                    worker.number,
                    exc,
                    extra={"event": "engine.worker_garbled"},
                )
                self._link.kill(worker)
        if worker.room == 0 and not worker.given and not worker.leaving:
            worker.leave()

    def _finished(self, worker: Worker, record: packets.ResultRecord) -> None:
        task = worker.given.pop(record.seq, None)
        if task is None:
            raise ValueError(f"a result for task {record.seq}, which it does not have")
        self._outcomes.append(
            Outcome(
                task.seq,
                OutcomeKind.DONE,
                result=record.result,
                run_s=record.seconds,
                place=worker.place,
            )
        )
        self._size = self._pace.ran(task.function_id, record.seconds)

    def _hear_pool(self) -> None:
        for report in self._link.reports():
            if report is None:
                self._pool_gone()
                return
            if "exited" not in report:
                continue
            worker = self._workers.get(report["exited"])
            if worker is None:
                continue
            if "error" in report:
                how = f"could not be forked: {report['error']}"
            else:
                how = ending(os.waitstatus_to_exitcode(report["status"]))
            self._exited(worker, how)

    def _exited(self, worker: Worker, how: str) -> None:
        """Settle what a worker held that is no more, and have it replaced."""
        started = worker.pid is not None or self._said_hello(worker)
        self._settle(worker, how)
        if worker.leaving:
            log.debug("Worker %d has left", worker.number, extra={"event": "engine.worker_left"})
        elif started:
            log.warning(
                "Worker %d (process %s) %s and is replaced",
                worker.number,
                worker.pid,
                how,
                extra={"event": "engine.worker_lost", "pid": worker.pid},
            )
        self._to_spawn.append(worker.number)
        if not started:
            self._start_failed(f"worker {worker.number} {how} before it was ready")

    def _said_hello(self, worker: Worker) -> bool:
        """Hear a worker's last words; whether it had come up."""
        self._hear(worker)
        return worker.pid is not None

    def _settle(self, worker: Worker, how: str) -> None:
        """Hear a dead worker's last results; the rest is lost if begun, else waits again."""
        self._hear(worker)
        self._hear_unsent(worker)
        reason = f"The worker process {worker.pid} {how} while it ran the task."
        limit = self._memory_limit.killed()
        if limit and how == KILLED:
            reason += f" {limit}"
        unread = worker.take_back()
        begun = worker.begun()
        again = []
        for task in worker.given.values():
            if task.seq in begun:
                self._outcomes.append(
                    Outcome(
                        task.seq,
                        OutcomeKind.LOST,
                        code=WORKER_LOST,
                        reason=reason,
                        place=worker.place,
                    )
                )
            else:
                again.append(task)
        self._pending.extendleft(reversed([*again, *unread]))
        worker.given.clear()
        self._forget(worker)

    def _hear_unsent(self, worker: Worker) -> None:
        """Take the results a dead worker had ready and not sent."""
        try:
            for record in packets.read_results(packets.Stash.unsent(worker.stash), []):
                if record.seq in worker.given:
                    self._finished(worker, record)
        except ValueError:
            log.warning(
                "What worker %d had not sent cannot be read",
                worker.number,
                extra={"event": "engine.worker_garbled"},
            )

    def _forget(self, worker: Worker) -> None:
        self._poll.unregister(worker.sock)
        del self._by_handle[worker.sock.fileno()]
        del self._workers[worker.number]
        worker.close()

    def _pool_gone(self) -> None:
        """The process that makes workers died, and they with it."""
        assert self._link.control is not None
        self._poll.unregister(self._link.control)
        kill_and_wait([w.pid for w in self._workers.values() if w.pid is not None], 5.0)
        came_up = any(worker.pid is not None for worker in self._workers.values())
        how = ending(self._link.close(5.0))
        for worker in list(self._workers.values()):
            self._settle(worker, "was killed with the pool it belonged to")
        self._to_spawn = list(range(self._count))
        log.warning(
            "The pool process %s and is started again", how, extra={"event": "engine.pool_lost"}
        )
        if not came_up:
            self._start_failed(f"the pool process {how}")

    def _start_failed(self, why: str) -> None:
        self._failed_starts += 1
        pause = min(_BACK_OFF_S * 2 ** (self._failed_starts - 1), _LONGEST_BACK_OFF_S)
        log.warning(
            "A worker did not start (%d in a row): %s",
            self._failed_starts,
            why,
            extra={"event": "engine.worker_start_failed"},
        )
        # While others work, a place that stays empty (no more processes allowed, say) is no end.
        alone = not any(worker.pid is not None for worker in self._workers.values())
        if self._failed_starts >= _STARTS and alone:
            self._down = f"{self._failed_starts} workers in a row did not start; the last: {why}"
        else:
            self._respawn_at = time.monotonic() + pause

    # -- the end -------------------------------------------------------------------------------

    def _end(self) -> None:
        """End all workers; what they have begun is lost, and the rest was never begun."""
        until = self._stop.until if self._stop is not None else time.monotonic() + 5.0
        for worker in list(self._workers.values()):
            unread = worker.take_back()
            self._pending.extend(unread)
            if not worker.given and worker.pid is not None:
                worker.leave()
            elif self._link.control is not None:
                self._link.kill(worker)
        graceful = min(until, time.monotonic() + 2.0)
        while self._workers and self._link.control is not None:
            left = graceful - time.monotonic()
            if left <= 0:
                break
            for handle, _events in self._poll.poll(left):
                if handle == self._link.control.fileno():
                    self._last_reports()
                    break
                if handle == self._wake:
                    os.eventfd_read(self._wake)
                else:
                    self._hear(self._by_handle[handle])
        status = self._link.close(max(0.1, until - time.monotonic()))
        if status is not None and status < 0:  # it was killed before it saw its workers' end
            kill_and_wait([w.pid for w in self._workers.values() if w.pid is not None], 1.0)
        for worker in list(self._workers.values()):
            self._settle(worker, _ENDED)
        self._poll.close()
        self._obey_no_more()
        self._outcomes += [Outcome(task.seq, OutcomeKind.NOT_BEGUN) for task in self._pending]
        self._pending.clear()
        if self._outcomes:
            self._deliver(Outcomes(self._outcomes))

    def _last_reports(self) -> None:
        for report in self._link.reports():
            if report is None:
                self._link.close(0.1)
                return
            worker = self._workers.get(report.get("exited", -1))
            if worker is not None:
                self._settle(worker, _ENDED)

    def _obey_no_more(self) -> None:
        """Give back what was submitted while the engine stopped."""
        for command in self._commands:
            if isinstance(command, Submission):
                self._take(command.tasks)
        self._commands.clear()
