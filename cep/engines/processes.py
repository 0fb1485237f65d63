"""`type: ProcessPoolEngine`: tasks run in worker processes on the endpoint's host.

Our own pool, because that of concurrent.futures cannot say which task a dead worker had. The five
verbs run in the agent's main thread and only put commands; everything else happens in the
dispatcher thread, see `cep.engines.pool_dispatcher`.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from cep.config.settings import ProcessPoolSettings
from cep.engines.base import EngineEvent, EngineRun, Submission
from cep.engines.local import worker_context
from cep.engines.pool_dispatcher import Beat, Command, Dispatcher, Stop
from cep.engines.pool_link import PoolLink
from cep.errors import EngineError
from cep.model import EngineStatus

log = logging.getLogger(__name__)


class ProcessPoolEngine:
    """Runs tasks in worker processes. See `cep.engines.base.Engine` for the verbs.

    Args:
        settings: The `engine:` block.
    """

    def __init__(self, settings: ProcessPoolSettings) -> None:
        self._settings = settings
        self._count = settings.max_workers or len(os.sched_getaffinity(0))
        self._commands: deque[Command] = deque()
        self._wake = -1
        self._thread: threading.Thread | None = None
        self._dispatcher: Dispatcher | None = None

    def start(self, run: EngineRun, deliver: Callable[[EngineEvent], None]) -> None:
        """Start the pool process, then the dispatcher; see `Engine.start`."""
        own_slots = None
        slots = run.start_slots
        if slots is None:
            own_slots = slots = Path(tempfile.mkdtemp(prefix="cep-slots-"))
        link = PoolLink(run, worker_context(self._settings, run), slots)
        try:
            slots.mkdir(parents=True, exist_ok=True, mode=0o700)
            link.open()
        except OSError as exc:
            raise EngineError(f"The directory {slots} cannot be made: {exc.strerror}.") from exc
        finally:
            if link.control is None and own_slots is not None:
                shutil.rmtree(own_slots, ignore_errors=True)
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._dispatcher = Dispatcher(
            self._settings,
            count=self._count,
            link=link,
            slots=slots,
            commands=self._commands,
            wake=self._wake,
            deliver=deliver,
        )
        self._own_slots = own_slots
        self._thread = threading.Thread(
            target=self._dispatcher.run, name="process-pool", daemon=True
        )
        self._thread.start()
        log.info(
            "Process pool started with %d workers",
            self._count,
            extra={"event": "engine.started", "workers": self._count},
        )

    def submit(self, submission: Submission) -> None:
        """See `Engine.submit`."""
        if submission.tasks:
            self._tell(submission)

    def cancel(self, seqs: Sequence[int]) -> None:
        """See `Engine.cancel`."""
        self._tell(tuple(seqs))

    def status(self) -> EngineStatus:
        """See `Engine.status`."""
        if self._dispatcher is None:
            return EngineStatus(slots=0, workers=0, idle_workers=0, summary="not started")
        return self._dispatcher.status()

    def beat(self, echo: Callable[[], None]) -> None:
        """See `Engine.beat`."""
        self._tell(Beat(echo))

    def stop(self, deadline_s: float) -> None:
        """See `Engine.stop`."""
        thread = self._thread
        if thread is None:
            return
        until = time.monotonic() + deadline_s
        self._tell(Stop(until))
        self._thread = None
        # It keeps the deadline itself; a second more for a host that is out of breath.
        thread.join(max(0.0, until - time.monotonic()) + 1.0)
        if thread.is_alive():
            log.error("The process pool did not stop in time", extra={"event": "engine.stuck"})
            return
        os.close(self._wake)
        if self._own_slots is not None:
            shutil.rmtree(self._own_slots, ignore_errors=True)

    def _tell(self, command: Command) -> None:
        if self._thread is None:
            return
        self._commands.append(command)
        os.eventfd_write(self._wake, 1)
