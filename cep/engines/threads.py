"""`type: ThreadPoolEngine`: tasks run in threads of the agent's own process.

Owns its worker threads (daemons: a user's function that never returns cannot hold up the agent's
end) and the tasks they wait for. The five verbs run in the agent's main thread; outcomes are
delivered from the worker threads. This is the one engine in which the agent's process opens users'
payloads; nothing protects the agent from what they do.

A worker that has work takes no lock that another one takes: two threads that meet at a lock for
each task put each other to sleep at each task. Tasks wait in a deque, whose `popleft` gives each to
one taker only; the condition is for workers that found it empty. Each worker's own lock is shared
with `stop` alone, so that no outcome follows that.

Each worker thread has a working directory of its own where Linux allows it (see
`cep.worker.environ`), so tasks run in `working_dir` and the agent's directory never changes. Where
that is refused (by a container's rules, say), the directory is made but not entered.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from cep.config.settings import ThreadPoolSettings
from cep.engines.base import EngineEvent, EngineRun, Outcomes, SlotsChanged, Submission
from cep.engines.local import local_report, refuse_resources, worker_context
from cep.engines.pace import Pace
from cep.errors import EngineError
from cep.model import EngineStatus, Outcome, OutcomeKind, Place, Task
from cep.wire.result import WORKER_LOST
from cep.worker.context import WorkerContext

log = logging.getLogger(__name__)

ENGINE_TYPE = "ThreadPoolEngine"
# Tasks in the window per worker: the one it runs and the next; of tiny ones many more, for the
# main thread waits some ten times in each turn, up to 5 ms, until workers give way to it.
FEW = 2
MANY = 6

_DONE = OutcomeKind.DONE  # looked up once: an enumeration is slow to tell its members


class _Worker:
    """One thread and what it is at.

    Attributes:
        lock: Held while an outcome is delivered, and by `ThreadPoolEngine.stop`.
        task: What it runs, or None.
        ended: Nothing it delivers is wanted any more.
        size: How many tasks of the kind it ran last may travel together.
    """

    __slots__ = ("begin", "ended", "lock", "number", "pace", "size", "task")

    def __init__(self, number: int, begin: Callable[[int], None], pace: Pace) -> None:
        self.number = number
        self.begin = begin
        self.pace = pace
        self.lock = threading.Lock()
        self.task: Task | None = None
        self.ended = False
        self.size = 1


class ThreadPoolEngine:
    """Runs tasks in threads. See `cep.engines.base.Engine` for the verbs.

    Args:
        settings: The `engine:` block.
    """

    def __init__(self, settings: ThreadPoolSettings) -> None:
        self._settings = settings
        # As concurrent.futures.ThreadPoolExecutor, which the published engine is built on.
        self._count = settings.max_workers or min(32, (os.cpu_count() or 1) + 4)
        self._pending: deque[Task] = deque()
        self._work_came = threading.Condition()
        self._stopping = False
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._deliver: Callable[[EngineEvent], None] = _nobody

    @property
    def _slots(self) -> int:
        return sum(FEW if worker.size == 1 else MANY * worker.size for worker in self._workers)

    def start(self, run: EngineRun, deliver: Callable[[EngineEvent], None]) -> None:
        """Start the threads; see `Engine.start`."""
        # The codec (dill) is needed with this engine only, so not when the module is imported.
        from cep.worker import environ, execute

        self._execute = execute.execute
        begins = self._slots_of(run)
        environ.install()
        execute.warm_up()  # now, and not when the home may hang: it starts a process
        self._deliver = deliver
        context = worker_context(self._settings, run)
        prefix = self._settings.thread_name_prefix or "task"
        self._workers = [
            _Worker(number, begin, Pace(self._settings.coalesce))
            for number, begin in enumerate(begins)
        ]
        for worker in self._workers:
            thread = threading.Thread(
                target=self._work,
                args=(worker, context),
                name=f"{prefix}_{worker.number}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()
        log.info(
            "Thread pool started with %d threads",
            self._count,
            extra={"event": "engine.started", "workers": self._count},
        )
        deliver(SlotsChanged(self._slots))

    def submit(self, submission: Submission) -> None:
        """Queue tasks; see `Engine.submit`."""
        if self._stopping:
            return
        refused = []
        for task in submission.tasks:
            refusal = refuse_resources(task, ENGINE_TYPE)
            if refusal is None:
                self._pending.append(task)
            else:
                refused.append(refusal)
        with self._work_came:
            self._work_came.notify(len(submission.tasks))
        if refused:
            self._deliver(Outcomes(refused))

    def cancel(self, seqs: Sequence[int]) -> None:
        """Give back what no thread has begun; see `Engine.cancel`."""
        if self._stopping:
            return
        wanted = set(seqs)
        waiting = self._take_all()
        kept = [task for task in waiting if task.seq not in wanted]
        with self._work_came:
            self._pending.extend(kept)
            self._work_came.notify(len(kept))
        if len(kept) < len(waiting):
            untouched = [task.seq for task in waiting if task.seq in wanted]
            self._deliver(Outcomes([Outcome(seq, OutcomeKind.NOT_BEGUN) for seq in untouched]))

    def status(self) -> EngineStatus:
        """See `Engine.status`."""
        alive = sum(thread.is_alive() for thread in self._threads)
        busy = sum(worker.task is not None for worker in self._workers)
        pending = len(self._pending)
        return EngineStatus(
            slots=self._slots,
            workers=alive,
            idle_workers=max(0, alive - busy),
            report=local_report(
                ENGINE_TYPE,
                workers=alive,
                most=self._count,
                pending=pending,
                outstanding=pending + busy,
            ),
            summary=f"threads {busy}/{alive} busy",
        )

    def beat(self, echo: Callable[[], None]) -> None:
        """See `Engine.beat`. All threads here run users' functions, which may last."""
        echo()

    def stop(self, deadline_s: float) -> None:
        """End idle threads, abandon busy ones; see `Engine.stop`."""
        from cep.worker import environ

        until = time.monotonic() + deadline_s
        if not self._workers or self._stopping:
            return
        self._stopping = True
        running = []
        for worker in self._workers:
            with worker.lock:
                worker.ended = True
                if worker.task is not None:
                    running.append(worker.task)
        outcomes = [
            Outcome(
                task.seq,
                OutcomeKind.LOST,
                code=WORKER_LOST,
                reason="The endpoint stopped while a thread was running the task.",
            )
            for task in running
        ]
        # Now that no worker takes any more.
        outcomes += [Outcome(task.seq, OutcomeKind.NOT_BEGUN) for task in self._take_all()]
        if outcomes:
            self._deliver(Outcomes(outcomes))
        with self._work_came:
            self._work_came.notify_all()
        if running:
            log.warning(
                "Stopped while %d threads were running tasks",
                len(running),
                extra={"event": "engine.abandoned", "tasks": len(running)},
            )
        else:
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
        environ.uninstall()

    def _take_all(self) -> list[Task]:
        """What waits, taken one by one: workers may be taking, too."""
        taken = []
        with suppress(IndexError):
            while True:
                taken.append(self._pending.popleft())
        return taken

    def _slots_of(self, run: EngineRun) -> list[Callable[[int], None]]:
        """Open each thread's start slots."""
        if run.start_slots is None:
            return [_nobody] * self._count
        from cep.worker.slots import SlotWriter

        try:
            return [
                SlotWriter(run.start_slots, f"thread-{number}").begin
                for number in range(self._count)
            ]
        except OSError as exc:
            raise EngineError(
                f"Start slots cannot be made in {run.start_slots}: {exc.strerror}."
            ) from exc

    # -- a worker thread -----------------------------------------------------------------------

    def _work(self, worker: _Worker, context: WorkerContext) -> None:
        from cep.worker import environ

        if not environ.own_directory() and worker.number == 0:
            log.warning(
                "This kernel gives threads no working directory of their own; tasks run in the "
                "agent's, and find theirs in GC_TASK_SANDBOX_DIR",
                extra={"event": "engine.shared_directory"},
            )
        place = Place(worker=threading.current_thread().name)
        while (task := self._next(worker)) is not None:
            began = time.monotonic()
            packed = self._execute(
                task.body, task.task_id, context, task.result_serializers, in_thread=True
            )
            seconds = time.monotonic() - began
            outcome = Outcome(task.seq, _DONE, packed, "", "", seconds, place)
            if not self._finished(worker, outcome):
                return
            self._pace(worker, task.function_id, seconds)

    def _next(self, worker: _Worker) -> Task | None:
        """Wait for a task; None when the engine stops."""
        while True:
            with worker.lock:
                if worker.ended:
                    return None
                if self._pending:
                    try:
                        task = self._pending.popleft()
                    except IndexError:  # another worker was faster
                        continue
                    worker.begin(task.seq)
                    worker.task = task
                    return task
            with self._work_came:
                if not self._pending and not self._stopping:
                    self._work_came.wait()

    def _finished(self, worker: _Worker, outcome: Outcome) -> bool:
        """Deliver a result; False when the engine stopped meanwhile and nobody wants it."""
        with worker.lock:
            if worker.ended:
                return False
            worker.task = None
            self._deliver(Outcomes((outcome,)))
            return True

    def _pace(self, worker: _Worker, function_id: str, seconds: float) -> None:
        """Learn from a run how wide the window should be."""
        size = worker.pace.ran(function_id, seconds)
        if size == worker.size:
            return
        with worker.lock, self._work_came:  # one after another, so that the last word is the newest
            if not worker.ended:
                worker.size = size
                self._deliver(SlotsChanged(self._slots))


def _nobody(_anything: object) -> None:
    """Stands where nothing is to be told."""
