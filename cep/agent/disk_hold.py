"""What the agent does while the journal's disk refuses work: no new tasks, and a look every while.

A disk that is full, over quota, read-only or broken stops intake: tasks of this turn that could not
be written go back to the broker, results wait in memory, running tasks go on. A timer tries the
disk as a commit would use it, and only when that went well are tasks taken again: an empty commit
proves nothing. Owned by the main thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from cep.agent.dispatcher import Dispatcher
from cep.agent.intake import HOLD_DISK, Intake
from cep.agent.mailbox import Timers
from cep.agent.outbox import Outbox
from cep.errors import DiskUnfit
from cep.journal.bodies import FILE_THRESHOLD
from cep.journal.journal import Journal

log = logging.getLogger(__name__)

TIMER = "disk"
RETRY_S = 1.0


class DiskHold:
    """Commits for the main loop, and holds intake while that fails.

    Args:
        journal: The journal.
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
        intake: Intake,
        dispatcher: Dispatcher,
        outbox: Outbox,
        timers: Timers,
        tell: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._intake = intake
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._timers = timers
        self._tell = tell
        self._room = 0
        self.trouble: str | None = None  # the sentence, while the disk refuses work

    @property
    def held(self) -> bool:
        """Whether the disk refuses work; nothing is handed to the engine meanwhile."""
        return self.trouble is not None

    def commit(self) -> bool:
        """Commit this turn, with fewer new tasks when there is no room for all.

        Returns:
            Whether nothing is buffered any more, so that what is on disk may be acted on.

        Raises:
            JournalError: The journal is corrupt.
        """
        try:
            self._journal.commit()
        except DiskUnfit as error:
            self._dispatcher.unchoose()
            self.hold(error)
        else:
            return True
        # One try for each half that goes back, so that what there is room for is still taken.
        while withdrawn := self._intake.withdraw():
            self._room = max(self._room, *map(self._dispatcher.size, withdrawn))
            self._journal.discard(withdrawn)
            self._dispatcher.forget(withdrawn)
            self._outbox.withdraw(withdrawn)
            try:
                self._journal.commit()
            except DiskUnfit:
                continue
            return True
        return False

    def hold(self, error: DiskUnfit) -> None:
        """Take no new tasks until the disk is fit again."""
        error = self._journal.diagnose() or error
        if self.trouble is None:
            log.error("%s", error.message, extra={"event": "disk.unfit"})
        self._timers.set_if_unset(TIMER, RETRY_S)
        self._intake.hold(HOLD_DISK)
        self._say(error.message)

    def look(self) -> None:
        """Try the disk; take tasks again when it does what a commit needs.

        Raises:
            JournalError: The journal is corrupt, or is not the one it was.
        """
        try:
            self._journal.trial(max(self._room, FILE_THRESHOLD))
            self._journal.commit()
        except DiskUnfit as error:
            self._timers.set(TIMER, RETRY_S)
            self._say(error.message)
            return
        self._room = 0
        log.info("the journal's disk takes writes again", extra={"event": "disk.fit"})
        self._intake.release(HOLD_DISK)
        self._say(None)

    def _say(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            self._tell()
