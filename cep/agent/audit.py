"""The agent's audit: one line when a task arrives, begins and ends; never arguments or results.

Owned by the main thread. Lines gather during a turn of the loop and are written, as one batch,
*before* the turn's commit and everything that follows it: ack, hand-over, publication. So nothing
is done that has no line; a crash or a full disk in between may leave a line for what was not done,
and the task then arrives again. What could be taken back is taken back by a line of its own.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cep.errors import AuditUnwritable
from cep.model import Outcome, Place
from cep.safety.audit import Trail, now_text
from cep.wire.envelope import read_uuid
from cep.wire.result import peek_error

ARRIVE, BEGIN, END = "arrive", "begin", "end"
#: Taken back: the broker has the task again; the engine gave it back untouched; it was lost with
#: its worker and will be tried again.
RETURN, HAND_BACK, RETRY = "return", "hand-back", "retry"
#: From this time until that of the next line the log could not be written.
GAP = "gap"
_NO_TASK = -1
#: Headers of a task message that may tell whose it is. No service known today sends them.
GROUP_HEADERS = ("task_group_id", "task_group_uuid")
IDENTITY_HEADERS = ("identity_id", "user_uuid")
_ABOUT = ("task", "function", "group", "identity")


class Unaudited:
    """No audit was asked for: everything here does nothing."""

    where: str | None = None

    def arrived(
        self, seq: int, task_id: str, function_id: str | None, headers: Mapping[str, Any]
    ) -> None:
        """A task came from the broker."""

    def known(self, seq: int, task_id: str, function_id: str | None) -> None:
        """A task of an earlier life is in the journal; it arrived then."""

    def given(self, seqs: Iterable[int]) -> None:
        """These will be handed to the engine after the commit."""

    def handed_back(self, seqs: Iterable[int]) -> None:
        """These were not begun after all, and wait again."""

    def lost(self, outcome: Outcome) -> None:
        """A task was lost with its worker and will be tried again."""

    def ended(self, seq: int, code: str | None, outcome: Outcome | None = None) -> None:
        """A task has its answer: a success, or an error with this code."""

    def answered(self, outcome: Outcome, result: bytes) -> None:
        """The same, of a task that came back from the engine; the result says how it ended."""

    def withdrawn(self, seqs: Iterable[int]) -> None:
        """These go back to the broker: the turn could not be committed."""

    def flush(self) -> None:
        """Write what has gathered.

        Raises:
            AuditUnwritable: It cannot be written now; what is left stays for the next time.
        """

    def committed(self) -> None:
        """What was written has come to pass."""

    def move(self, trail: Trail) -> None:
        """Go on at another place, with nothing left out and nothing twice.

        What the old place has not taken (it may be full) is written to the new one.
        """

    def close(self) -> None:
        """Write what is left, if possible, and close the file."""


@dataclass(slots=True)
class _Known:
    """What is kept of an unfinished task."""

    about: dict[str, Any]
    given_at: float | None = None  # monotonic


class Audit(Unaudited):
    """Composes lines and keeps them until they are written.

    Args:
        trail: Where they go.
        endpoint_id: This endpoint.
    """

    def __init__(self, trail: Trail, endpoint_id: str) -> None:
        self.where = trail.where
        self._trail = trail
        self._common = {"endpoint": endpoint_id, "uid": os.getuid(), "user": _user()}
        self._host = platform.node()
        self._known: dict[int, _Known] = {}
        self._pending: list[tuple[int, dict[str, Any]]] = []
        # What the written arrivals said whose turn is not committed yet.
        self._uncommitted: dict[int, Mapping[str, Any]] = {}

    def arrived(
        self, seq: int, task_id: str, function_id: str | None, headers: Mapping[str, Any]
    ) -> None:
        """See `Unaudited`."""
        self.known(seq, task_id, function_id)
        about = self._known[seq].about
        about.update(
            (key, value)
            for key, names in (("group", GROUP_HEADERS), ("identity", IDENTITY_HEADERS))
            if (value := _first_uuid(headers, names)) is not None
        )
        self._note(ARRIVE, seq, about)

    def known(self, seq: int, task_id: str, function_id: str | None) -> None:
        """See `Unaudited`."""
        about = {"task": task_id}
        if function_id is not None:
            about["function"] = function_id
        self._known[seq] = _Known(about)

    def given(self, seqs: Iterable[int]) -> None:
        """See `Unaudited`."""
        now = time.monotonic()
        for seq in seqs:
            task = self._known[seq]
            task.given_at = now
            self._note(BEGIN, seq, task.about)

    def handed_back(self, seqs: Iterable[int]) -> None:
        """See `Unaudited`."""
        gone = set(seqs)
        unsaid = {seq for seq, line in self._pending if seq in gone and line["event"] == BEGIN}
        self._pending = [
            (seq, line)
            for seq, line in self._pending
            if not (seq in unsaid and line["event"] == BEGIN)
        ]
        for seq in gone:
            self._known[seq].given_at = None
            if seq not in unsaid:
                self._note(HAND_BACK, seq, self._known[seq].about)

    def lost(self, outcome: Outcome) -> None:
        """See `Unaudited`."""
        task = self._known[outcome.seq]
        more = {"code": outcome.code, **_times(task, outcome), **self._place(outcome.place)}
        self._note(RETRY, outcome.seq, task.about, **more)

    def ended(self, seq: int, code: str | None, outcome: Outcome | None = None) -> None:
        """See `Unaudited`."""
        task = self._known.pop(seq, None)
        if task is None:
            return
        more: dict[str, Any] = {"outcome": "success" if code is None else "error"}
        if code is not None:
            more["code"] = code
        if outcome is not None:
            more |= {**_times(task, outcome), **self._place(outcome.place)}
        self._note(END, seq, task.about, **more)

    def answered(self, outcome: Outcome, result: bytes) -> None:
        """See `Unaudited`."""
        self.ended(outcome.seq, peek_error(result), outcome)

    def withdrawn(self, seqs: Iterable[int]) -> None:
        """See `Unaudited`."""
        gone = set(seqs)
        self._pending = [(seq, line) for seq, line in self._pending if seq not in gone]
        for seq in gone:
            self._known.pop(seq, None)
            about = self._uncommitted.pop(seq, None)
            if about is not None:
                self._note(RETURN, seq, about)

    def flush(self) -> None:
        """See `Unaudited`."""
        if not self._pending:
            return
        try:
            self._trail.append([line for _, line in self._pending])
        except AuditUnwritable as error:
            self._wrote(error.taken)
            self._begin_gap()
            raise
        self._wrote(len(self._pending))

    def _wrote(self, count: int) -> None:
        done, self._pending = self._pending[:count], self._pending[count:]
        for seq, line in done:
            if line["event"] == ARRIVE:
                self._uncommitted[seq] = {key: line[key] for key in _ABOUT if key in line}

    def _begin_gap(self) -> None:
        """The first line that can be written again says since when none could.

        It is also the trial that shows whether one can, when nothing else is to be told.
        """
        if not self._pending or self._pending[0][0] != _NO_TASK:
            line = {"time": now_text(), "event": GAP, **self._common}
            self._pending.insert(0, (_NO_TASK, line))

    def committed(self) -> None:
        """See `Unaudited`."""
        self._uncommitted.clear()

    def move(self, trail: Trail) -> None:
        """See `Unaudited`."""
        with contextlib.suppress(OSError):  # of a disk that is away, say
            self._trail.close()
        self._trail, self.where = trail, trail.where

    def close(self) -> None:
        """See `Unaudited`."""
        try:
            self.flush()
        except AuditUnwritable:
            pass  # it was logged when it began, and the journal has the tasks
        finally:
            self._trail.close()

    def _note(self, event: str, seq: int, about: Mapping[str, Any], **more: Any) -> None:
        line = {"time": now_text(), "event": event, **self._common, **about, **more}
        self._pending.append((seq, line))

    def _place(self, place: Place | None) -> dict[str, Any]:
        if place is None:
            return {}
        named = (
            ("node", place.node or self._host),
            ("block", place.block),
            ("job", place.job),
            ("worker", place.worker),
        )
        return {key: value for key, value in named if value}


def _times(task: _Known, outcome: Outcome) -> dict[str, float]:
    """Seconds since the hand-over, and those that the engine says the task ran."""
    times = {}
    if task.given_at is not None:
        times["duration_s"] = round(time.monotonic() - task.given_at, 3)
    if outcome.run_s is not None:
        times["run_s"] = round(outcome.run_s, 6)
    return times


def _first_uuid(headers: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((found for name in names if (found := read_uuid(headers.get(name)))), None)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a uid without a passwd entry, as in some containers
        return ""
