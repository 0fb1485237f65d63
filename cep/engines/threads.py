"""`type: ThreadPoolEngine`: tasks run in threads of the agent's own process.

Owns its worker threads (daemons: a user's function that never returns cannot hold up the agent's
end) and the tasks they wait for, both under one condition. The five verbs run in the agent's main
thread; outcomes are delivered from the worker threads, under the condition, so that none follows
`stop`. This is the one engine in which the agent's process opens users' payloads; nothing protects
the agent from what they do.

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


class ThreadPoolEngine:
    """Runs tasks in threads. See `cep.engines.base.Engine` for the verbs.

    Args:
        settings: The `engine:` block.
    """

    def __init__(self, settings: ThreadPoolSettings) -> None:
        self._settings = settings
        # As concurrent.futures.ThreadPoolExecutor, which the published engine is built on.
        self._workers = settings.max_workers or min(32, (os.cpu_count() or 1) + 4)
        self._pace = Pace(settings.coalesce)
        self._size = 1
        self._pending: deque[Task] = deque()
        self._running: dict[int, Task] = {}
        self._condition = threading.Condition()
        self._started = False
        self._stopping = False
        self._threads: list[threading.Thread] = []
        self._deliver: Callable[[EngineEvent], None] = _nobody

    @property
    def _slots(self) -> int:
        return 2 * self._workers * self._size

    def start(self, run: EngineRun, deliver: Callable[[EngineEvent], None]) -> None:
        """Start the threads; see `Engine.start`."""
        # The codec (dill) is needed with this engine only, so not when the module is imported.
        from cep.worker import environ, execute

        begins = self._slots_of(run)
        environ.install()
        execute.warm_up()
        self._started = True
        self._deliver = deliver
        context = worker_context(self._settings, run)
        prefix = self._settings.thread_name_prefix or "task"
        for number in range(self._workers):
            thread = threading.Thread(
                target=self._work,
                args=(number, begins[number], context),
                name=f"{prefix}_{number}",
                daemon=True,
            )
            self._threads.append(thread)
            thread.start()
        log.info(
            "Thread pool started with %d threads",
            self._workers,
            extra={"event": "engine.started", "workers": self._workers},
        )
        deliver(SlotsChanged(self._slots))

    def submit(self, submission: Submission) -> None:
        """Queue tasks; see `Engine.submit`."""
        refused = []
        with self._condition:
            if self._stopping:
                return
            for task in submission.tasks:
                refusal = refuse_resources(task, ENGINE_TYPE)
                if refusal is None:
                    self._pending.append(task)
                else:
                    refused.append(refusal)
            self._condition.notify(len(submission.tasks))
            if refused:
                self._deliver(Outcomes(refused))

    def cancel(self, seqs: Sequence[int]) -> None:
        """Give back what no thread has begun; see `Engine.cancel`."""
        wanted = set(seqs)
        with self._condition:
            if self._stopping:
                return
            found = [task.seq for task in self._pending if task.seq in wanted]
            self._pending = deque(task for task in self._pending if task.seq not in wanted)
            if found:
                self._deliver(Outcomes([Outcome(seq, OutcomeKind.NOT_BEGUN) for seq in found]))

    def status(self) -> EngineStatus:
        """See `Engine.status`."""
        with self._condition:
            alive = sum(thread.is_alive() for thread in self._threads)
            busy, pending = len(self._running), len(self._pending)
        return EngineStatus(
            slots=self._slots,
            workers=alive,
            idle_workers=max(0, alive - busy),
            report=local_report(
                ENGINE_TYPE,
                workers=alive,
                most=self._workers,
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
        with self._condition:
            if not self._started or self._stopping:
                return
            self._stopping = True
            outcomes = [
                Outcome(
                    seq,
                    OutcomeKind.LOST,
                    code=WORKER_LOST,
                    reason="The endpoint stopped while a thread was running the task.",
                )
                for seq in self._running
            ]
            outcomes += [Outcome(task.seq, OutcomeKind.NOT_BEGUN) for task in self._pending]
            abandoned = len(self._running)
            self._pending.clear()
            if outcomes:
                self._deliver(Outcomes(outcomes))
            self._condition.notify_all()
        if abandoned:
            log.warning(
                "Stopped while %d threads were running tasks",
                abandoned,
                extra={"event": "engine.abandoned", "tasks": abandoned},
            )
        else:
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
        environ.uninstall()

    # -- a worker thread -----------------------------------------------------------------------

    def _work(self, number: int, begin: Callable[[int], None], context: WorkerContext) -> None:
        from cep.worker import environ
        from cep.worker.execute import execute

        if not environ.own_directory() and number == 0:
            log.warning(
                "This kernel gives threads no working directory of their own; tasks run in the "
                "agent's, and find theirs in GC_TASK_SANDBOX_DIR",
                extra={"event": "engine.shared_directory"},
            )
        while (task := self._next(begin)) is not None:
            began = time.monotonic()
            packed = execute(
                task.body, task.task_id, context, task.result_serializers, in_thread=True
            )
            if not self._finished(task, packed, time.monotonic() - began):
                return

    def _slots_of(self, run: EngineRun) -> list[Callable[[int], None]]:
        """Open each thread's start slots."""
        if run.start_slots is None:
            return [_nobody] * self._workers
        from cep.worker.slots import SlotWriter

        try:
            return [
                SlotWriter(run.start_slots, f"thread-{number}").begin
                for number in range(self._workers)
            ]
        except OSError as exc:
            raise EngineError(
                f"Start slots cannot be made in {run.start_slots}: {exc.strerror}."
            ) from exc

    def _next(self, begin: Callable[[int], None]) -> Task | None:
        """Wait for a task; None when the engine stops."""
        with self._condition:
            while not self._pending:
                if self._stopping:
                    return None
                self._condition.wait()
            if self._stopping:
                return None
            task = self._pending.popleft()
            self._running[task.seq] = task
            begin(task.seq)
            return task

    def _finished(self, task: Task, packed: bytes, seconds: float) -> bool:
        """Deliver a result; False when the engine stopped meanwhile and nobody wants it."""
        with self._condition:
            if self._stopping:
                return False
            del self._running[task.seq]
            place = Place(worker=threading.current_thread().name)
            outcome = Outcome(task.seq, OutcomeKind.DONE, result=packed, run_s=seconds, place=place)
            self._deliver(Outcomes((outcome,)))
            self._pace.ran(task.function_id, seconds)
            size = self._pace.size(task.function_id)
            if size != self._size:
                self._size = size
                self._deliver(SlotsChanged(self._slots))
            return True


def _nobody(_anything: object) -> None:
    """Stands where nothing is to be told."""
