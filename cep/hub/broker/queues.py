"""Queues: messages in order, the consumers that take turns, and the bounds on both.

A queue owns its ready messages; delivered ones belong to their channel until settled or given
back. Bodies of stored messages beyond the queue's share of memory are dropped and read again
when their turn comes. Runs on the broker's event loop.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol

from cep.hub.broker.store import Row

if TYPE_CHECKING:
    from cep.hub.broker.access import Limits
    from cep.hub.broker.connection import Connection
    from cep.hub.broker.store import Done, Store

log = logging.getLogger(__name__)

_PAGE_IN_BYTES = 4 << 20
_PAGE_IN_COUNT = 256
_RETRY_S = 1.0


class Message:
    """One message in one queue.

    Attributes:
        seq: Number over all queues; the order of publishing.
        route: Exchange and routing key, properties: flags and values, both as published.
        body: None while it is on disk only.
        stored: It is durable now, so its body may be dropped.
        gone: It is settled or purged; nothing of it may be counted any more.
    """

    __slots__ = (
        "body",
        "gone",
        "persistent",
        "properties",
        "redelivered",
        "route",
        "seq",
        "size",
        "stored",
    )

    def __init__(
        self,
        seq: int,
        route: bytes,
        properties: bytes,
        size: int,
        body: bytes | None,
        *,
        persistent: bool,
    ) -> None:
        self.seq = seq
        self.route = route
        self.properties = properties
        self.size = size
        self.body = body
        self.persistent = persistent
        self.stored = body is None
        self.redelivered = False
        self.gone = False


class Consumer(Protocol):
    """What a queue needs of a consumer."""

    exclusive: bool

    def has_room(self) -> bool:
        """Whether one more message may be sent to it now."""

    def deliver(self, message: Message, body: bytes) -> None:
        """Send it a message."""

    def cancelled(self) -> None:
        """The queue is gone."""


class Memory:
    """Bytes of bodies held over all queues, and the connections held up by it."""

    def __init__(self, limit_bytes: int, resume_share: float = 0.8) -> None:
        self.held = 0
        self._limit = limit_bytes
        self._resume = int(limit_bytes * resume_share)
        self._blocked: set[Connection] = set()

    def add(self, size: int) -> None:
        """Count bytes in, or out when negative; readers resume once enough has gone."""
        self.held += size
        if self._blocked and self.held <= self._resume:
            blocked, self._blocked = self._blocked, set()
            for connection in blocked:
                connection.unblock()

    def hold_up(self, publisher: Connection) -> None:
        """Stop reading from a publisher while too much is held."""
        if self.held > self._limit and publisher not in self._blocked:
            self._blocked.add(publisher)
            publisher.block()

    def forget(self, connection: Connection) -> None:
        """The connection is gone."""
        self._blocked.discard(connection)


class Shared(NamedTuple):
    """What all queues of one broker share."""

    limits: Limits
    memory: Memory
    store: Store


class Queue:
    """One queue.

    Args:
        number: Its number in the store.
        owner: The connection that it is exclusive to.
        shared: What all queues of the broker share.
    """

    def __init__(
        self,
        name: str,
        number: int,
        *,
        durable: bool,
        auto_delete: bool,
        owner: Connection | None,
        shared: Shared,
    ) -> None:
        self.name = name
        self.number = number
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.ready: deque[Message] = deque()
        self.consumers: deque[Consumer] = deque()
        self.exclusive_consumer = False
        self.deleted = False
        self.bytes = 0
        self.count = 0
        self._resident = 0
        self._paging = False
        self._limits, self._memory, self._store = shared

    @property
    def stored(self) -> bool:
        """Whether it survives a restart: durable, and not one connection's own."""
        return self.durable and self.owner is None

    # -- in ------------------------------------------------------------------------------

    def refuses(self, size: int) -> bool:
        """Whether the queue is too full for a message of this size."""
        limits = self._limits
        return self.count >= limits.queue_messages or self.bytes + size > limits.queue_bytes

    def offer(self, message: Message, done: Done | None) -> None:
        """Take a new message; `done` is called once it is as safe as it asked to be."""
        body = message.body
        assert body is not None
        self.count += 1
        self.bytes += message.size
        self._resident += message.size
        self._memory.add(message.size)
        self.ready.append(message)
        if message.persistent:
            row = Row(message.seq, self.number, False, message.route, message.properties, body)

            def stored(safe: bool) -> None:
                message.stored = safe
                self._page_out(message)
                if done is not None:
                    done(safe)

            self._store.put(row, stored)
        elif done is not None:
            done(True)
        self.pump()

    def recover(self, message: Message) -> None:
        """Take a message back from the store at the start; its body stays there."""
        self.count += 1
        self.bytes += message.size
        self.ready.append(message)

    def requeue(self, messages: Iterable[Message]) -> None:
        """Take delivered messages back to where they were, flagged as redelivered."""
        if self.deleted:
            self.settle(messages)
            return
        held: list[Message] = []
        for message in sorted(messages, key=lambda each: each.seq):
            message.redelivered = True
            while self.ready and self.ready[0].seq < message.seq:
                held.append(self.ready.popleft())
            held.append(message)
        self.ready.extendleft(reversed(held))
        self.pump()

    # -- out -----------------------------------------------------------------------------

    def pump(self) -> None:
        """Deliver while there is a message and a consumer with room, each in turn."""
        ready = self.ready
        while ready:
            consumer = self._next_consumer()
            if consumer is None:
                return
            message = ready[0]
            if message.body is None:
                self._page_in()
                return
            ready.popleft()
            consumer.deliver(message, message.body)
            self._page_out(message, above=0)

    def take(self) -> Message | None:
        """Take the first message, for basic.get; its body may still be on disk."""
        return self.ready.popleft() if self.ready else None

    def settle(self, messages: Iterable[Message]) -> None:
        """Forget messages for good: acknowledged, rejected, purged."""
        durable: list[int] = []
        freed = 0
        for message in messages:
            message.gone = True
            self.count -= 1
            self.bytes -= message.size
            if message.body is not None:
                freed += message.size
                message.body = None
            if message.persistent:
                durable.append(message.seq)
        if durable:
            self._store.forget(durable)
        if freed:
            self._resident -= freed
            self._memory.add(-freed)

    def purge(self) -> int:
        """Forget all ready messages; return how many."""
        messages, self.ready = self.ready, deque()
        self.settle(messages)
        return len(messages)

    def add_consumer(self, consumer: Consumer) -> None:
        """Let a consumer take its turns; the caller has checked that it may."""
        self.consumers.append(consumer)
        self.exclusive_consumer = consumer.exclusive

    def remove_consumer(self, consumer: Consumer) -> None:
        """A consumer was cancelled or its channel is gone."""
        self.consumers.remove(consumer)
        self.exclusive_consumer = False

    def _next_consumer(self) -> Consumer | None:
        consumers = self.consumers
        for _ in range(len(consumers)):
            consumer = consumers[0]
            consumers.rotate(-1)
            if consumer.has_room():
                return consumer
        return None

    # -- bodies between memory and disk ----------------------------------------------------

    def body_of(self, message: Message) -> asyncio.Future[bytes | None]:
        """The body of a message taken by `take`; None when it was settled meanwhile."""
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        if message.body is not None or message.gone:
            answer.set_result(message.body)
            return answer

        def loaded(bodies: Mapping[int, bytes] | None) -> None:
            if bodies is None:
                answer.get_loop().call_later(_RETRY_S, self._store.load, [message.seq], loaded)
            elif not answer.done():
                answer.set_result(bodies.get(message.seq))

        self._store.load([message.seq], loaded)
        return answer

    def _page_out(self, message: Message, *, above: int | None = None) -> None:
        """Drop a stored body while more than so many bytes (the queue's share) are in memory."""
        share = self._limits.page_bytes if above is None else above
        if message.stored and message.body is not None and self._resident > share:
            message.body = None
            self._resident -= message.size
            self._memory.add(-message.size)

    def _page_in(self) -> None:
        if self._paging:
            return
        wanted: list[Message] = []
        size = 0
        for message in self.ready:
            if message.body is not None or len(wanted) == _PAGE_IN_COUNT:
                break
            wanted.append(message)
            size += message.size
            if size >= _PAGE_IN_BYTES:
                break
        self._paging = True

        def loaded(bodies: Mapping[int, bytes] | None) -> None:
            self._paging = False
            if bodies is None:
                asyncio.get_running_loop().call_later(_RETRY_S, self.pump)
                return
            for message in wanted:
                if message.gone or message.body is not None:
                    continue
                body = bodies.get(message.seq)
                if body is None:
                    log.error(
                        "A stored message of queue %s has no body and is dropped",
                        self.name,
                        extra={"event": "broker.body_missing"},
                    )
                    self.ready.remove(message)
                    self.settle((message,))
                    continue
                message.body = body
                self._resident += message.size
                self._memory.add(message.size)
            self.pump()

        self._store.load([message.seq for message in wanted], loaded)
