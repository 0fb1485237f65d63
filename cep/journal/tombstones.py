"""Which acks the broker has surely processed, and how long an answered task is remembered.

An ack is never acknowledged by the broker, so a task whose ack was lost comes again, possibly
after it was answered. A synchronous answer on the same channel proves that every ack sent before
the question was processed. Until then an answered task's id stays as a tombstone; when its channel
is lost first, nothing can prove anything any more, and the id stays for `KEEP_S`.

Owns the bookkeeping of channels and no file; runs on the agent's main thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from cep.errors import DiskUnfit
from cep.journal import store
from cep.journal.batch import Batch
from cep.journal.memory import Live, Memory
from cep.journal.writer import Writer

KEEP_S = 24 * 3600  # how long a tombstone outlives its channel
LIMIT = 1_000_000  # tombstones; the oldest go first
SWEEP_PERIOD_S = 600  # how often old tombstones are looked for


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


class Tombstones:
    """Remembers answered tasks for as long as the broker may still deliver them again.

    Args:
        memory: Where ids are looked up.
        writer: Asked about tombstones that are on disk only.
        clock: Tells when a tombstone was made.
        limit: The most that are kept.
    """

    def __init__(self, memory: Memory, writer: Writer, clock: SettledClock, limit: int) -> None:
        self._memory = memory
        self._writer = writer
        self._clock = clock
        self._limit = limit
        self._sent: dict[int, deque[tuple[int, Sequence[int]]]] = {}
        self._young: dict[int, bytes] = {}  # those whose ack may still be proven
        self._next_sweep = clock.now()

    def ack_sent(self, seqs: Sequence[int], epoch: int, mark: int) -> None:
        """Note acks that the answer to probe `mark` on channel `epoch` will prove."""
        self._sent.setdefault(epoch, deque()).append((mark, tuple(seqs)))
        for seq in seqs:
            live = self._memory.live.get(seq)
            if live is not None:
                live.ack_on_its_way = True

    def acks_processed(self, epoch: int, mark: int, batch: Batch) -> None:
        """Drop what is proven: the tombstone, or the need for one."""
        waiting = self._sent.get(epoch)
        while waiting and waiting[0][0] <= mark:
            for seq in waiting.popleft()[1]:
                live = self._memory.live.get(seq)
                if live is not None:
                    live.ack_proven = True
                else:
                    self._drop(seq, batch)

    def channel_lost(self, epoch: int) -> None:
        """What was not proven on this channel never will be."""
        for _, seqs in self._sent.pop(epoch, ()):
            for seq in seqs:
                self._young.pop(seq, None)
                live = self._memory.live.get(seq)
                if live is not None:
                    live.ack_on_its_way = False

    def settle(self, seqs: Sequence[int], lives: Sequence[Live], batch: Batch) -> None:
        """Bury tasks that are no longer live: a tombstone each, unless the ack is proven."""
        now = self._clock.now()
        for seq, live in zip(seqs, lives, strict=True):
            if live.ack_proven:
                del self._memory.ids[live.key]
                continue
            batch.tombstones[seq] = (live.key, now)
            if live.ack_on_its_way:
                self._young[seq] = live.key

    def sweep(self, batch: Batch) -> None:
        """Drop tombstones that are too old or too many; cheap when it is not time yet."""
        memory = self._memory
        now = self._clock.now()
        gone: list[tuple[int, bytes]] = []
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_PERIOD_S
            old = self._writer.ask(lambda db: store.old_tombstones(db, now - KEEP_S))
            gone = [row for row in old if row[0] not in self._young]
        excess = memory.tombstones - self._limit - len(gone)
        if excess > 0:  # some more than must go, so that the next commit need not look again
            count = len(gone) + excess + self._limit // 100
            gone += self._writer.ask(lambda db: store.first_tombstones(db, count))
        for seq, key in gone:
            if memory.ids.get(key) == seq:
                del memory.ids[key]
                self._young.pop(seq, None)
                batch.dropped.append(seq)

    def _drop(self, seq: int, batch: Batch) -> None:
        key = self._young.pop(seq, None)
        buffered = batch.tombstones.pop(seq, None)
        if buffered is not None:
            key = buffered[0]
        else:
            if key is None:  # of an earlier life or channel, and acked a second time
                with suppress(DiskUnfit):  # unreadable for now: then it stays for its time
                    key = self._writer.ask(lambda db: store.tombstone(db, seq))
            if key is None:
                return
            batch.dropped.append(seq)
        self._memory.ids.pop(key, None)
