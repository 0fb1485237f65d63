"""Steps 7 and 8 of a task's path: committed results to the broker, until it confirms them.

Owned by the main thread. The publisher keeps what is unconfirmed and repeats it after a reconnect;
the outbox bounds how much that may be, and lets the journal forget only on a confirm.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Sequence
from typing import Protocol

from cep.agent.lost_body import lost_body
from cep.errors import BodyLost
from cep.journal.journal import Journal

log = logging.getLogger(__name__)

# Unconfirmed at one time; enough to fill a long fat pipe, little enough to hold in memory.
MAX_IN_FLIGHT = 2000
MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024


class ResultPublisher(Protocol):
    """What the outbox needs of `cep.amqp.publisher.Publisher`."""

    def publish(self, items: Sequence[tuple[int, bytes]]) -> None: ...


class Outbox:
    """Results that the broker has not confirmed yet."""

    def __init__(self, journal: Journal, publisher: ResultPublisher) -> None:
        self._journal = journal
        self._publisher = publisher
        self._unsent: deque[tuple[int, int]] = deque()  # (seq, size)
        self._in_flight: dict[int, int] = {}  # seq -> size
        self._in_flight_bytes = 0
        self._refused: list[tuple[int, int]] = []
        self._bytes = 0
        self.counters: Counter[str] = Counter()

    @property
    def unconfirmed(self) -> int:
        """Results that are still ours to deliver."""
        return len(self._unsent) + len(self._in_flight) + len(self._refused)

    @property
    def unconfirmed_bytes(self) -> int:
        """Sum of their sizes."""
        return self._bytes

    def add(self, results: Sequence[tuple[int, int]]) -> None:
        """Results (sequence number, size) that the coming commit makes durable."""
        self._unsent.extend(results)
        self._bytes += sum(size for _, size in results)

    def send(self) -> bool:
        """After the commit: publish what fits into the window.

        Returns:
            Whether another commit must follow at once: a result's body was lost, and an error
            answer has taken its place.

        Raises:
            DiskUnfit: A result cannot be read for now; it stays first in line.
        """
        items: list[tuple[int, bytes]] = []
        try:
            while self._unsent and self._has_room():
                seq, size = self._unsent[0]
                try:
                    items.append((seq, self._journal.result(seq)))
                except BodyLost as error:
                    log.error("%s", error.message, extra={"event": "journal.body_lost"})
                    result = lost_body(self._journal.damage(seq))
                    self._journal.finish(seq, result)
                    self._unsent[0] = (seq, len(result))
                    self._bytes += len(result) - size
                    return True
                self._unsent.popleft()
                self._in_flight[seq] = size
                self._in_flight_bytes += size
        finally:
            if items:
                self._publisher.publish(items)
        return False

    def confirmed(self, seqs: Sequence[int]) -> None:
        """The broker has these; the journal may forget them."""
        mine = []
        size_bytes = 0
        for seq in seqs:
            size = self._in_flight.pop(seq, None)
            if size is not None:
                mine.append(seq)
                size_bytes += size
        self._in_flight_bytes -= size_bytes
        self._bytes -= size_bytes
        self.counters["confirmed"] += len(mine)
        self._journal.settle(mine)

    def refused(self, seqs: Sequence[int]) -> None:
        """The broker did not take these; they wait for `retry_refused`."""
        for seq in seqs:
            size = self._land(seq)
            if size is not None:
                self.counters["refused"] += 1
                self._refused.append((seq, size))

    def retry_refused(self) -> None:
        """Publish again, with the next `send`, what the broker did not take."""
        self._unsent.extend(self._refused)
        self._refused = []

    def withdraw(self, seqs: Sequence[int]) -> None:
        """These were never committed; they are not ours to send."""
        if seqs:
            gone = set(seqs)
            self._bytes -= sum(size for seq, size in self._unsent if seq in gone)
            self._unsent = deque(item for item in self._unsent if item[0] not in gone)

    def _has_room(self) -> bool:
        return len(self._in_flight) < MAX_IN_FLIGHT and self._in_flight_bytes < MAX_IN_FLIGHT_BYTES

    def _land(self, seq: int) -> int | None:
        size = self._in_flight.pop(seq, None)
        if size is not None:
            self._in_flight_bytes -= size
        return size
