"""Which acks the broker has surely processed, and how long an answered task is remembered.

An ack is never acknowledged by the broker, so a task whose ack was lost comes again, possibly
after it was answered. A synchronous answer on the same channel proves that every ack sent before
the question was processed. Until then an answered task's id stays as a tombstone; when its channel
is lost first, nothing can prove anything any more, and the id stays for `KEEP_S`.

Pure bookkeeping in memory, no clock of its own and no disk; runs on the agent's main thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

KEEP_S = 24 * 3600  # how long a tombstone outlives its channel
LIMIT = 1_000_000  # tombstones; the oldest go first
SWEEP_PERIOD_S = 600  # how often old tombstones are looked for


class AckLedger:
    """Acks on their way, by channel epoch and by the probe that will prove them."""

    def __init__(self) -> None:
        self._sent: dict[int, deque[tuple[int, tuple[int, ...]]]] = {}

    def sent(self, seqs: Iterable[int], epoch: int, mark: int) -> None:
        """Note acks that the answer to probe `mark` on channel `epoch` will prove."""
        self._sent.setdefault(epoch, deque()).append((mark, tuple(seqs)))

    def processed(self, epoch: int, mark: int) -> list[int]:
        """Return the seqs whose acks are proven by the answer to probe `mark`."""
        proven: list[int] = []
        waiting = self._sent.get(epoch)
        while waiting and waiting[0][0] <= mark:
            proven.extend(waiting.popleft()[1])
        return proven

    def lost(self, epoch: int) -> list[int]:
        """Forget a channel; return the seqs whose acks can never be proven."""
        return [seq for _, seqs in self._sent.pop(epoch, ()) for seq in seqs]


class SettledClock:
    """Wall-clock seconds that never run backwards.

    Starts at the wall clock, or at the newest tombstone when the wall clock was set back behind
    it, and then follows a clock that nobody can set. So a clock set back keeps no tombstone
    longer, and one set forward while the agent runs drops none early.

    Args:
        newest: When the newest tombstone was made, in this clock's seconds; 0 without any.
        wall: The wall clock, seconds since 1970.
        elapsed: A clock that only runs forward, in seconds, suspend included.
    """

    def __init__(
        self, newest: int, wall: Callable[[], float], elapsed: Callable[[], float]
    ) -> None:
        self._elapsed = elapsed
        self._base = max(wall(), float(newest)) - elapsed()

    def now(self) -> int:
        """Return the present moment in whole seconds."""
        return int(self._base + self._elapsed())


def boot_seconds() -> float:
    """Return the seconds since this machine started, suspend included (clock_gettime(2))."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
