"""The hub's side of the broker for asyncio: declare, publish and wait for confirms, consume.

Owns the hub's links (one to publish, one to declare, one per consumed queue) and their thread;
everything public runs on the event loop. Events cross from the links' thread with
`call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cep.amqp.consumer import Consumer
from cep.amqp.declarer import Declarer, Operation
from cep.amqp.events import (
    AmqpEvent,
    Confirmed,
    Delivered,
    LinkDown,
    LinkRefused,
    LinkUp,
    Unroutable,
)
from cep.amqp.loop import AmqpLoop
from cep.amqp.publisher import Publisher
from cep.errors import CepError, TemporaryFailure
from cep.hub.topology import Outgoing
from cep.model import Delivery, QueueAddress

log = logging.getLogger(__name__)

# Below the 60 s after which the SDK gives a request up (globus-sdk transport default).
BROKER_DEADLINE_S = 30.0
_STOP_DEADLINE_S = 5.0
REFUSED_RETRY_S = 5.0
_PUBLISH, _DECLARE, _CONSUME = "hub-publish", "hub-declare", "hub-"


@dataclass(slots=True)
class _Batch:
    """Messages published together, and the future that waits for the last of them."""

    open: set[int]
    done: asyncio.Future[None]
    refused: set[int] = field(default_factory=set)


class Messaging:
    """Declare, publish, consume.

    Args:
        url: AMQP URL with the hub's own user, who may do everything.
        exclusive: Whether this hub is the only consumer of what endpoints send.
    """

    def __init__(self, url: str, *, exclusive: bool = True) -> None:
        self._url = url
        self._exclusive = exclusive
        self._stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._amqp = AmqpLoop()
        self._tokens = itertools.count(1)
        self._batches: dict[int, _Batch] = {}
        self._publisher = Publisher(
            self._amqp, QueueAddress(url=url, queue=""), name=_PUBLISH, put=self._put
        )
        self._declarer = Declarer(self._amqp, url, name=_DECLARE, put=self._put)
        self._consumers: dict[str, tuple[Consumer, Callable[[Sequence[Delivery]], None]]] = {}

    async def start(self) -> None:
        """Start the links; they connect by themselves and stay connected."""
        self._loop = asyncio.get_running_loop()
        self._amqp.start()
        self._declarer.start()
        self._publisher.start()

    async def stop(self) -> None:
        """Close all links; what was delivered and not acked comes again at the next start."""
        self._stopped = True
        await asyncio.to_thread(self._stop)
        for batch in self._batches.values():
            if not batch.done.done():
                batch.done.cancel()
        self._batches.clear()

    def _stop(self) -> None:
        for consumer, _ in self._consumers.values():
            consumer.stop(_STOP_DEADLINE_S)
        self._publisher.stop(_STOP_DEADLINE_S)
        self._declarer.stop(_STOP_DEADLINE_S)
        self._amqp.stop(_STOP_DEADLINE_S)

    async def declare(self, operations: Sequence[Operation]) -> None:
        """Carry out the operations in order and wait until the broker has done them.

        Raises:
            TemporaryFailure: The broker did not answer in time.
            CepError: The broker refused one.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish(error: CepError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def report(error: CepError | None) -> None:
            _from_thread(loop, finish, error)

        self._declarer.run(operations, report)
        await _in_time(done)

    async def publish(self, messages: Sequence[Outgoing]) -> set[int]:
        """Publish all bodies and wait until the broker has confirmed or refused each.

        Returns:
            Positions (counted over all bodies in order) that the broker refused.

        Raises:
            TemporaryFailure: Not everything was settled in time; the links go on trying.
        """
        count = sum(len(one.bodies) for one in messages)
        if count == 0:
            return set()
        tokens = [next(self._tokens) for _ in range(count)]
        batch = _Batch(set(tokens), asyncio.get_running_loop().create_future())
        self._batches.update(dict.fromkeys(tokens, batch))
        at = 0
        for one in messages:
            after = at + len(one.bodies)
            self._publisher.publish(list(zip(tokens[at:after], one.bodies, strict=True)), one.route)
            at = after
        await _in_time(batch.done)
        first = tokens[0]
        return {token - first for token in batch.refused}

    def consume(self, queue: str, take: Callable[[Sequence[Delivery]], None]) -> Consumer:
        """Consume a queue from now on; `take` is called on the event loop with each batch."""
        consumer = Consumer(
            self._amqp,
            QueueAddress(url=self._url, queue=queue),
            name=f"{_CONSUME}{queue}",
            put=self._put,
            exclusive=self._exclusive,
        )
        self._consumers[f"{_CONSUME}{queue}"] = (consumer, take)
        consumer.start()
        consumer.consume()
        return consumer

    def _put(self, event: AmqpEvent) -> None:
        if self._loop is not None:
            _from_thread(self._loop, self._handle, event)

    def _handle(self, event: AmqpEvent) -> None:
        if isinstance(event, Delivered):
            self._consumers[event.link][1](event.deliveries)
        elif isinstance(event, Confirmed):
            self._settle(event.tokens, refused=False)
        elif isinstance(event, Unroutable):
            self._settle(event.tokens, refused=True)
        elif isinstance(event, LinkRefused):
            log.error("The broker refuses the hub: %s", event.error, extra={"event": "hub.refused"})
            asyncio.get_running_loop().call_later(REFUSED_RETRY_S, self._try_again, event.link)
        elif isinstance(event, LinkDown):
            log.warning(
                "Link %s is down: %s", event.link, event.reason, extra={"event": "hub.link_down"}
            )
        elif isinstance(event, LinkUp):
            log.info("Link %s is up", event.link, extra={"event": "hub.link_up"})

    def _try_again(self, link: str) -> None:
        """Knock again after a refusal: a permission or a virtual host may have come back."""
        if self._stopped:
            return
        if link == _PUBLISH:
            self._publisher.readdress(QueueAddress(url=self._url, queue=""))
        elif link == _DECLARE:
            self._declarer.readdress(self._url)
        else:
            queue = link.removeprefix(_CONSUME)
            self._consumers[link][0].readdress(QueueAddress(url=self._url, queue=queue))

    def _settle(self, tokens: Sequence[int], *, refused: bool) -> None:
        for token in tokens:
            batch = self._batches.pop(token, None)
            if batch is None:
                continue
            batch.open.discard(token)
            if refused:
                batch.refused.add(token)
            if not batch.open and not batch.done.done():
                batch.done.set_result(None)


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: object) -> None:
    """Run a call on the loop; nothing to do any more when the loop has ended."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        log.debug("An event came after the loop's end", extra={"event": "hub.late_event"})


async def _in_time(done: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait_for(done, BROKER_DEADLINE_S)
    except asyncio.TimeoutError as exc:
        raise TemporaryFailure(
            f"The message broker did not answer within {BROKER_DEADLINE_S:g} s."
        ) from exc
