"""The declarer: makes exchanges, queues and bindings at the broker, and takes queues away.

Only the hub declares; endpoints use what is there. Each request is a list of operations, carried
out in order on a channel of its own; after a lost connection the list begins again, since every
operation may be repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cep.amqp.events import AmqpEvent
from cep.amqp.failures import ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, Failure
from cep.amqp.link import Link
from cep.amqp.loop import AmqpLoop
from cep.errors import CepError, NotAllowed, Unavailable

PRECONDITION_FAILED = 406
# What the broker closes a channel with when it will not do an operation, however often it is asked.
_FINAL = frozenset((ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED))


@dataclass(frozen=True, slots=True)
class DeclareExchange:
    """Make a durable exchange."""

    name: str
    kind: str = "direct"


@dataclass(frozen=True, slots=True)
class DeclareQueue:
    """Make a durable queue."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind a queue to an exchange."""

    queue: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class PurgeQueue:
    """Take away what waits in a queue."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Take a queue away with what is in it; nothing happens when there is none."""

    name: str


Operation: TypeAlias = DeclareExchange | DeclareQueue | Bind | PurgeQueue | DeleteQueue
Done: TypeAlias = Callable[[CepError | None], None]


class Declarer:
    """Carries out operations, one request after the other.

    Its methods may be called from any thread; everything else runs in the AMQP thread.

    Args:
        loop: The process's AMQP loop.
        url: AMQP URL of a user who may declare.
        name: Name of the link in events and logs.
        put: Takes the link's events; called in the AMQP thread, must not block.
    """

    def __init__(
        self, loop: AmqpLoop, url: str, *, name: str, put: Callable[[AmqpEvent], None]
    ) -> None:
        self._loop = loop
        self._link = Link(loop, url, name=name, put=put, user=self)
        self._requests: deque[tuple[Sequence[Operation], Done]] = deque()
        self._channel: Any = None
        self._busy = False

    def start(self) -> None:
        """Begin to connect; returns at once.

        Raises:
            DataError: The URL is no AMQP URL.
        """
        self._link.start()

    def run(self, operations: Sequence[Operation], done: Done) -> None:
        """Carry out the operations in order, as soon as the link is up.

        Args:
            operations: What to do; each may be done again after a lost connection.
            done: Called in the AMQP thread, once: with None when the broker has done all of them,
                or with the error when it will not do one.
        """
        request = (tuple(operations), done)

        def add() -> None:
            self._requests.append(request)
            self._next()

        self._loop.call(add)

    def readdress(self, url: str) -> None:
        """Go on at another address or with other credentials, at once, also after a refusal."""
        self._link.readdress(url)

    def stop(self, deadline_s: float) -> None:
        """Close the link; what is not done is dropped. Blocks until closed."""
        self._link.stop(deadline_s)

    # --- in the AMQP thread -----------------------------------------------------------------------

    def channel_ready(self, channel: Any, _epoch: int) -> None:
        """Begin with the first request, again if it had been begun before."""
        self._channel = channel
        self._busy = False
        self._link.working()
        self._next()

    def channel_lost(self, failure: Failure) -> None:
        """Give a request up that the broker will not do; keep it otherwise."""
        self._channel = None
        if self._busy and failure.code in _FINAL:
            _, done = self._requests.popleft()
            text = f"The broker will not set up what is needed: {failure.text}"
            done(Unavailable(text) if failure.refusal is None else NotAllowed(text))
        self._busy = False

    def unblocked(self) -> None:
        """Declaring is not held back by a broker that is short of memory."""

    def _next(self) -> None:
        if self._channel is None or self._busy or not self._requests:
            return
        self._busy = True
        self._step(self._channel, iter(self._requests[0][0]))

    def _step(self, channel: Any, remaining: Any) -> None:
        if channel is not self._channel:
            return  # an answer that was under way when the channel ended
        operation = next(remaining, None)
        if operation is not None:
            _begin(channel, operation, lambda _frame: self._step(channel, remaining))
            return
        _, done = self._requests.popleft()
        self._busy = False
        done(None)
        self._next()


def _begin(channel: Any, operation: Operation, then: Callable[[Any], None]) -> None:
    """Send one operation; `then` is called with the broker's answer."""
    match operation:
        case DeclareExchange(name, kind):
            channel.exchange_declare(name, exchange_type=kind, durable=True, callback=then)
        case DeclareQueue(name, arguments):
            channel.queue_declare(name, durable=True, arguments=dict(arguments), callback=then)
        case Bind(queue, exchange, routing_key):
            channel.queue_bind(queue, exchange, routing_key=routing_key, callback=then)
        case PurgeQueue(name):
            channel.queue_purge(name, callback=then)
        case DeleteQueue(name):
            channel.queue_delete(name, callback=then)
