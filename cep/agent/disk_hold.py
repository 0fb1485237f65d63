"""No new tasks while the disk of the journal or of the audit refuses work, and a look every while.

A disk that is full, over quota, read-only or broken stops intake: tasks of this turn that could not
be written go back to the broker, results wait in memory, running tasks go on. A timer tries the
disk as a commit would use it, and only when that went well are tasks taken again: an empty commit
proves nothing. Owned by the main thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from cep.agent.audit import Unaudited
from cep.agent.dispatcher import Dispatcher
from cep.agent.intake import HOLD_AUDIT, HOLD_DISK, Intake
from cep.agent.mailbox import Timers
from cep.agent.outbox import Outbox
from cep.errors import AuditUnwritable, DiskUnfit
from cep.journal.bodies import FILE_THRESHOLD
from cep.journal.journal import Journal

log = logging.getLogger(__name__)

TIMER = "disk"
RETRY_S = 1.0


class DiskHold:
    """Commits for the main loop, and holds intake while that fails.

    An audit log that cannot be written counts as such a disk: who asked for an audit wants no task
    without a line, so nothing is committed that has none.

    Args:
        journal: The journal.
        audit: Written before each commit.
        intake: Held and released.
        dispatcher: Keeps the order of what was not handed over.
        outbox: Forgets what was not committed.
        timers: Of the main loop; `look` is to be called when `TIMER` is due.
        tell: Called after each change of `trouble`, to write it where people look.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        audit: Unaudited,
        intake: Intake,
        dispatcher: Dispatcher,
        outbox: Outbox,
        timers: Timers,
        tell: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._audit = audit
        self._intake = intake
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._timers = timers
        self._tell = tell
        self._room = 0
        self.trouble: str | None = None  # the sentence, while a disk refuses work

    @property
    def held(self) -> bool:
        """Whether a disk refuses work; nothing is handed to the engine meanwhile."""
        return self.trouble is not None

    def commit(self) -> bool:
        """Commit this turn, with fewer new tasks when there is no room for all.

        Returns:
            Whether nothing is buffered any more, so that what is on disk may be acted on.

        Raises:
            JournalError: The journal is corrupt.
        """
        try:
            self._write()
        except AuditUnwritable as error:
            self._dispatcher.unchoose()
            while withdrawn := self._intake.withdraw():
                self._take_back(withdrawn)
            self.hold(error)
            return False
        except DiskUnfit as error:
            self._dispatcher.unchoose()
            self.hold(error)
        else:
            return True
        # One try for each half that goes back, so that what there is room for is still taken.
        while withdrawn := self._intake.withdraw():
            self._room = max(self._room, *map(self._dispatcher.size, withdrawn))
            self._take_back(withdrawn)
            try:
                self._journal.commit()
            except DiskUnfit:
                continue
            self._audit.committed()
            return True
        return False

    def _write(self) -> None:
        self._audit.flush()
        self._journal.commit()
        self._audit.committed()

    def _take_back(self, withdrawn: Sequence[int]) -> None:
        self._journal.discard(withdrawn)
        self._dispatcher.forget(withdrawn)
        self._outbox.withdraw(withdrawn)
        self._audit.withdrawn(withdrawn)

    def hold(self, error: DiskUnfit) -> None:
        """Take no new tasks until the disk is fit again."""
        reason, event = HOLD_AUDIT, "audit.unwritable"
        if not isinstance(error, AuditUnwritable):
            reason, event = HOLD_DISK, "disk.unfit"
            error = self._journal.diagnose() or error
        if reason not in self._intake.held():
            log.error("%s", error.message, extra={"event": event})
        self._timers.set_if_unset(TIMER, RETRY_S)
        self._intake.hold(reason)
        self._say(error.message)

    def look(self) -> None:
        """Try the disk; take tasks again when it does what a commit needs.

        Raises:
            JournalError: The journal is corrupt, or is not the one it was.
        """
        try:
            if HOLD_DISK in self._intake.held():
                self._journal.trial(max(self._room, FILE_THRESHOLD))
            self._write()
        except DiskUnfit as error:
            self._timers.set(TIMER, RETRY_S)
            self.hold(error)
            return
        self._room = 0
        log.info("the disk takes writes again", extra={"event": "disk.fit"})
        self._intake.release(HOLD_DISK)
        self._intake.release(HOLD_AUDIT)
        self._say(None)

    def _say(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._tell()
