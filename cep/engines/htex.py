"""`GlobusComputeEngine`: tasks on blocks of a scheduler or of this host, through Parsl.

Uses Parsl's HighThroughputExecutor without its workflow kernel. Owns one session at a time
(`cep.engines.htex_session`) and makes a new one when the interchange dies, on a thread of its own.
The verbs are called from the agent's main thread.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cep.config.settings import HtexSettings
from cep.engines import providers
from cep.engines.base import EngineDown, EngineEvent, EngineRun, Outcomes, Submission
from cep.engines.interchange_process import InterchangeProcess
from cep.errors import CepError
from cep.model import EngineStatus, Outcome, OutcomeKind
from cep.wire.result import WORKER_LOST

if TYPE_CHECKING:
    from cep.engines.htex_session import Session

log = logging.getLogger(__name__)

#: So many deaths of the interchange within this time and without a task that was run between
#: them, and the engine gives up.
DEATHS_TO_GIVE_UP = 3
DEATHS_WITHIN_S = 60.0
_END_OF_DEAD_S = 10.0
_END_OF_UNUSED_S = 2.0


class GlobusComputeEngine:
    """See the module's docstring; the verbs are described in `cep.engines.base.Engine`."""

    def __init__(self, settings: HtexSettings) -> None:
        self._settings = settings
        self._session: Session | None = None
        self._lock = threading.Lock()  # around changes of `_session` and `_stopping`
        self._stopping = False
        self._mender: threading.Thread | None = None
        self._deaths: deque[float] = deque(maxlen=DEATHS_TO_GIVE_UP)
        self._waiting = 0
        self._deliver_lock = threading.Lock()  # around `_silent` and `_has_run` as well
        self._has_run = False  # a task, since the last death of an interchange
        self._silent = False
        self._ahead: InterchangeProcess | None = None  # loads, for the first session

    def load_ahead(self, run_dir: Path) -> None:
        """Launch the interchange, which waits for its configuration once it is loaded."""
        with contextlib.suppress(OSError):  # `start` launches one itself then, and says why not
            self._ahead = InterchangeProcess.of(run_dir, self._settings)

    def start(self, run: EngineRun, deliver: Callable[[EngineEvent], None]) -> None:
        """Start the interchange and ask for the first blocks."""
        providers.check(self._settings)
        self._run = run
        self._sink = deliver
        self._session = self._new_session()

    def _new_session(self) -> Session:
        from cep.engines.htex_assembly import open_session

        ahead, self._ahead = self._ahead, None
        return open_session(self._settings, self._run, self._deliver, self._session_died, ahead)

    def _deliver(self, event: EngineEvent) -> None:
        with self._deliver_lock:
            if isinstance(event, Outcomes):
                done = any(one.kind is OutcomeKind.DONE for one in event.outcomes)
                self._has_run = self._has_run or done
            if not self._silent:
                self._sink(event)

    def submit(self, submission: Submission) -> None:
        """Take tasks; while the interchange is being replaced they are handed back."""
        self._waiting = submission.waiting
        with self._lock:
            session = self._session
            if session is not None:
                session.submit(submission.tasks, submission.waiting)
                return
        if submission.tasks:
            back = tuple(Outcome(task.seq, OutcomeKind.NOT_BEGUN) for task in submission.tasks)
            self._deliver(Outcomes(back))

    def cancel(self, seqs: Sequence[int]) -> None:
        """Ask for tasks that no worker has yet."""
        with self._lock:
            if self._session is not None:
                self._session.cancel(seqs)

    def status(self) -> EngineStatus:
        """A picture of now."""
        session = self._session
        if session is None:
            return EngineStatus(0, 0, 0, summary="the interchange is being replaced")
        return session.status()

    def beat(self, echo: Callable[[], None]) -> None:
        """See `Engine.beat`."""
        with self._lock:
            session = self._session
            if session is not None:
                session.beat(echo)
                return
        echo()  # the interchange is being replaced

    def pause_blocks(self, paused: bool) -> None:
        """Ask for no more blocks, or ask for them again."""
        with self._lock:
            if self._session is not None:
                self._session.pause_blocks(paused)

    def rescale(self, settings: HtexSettings) -> None:
        """Use other numbers of blocks; they hold for a rebuilt interchange, too."""
        with self._lock:
            self._settings = settings
            if self._session is not None:
                self._session.rescale(settings)

    def stop(self, deadline_s: float) -> None:
        """Cancel the blocks and end everything; what is unanswered becomes lost."""
        until = time.monotonic() + deadline_s
        if self._ahead is not None:
            self._ahead.end(min(deadline_s, _END_OF_UNUSED_S))
            self._ahead = None
        with self._lock:
            self._stopping = True
            session, self._session = self._session, None
            mender = self._mender
        if session is not None:
            session.end(
                deadline_s, WORKER_LOST, "The endpoint was stopped while the task was running."
            )
        if mender is not None:
            mender.join(max(0.0, until - time.monotonic()))
        with self._deliver_lock:
            self._silent = True

    # -- when the interchange dies -------------------------------------------------------------

    def _session_died(self, session: Session) -> None:
        """Runs on one of the dead session's threads."""
        with self._lock:
            if self._stopping or self._session is not session:
                return
            self._session = None
            self._mender = threading.Thread(target=self._mend, args=(session,), name="htex-rebuild")
        self._mender.start()

    def _mend(self, session: Session) -> None:
        reason = session.why_it_died
        session.end(_END_OF_DEAD_S, WORKER_LOST, reason)
        hopeless = self._count_death(time.monotonic())
        if hopeless:
            reason = f"{reason} That was {DEATHS_TO_GIVE_UP} times in a short while."
        log.error("%s", reason.rstrip("."), extra={"event": "htex.interchange-died"})
        self._deliver(EngineDown(reason, rebuilding=not hopeless))
        if not hopeless:
            self._rebuild()

    def _count_death(self, now: float) -> bool:
        """Whether it was one death too many; a run in which tasks got done begins a new count."""
        with self._deliver_lock:
            has_run, self._has_run = self._has_run, False
        if has_run:
            self._deaths.clear()
        self._deaths.append(now)
        return len(self._deaths) == DEATHS_TO_GIVE_UP and now - self._deaths[0] < DEATHS_WITHIN_S

    def _rebuild(self) -> None:
        if self._stopping:
            return
        try:
            session = self._new_session()
        except CepError as error:
            self._deliver(EngineDown(f"The engine could not be rebuilt: {error}", rebuilding=False))
            return
        except Exception as error:
            log.exception("rebuilding failed", extra={"event": "htex.rebuild-failed"})
            self._deliver(EngineDown(f"The engine could not be rebuilt: {error}", rebuilding=False))
            return
        with self._lock:
            if not self._stopping:
                self._session = session
                session.submit((), self._waiting)
                log.info("the interchange was replaced", extra={"event": "htex.rebuilt"})
                return
        session.end(_END_OF_DEAD_S, WORKER_LOST, "The endpoint was stopped.")
