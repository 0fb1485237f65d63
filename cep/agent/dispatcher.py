"""Steps 4 to 6 of a task's path: which task the engine gets next, and what comes back.

Owned by the main thread. It holds sequence numbers, never bodies: those wait in the journal. The
window (`slots`) is the engine's word: at most two dispatches per worker, so that after a crash only
few tasks are *possibly started*.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cep.agent.audit import Unaudited
from cep.agent.lost_body import lost_body
from cep.engines.base import Engine, Submission
from cep.errors import BodyLost, DiskUnfit
from cep.journal.journal import Journal
from cep.model import Outcome, OutcomeKind, Task
from cep.wire.result import (
    BLOCKS_PAUSED,
    REMOTE_EXECUTION_ERROR,
    UNKNOWN_TASK_FAILURE,
    WORKER_LOST,
    error_result,
)

log = logging.getLogger(__name__)

# Bodies in an engine's hands beyond its firm window; enough for any number of tiny tasks.
WINDOW_BYTES = 16 * 1024 * 1024

_DONE = OutcomeKind.DONE  # looked up once: an enumeration is slow to tell its members


@dataclass(slots=True)
class Entry:
    """One unfinished task."""

    task_id: str
    size: int
    attempts: int = 0  # how often it was handed to an engine and not handed back untouched
    losses: tuple[str, ...] = ()  # one sentence per lost attempt


class Dispatcher:
    """Keeps the order of waiting tasks and the window of given ones."""

    def __init__(
        self,
        journal: Journal,
        engine: Engine,
        *,
        endpoint_id: str,
        max_retries: int,
        audit: Unaudited | None = None,
    ) -> None:
        self._audit = audit or Unaudited()
        self._journal = journal
        self._engine = engine
        self._endpoint_id = endpoint_id
        self._max_retries = max_retries
        self._entries: dict[int, Entry] = {}
        self._waiting: deque[int] = deque()
        self._given: set[int] = set()
        self._chosen: list[int] = []
        self._given_bytes = 0
        self._slots = 0
        self._firm = 0  # slots that do not depend on the size of the tasks
        self._told_waiting = 0
        self._bytes = 0
        self._closed = False
        self._keep_lost = False
        self._refusal = ""  # why waiting tasks have no hope
        self.counters: Counter[str] = Counter()

    # -- the picture ---------------------------------------------------------------------------

    @property
    def unfinished(self) -> int:
        """Tasks without a result, waiting and given."""
        return len(self._entries)

    @property
    def unfinished_bytes(self) -> int:
        """Sum of their message sizes."""
        return self._bytes

    @property
    def waiting(self) -> int:
        """Tasks not yet handed over."""
        return len(self._waiting)

    @property
    def given(self) -> int:
        """Tasks handed over and not back."""
        return len(self._given)

    def size(self, seq: int) -> int:
        """Bytes of an unfinished task's message; 0 for another number."""
        entry = self._entries.get(seq)
        return 0 if entry is None else entry.size

    def retry_at_most(self, times: int) -> None:
        """Try a task again so often from now on, those that run included."""
        self._max_retries = times

    # -- coming in -----------------------------------------------------------------------------

    def add(self, seq: int, task_id: str, size: int, attempts: int = 0) -> None:
        """A journaled task waits for its turn, behind all others."""
        self._entries[seq] = Entry(task_id, size, attempts)
        self._bytes += size
        self._waiting.append(seq)

    def forget(self, seqs: Iterable[int]) -> None:
        """These were never journaled after all."""
        gone = set(seqs)
        for seq in gone:
            self._drop(seq)
        if gone:
            self._waiting = deque(seq for seq in self._waiting if seq not in gone)

    # -- going to the engine -------------------------------------------------------------------

    def slots_changed(self, slots: int, firm: int | None = None) -> None:
        """The engine widened or narrowed its window; see `cep.engines.base.SlotsChanged`."""
        self._slots = slots
        self._firm = slots if firm is None else firm

    def close(self, *, keep_lost: bool) -> None:
        """Hand over nothing more, and ask for what was not begun; the agent is stopping.

        Args:
            keep_lost: Tasks that are lost from now on stay in the journal as possibly started,
                for the next start to try again, instead of being answered.
        """
        self._closed = True
        self._keep_lost = keep_lost
        if self._given:
            self._engine.cancel(sorted(self._given))

    def refuse(self, reason: str) -> None:
        """Answer what waits, now and from now on, with this reason; an empty one ends that."""
        self._refusal = reason

    def refused(self) -> list[tuple[int, int]]:
        """Answer the waiting tasks that have no hope.

        Returns:
            (sequence number, size of the result in bytes) of each.
        """
        if not self._refusal or self._closed:
            return []
        answered = []
        while self._waiting:
            seq = self._waiting.popleft()
            entry = self._entries[seq]
            result = error_result(
                entry.task_id,
                BLOCKS_PAUSED,
                _history([*entry.losses, f"BLOCKS_PAUSED: {self._refusal}"]),
                details={"endpoint_id": self._endpoint_id},
            )
            self.counters["refused"] += 1
            self._audit.ended(seq, BLOCKS_PAUSED)
            self._finish(seq, result)
            answered.append((seq, len(result)))
        return answered

    def choose(self) -> None:
        """Pick what fits the window and mark it given in the journal's buffer."""
        if self._closed:
            return
        while self._waiting and self._fits(self._entries[self._waiting[0]]):
            seq = self._waiting.popleft()
            entry = self._entries[seq]
            self._chosen.append(seq)
            self._given.add(seq)
            self._given_bytes += entry.size
            entry.attempts += 1
        if self._chosen:
            self._journal.give(self._chosen)
            self._audit.given(self._chosen)

    def _fits(self, entry: Entry) -> bool:
        """Whether the window has room for it; the order is kept, so a large one holds up others."""
        if len(self._given) >= self._slots:
            return False
        small = self._given_bytes + entry.size <= WINDOW_BYTES
        return small or len(self._given) < self._firm

    def unchoose(self) -> None:
        """The mark could not be committed: nothing was handed over, the order is as before."""
        if self._chosen:
            self._journal.ungive(self._chosen)
            self._audit.handed_back(self._chosen)
            self._back_to_front(self._chosen)
            self._chosen = []

    def hand_over(self) -> list[tuple[int, int]]:
        """After the commit: give the chosen tasks, and the length of the line, to the engine.

        Returns:
            (sequence number, size of the result in bytes) of tasks that are answered with an
            error instead, since their bodies are lost; the next commit makes that durable.

        Raises:
            DiskUnfit: A body cannot be read for now; nothing was handed over.
        """
        if self._closed or not (self._chosen or len(self._waiting) != self._told_waiting):
            return []
        tasks, lost = self._load_chosen()
        self._chosen = []
        self._told_waiting = len(self._waiting)
        self._engine.submit(Submission(tasks, waiting=self._told_waiting))
        return [self._answer_lost(seq) for seq in lost]

    def _load_chosen(self) -> tuple[list[Task], list[int]]:
        """The tasks, and the numbers of those whose bodies are lost."""
        tasks: list[Task] = []
        lost: list[int] = []
        try:
            for seq in self._chosen:
                try:
                    tasks.append(self._journal.load(seq))
                except BodyLost as error:
                    log.error("%s", error.message, extra={"event": "journal.body_lost"})
                    lost.append(seq)
        except DiskUnfit:
            self.unchoose()
            raise
        return tasks, lost

    def _answer_lost(self, seq: int) -> tuple[int, int]:
        result = lost_body(self._entries[seq].task_id)
        self.counters["lost"] += 1
        self._audit.ended(seq, UNKNOWN_TASK_FAILURE)
        self._finish(seq, result)
        return seq, len(result)

    # -- coming back ---------------------------------------------------------------------------

    def take_outcomes(self, outcomes: Sequence[Outcome]) -> list[tuple[int, int]]:
        """Buffer results in the journal.

        Returns:
            (sequence number, size of the result in bytes) of each task that now has one.
        """
        finished: list[tuple[int, int]] = []
        untouched: list[int] = []
        for outcome in outcomes:
            if outcome.seq not in self._given:
                log.debug("outcome for task %s, which is not given", outcome.seq)
                continue
            if outcome.kind is _DONE:
                self.counters["done"] += 1
                result: bytes | None = outcome.result
            elif outcome.kind is OutcomeKind.NOT_BEGUN:
                untouched.append(outcome.seq)
                continue
            elif outcome.kind is OutcomeKind.LOST and self._keep_lost:
                continue
            else:
                result = self._error_of(outcome)
            if result is None:
                self._audit.lost(outcome)
                self._back_to_front([outcome.seq], untouched=False)
            else:
                self._finish(outcome.seq, result)
                self._audit.answered(outcome, result)
                finished.append((outcome.seq, len(result)))
        if untouched:
            self._journal.ungive(untouched)
            self._audit.handed_back(untouched)
            self._back_to_front(sorted(untouched))
        return finished

    def engine_down(self, reason: str) -> list[tuple[int, int]]:
        """The engine lost all it held: each given task is possibly started."""
        self._slots = 0
        lost = [
            Outcome(seq, OutcomeKind.LOST, code=WORKER_LOST, reason=reason)
            for seq in sorted(self._given - set(self._chosen))
        ]
        return self.take_outcomes(lost)

    def _error_of(self, outcome: Outcome) -> bytes | None:
        """The error result of a task without an end, or None when it is to be tried again."""
        entry = self._entries[outcome.seq]
        entry.losses += (outcome.reason,)
        lost = outcome.kind is OutcomeKind.LOST
        if lost and entry.attempts <= self._max_retries and not self._closed:
            self.counters["retried"] += 1
            return None
        self.counters["lost" if lost else "refused"] += 1
        return error_result(
            entry.task_id,
            outcome.code or REMOTE_EXECUTION_ERROR,
            _history(entry.losses),
            details={"endpoint_id": self._endpoint_id},
        )

    def _finish(self, seq: int, result: bytes) -> None:
        size = self._entries.pop(seq).size
        self._bytes -= size
        if seq in self._given:
            self._given.remove(seq)
            self._given_bytes -= size
        self._journal.finish(seq, result)

    def _drop(self, seq: int) -> None:
        entry = self._entries.pop(seq, None)
        if entry is not None:
            self._bytes -= entry.size

    def _back_to_front(self, seqs: Sequence[int], *, untouched: bool = True) -> None:
        self._leave_window(seqs)
        self._waiting.extendleft(reversed(seqs))
        if untouched:
            for seq in seqs:
                self._entries[seq].attempts -= 1

    def _leave_window(self, seqs: Sequence[int]) -> None:
        for seq in seqs:
            if seq in self._given:
                self._given.remove(seq)
                self._given_bytes -= self._entries[seq].size


def _history(losses: Sequence[str]) -> str:
    """What happened, attempt by attempt when there was more than one."""
    if len(losses) == 1:
        return losses[0]
    return "\n".join(f"Attempt {n}: {reason}" for n, reason in enumerate(losses, 1))
