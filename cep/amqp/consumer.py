"""The consumer: takes messages from one queue over a link, exclusively, and settles them.

Owns the open deliveries of the present epoch and the prefetch. Its methods may be called from any
thread and return at once (`stop` excepted); everything else runs in the AMQP thread.

Deliveries go to the owner as batches, everything that was ready in one turn of the loop. AMQP
counts messages, not bytes, so the number asked for follows the mean body size; should more than the
limit be open all the same, the consumer is cancelled until half of it is settled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from cep.amqp.backoff import BackOff
from cep.amqp.deliveries import Received, Taker
from cep.amqp.events import AcksProcessed, AmqpEvent, ConsumeStopped, Consuming, Delivered
from cep.amqp.failures import Failure
from cep.amqp.intake import (
    MIB,
    MOST_MESSAGES,
    Settlement,
    SizeEstimate,
    Unsettled,
    prefetch_for,
    worth_changing,
)
from cep.amqp.link import Link
from cep.amqp.loop import AmqpLoop
from cep.model import Delivery, QueueAddress

log = logging.getLogger(__name__)

UNDIGESTED_LIMIT_BYTES = 64 * MIB

IDLE, STARTING, CONSUMING, STOPPING = "idle", "starting", "consuming", "stopping"


class Consumer:
    """Receives the messages of one queue.

    Args:
        loop: The process's AMQP loop.
        address: Where the queue is.
        name: Name of the link in events and logs.
        put: Takes the events; called in the AMQP thread, must not block.
        port: Replaces the port of the address (`amqp_port`).
        undigested_limit_bytes: Bodies that may be delivered and not settled, in total.
        ssl_ca_file: Authorities to trust for TLS instead of the system's.
        guard: Called before each new channel is used; a `CepError` it raises ends the link.
        exclusive: Ask the broker to be the queue's only consumer.
        backoff: Delays between tries.
    """

    def __init__(
        self,
        loop: AmqpLoop,
        address: QueueAddress,
        *,
        name: str,
        put: Callable[[AmqpEvent], None],
        port: int | None = None,
        undigested_limit_bytes: int = UNDIGESTED_LIMIT_BYTES,
        ssl_ca_file: str | None = None,
        guard: Callable[[], None] | None = None,
        exclusive: bool = True,
        backoff: BackOff | None = None,
    ) -> None:
        self._loop = loop
        self._queue = address.queue
        self._name = name
        self._put = put
        self._limit_bytes = undigested_limit_bytes
        self._exclusive = exclusive
        self._link = Link(
            loop,
            address.url,
            name=name,
            put=put,
            user=self,
            port=port,
            ssl_ca_file=ssl_ca_file,
            guard=guard,
            backoff=backoff,
        )
        self._wished = False
        self._most = MOST_MESSAGES
        self._phase = IDLE
        self._tag = ""  # the consumer's, while it consumes
        self._told_consuming = False  # the owner was told so and not yet of its end
        self._owes_stop = False  # a pause() is not answered yet
        self._braked = False
        self._open = Unsettled()
        self._sizes = SizeEstimate()
        self._prefetch = 0
        self._batch: list[Delivery] = []

    # --- from any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect; nothing is consumed before `consume()`.

        Raises:
            DataError: The address is no AMQP URL.
            ConfigError: The CA file cannot be used.
        """
        self._link.start()

    def consume(self, most: int = MOST_MESSAGES) -> None:
        """Wish for deliveries; the wish survives reconnects. Answered by `Consuming`.

        Args:
            most: Messages that may be delivered and not settled, at least 1; never more than
                `MOST_MESSAGES`. A wish that differs in this replaces the one before.
        """

        def wish() -> None:
            self._most = min(most, MOST_MESSAGES)
            self._wish(True)

        self._loop.call(wish)

    def pause(self) -> None:
        """Wish for no deliveries; survives reconnects.

        Answered by `ConsumeStopped`, after which nothing more is delivered. What was delivered
        can still be settled: the channel stays.
        """
        self._loop.call(lambda: self._wish(False))

    def ack(self, epoch: int, tags: Sequence[int]) -> None:
        """Settle deliveries as taken over; those of an older epoch are dropped."""
        self._loop.call(lambda: self._settle("basic_ack", epoch, tags))

    def reject(self, epoch: int, tags: Sequence[int]) -> None:
        """Settle deliveries as unusable; the broker drops them (or dead-letters them)."""
        self._loop.call(lambda: self._settle("basic_nack", epoch, tags, requeue=False))

    def give_back(self, epoch: int, tags: Sequence[int]) -> None:
        """Give deliveries back; the broker delivers them again."""
        self._loop.call(lambda: self._settle("basic_nack", epoch, tags, requeue=True))

    def probe(self, epoch: int, mark: int) -> None:
        """Ask the broker whether it has processed all acks so far; answered by `AcksProcessed`.

        The question is a basic.qos with the present value: a synchronous method of the same
        channel, which the broker answers in order. There is no answer when the epoch is over.
        """
        self._loop.call(lambda: self._ask(epoch, mark))

    def readdress(self, address: QueueAddress) -> None:
        """Go on at another address or with other credentials, at once, also after a refusal."""

        def change_queue() -> None:
            self._queue = address.queue

        self._loop.call(change_queue)
        self._link.readdress(address.url)

    def stop(self, deadline_s: float) -> None:
        """Close the link; blocks until it is closed. What is not settled goes back to the queue."""
        self._link.stop(deadline_s)

    # --- the channel's user, in the AMQP thread ---------------------------------------------------

    def channel_ready(self, channel: Any, epoch: int) -> None:
        """Start with a clean slate on a new channel."""
        del epoch
        self._open = Unsettled()
        self._prefetch = 0
        self._braked = False
        channel.add_on_cancel_callback(partial(self._on_cancelled_by_broker, channel))
        if not self._wished:
            self._link.working()
        self._reconcile()

    def channel_lost(self, failure: Failure) -> None:
        """Forget the epoch; unsettled deliveries are the broker's again."""
        del failure
        self._flush()
        self._phase = IDLE
        self._tag = ""
        self._told_consuming = False
        if self._owes_stop:
            self._tell_stopped()

    def unblocked(self) -> None:
        """A consumer has nothing to do here: it publishes nothing."""

    # --- consuming --------------------------------------------------------------------------------

    def _wish(self, wished: bool) -> None:
        self._wished = wished
        self._owes_stop = self._owes_stop or not wished
        if self._owes_stop and self._phase == (STARTING if wished else IDLE):
            self._tell_stopped()  # nothing was delivered, so this is true at once
        self._reconcile()

    def _reconcile(self) -> None:
        """Bring the consumer at the broker in line with what is wished; one step at a time."""
        channel = self._link.channel
        if channel is None or not channel.is_open or self._link.ending:
            return
        wanted = prefetch_for(self._limit_bytes, self._sizes.mean_bytes, self._most)
        run = self._wished and not self._braked
        if self._phase == IDLE and run:
            self._phase = STARTING
            self._prefetch = wanted
            channel.basic_qos(prefetch_count=wanted)
            self._tag = channel.basic_consume(
                self._queue,
                on_message_callback=Taker(partial(self._on_message, channel)),
                exclusive=self._exclusive,
                callback=partial(self._on_consuming, channel),
            )
        elif self._phase == CONSUMING and (not run or worth_changing(self._prefetch, wanted)):
            self._phase = STOPPING
            channel.basic_cancel(self._tag, callback=partial(self._on_cancelled, channel))

    # A channel that was given up for another address may still say something while it closes, so
    # each of these asks first whether it is the present one that speaks.

    def _on_consuming(self, channel: Any, _frame: Any) -> None:
        if channel is not self._link.channel:
            return
        self._phase = CONSUMING
        if not self._told_consuming:
            self._told_consuming = True
            self._link.working()
            self._put(Consuming(self._name, self._link.epoch))
        self._reconcile()

    def _on_cancelled(self, channel: Any, _frame: Any) -> None:
        if channel is not self._link.channel:
            return
        self._phase = IDLE
        self._tag = ""
        if self._owes_stop:
            self._tell_stopped()
        self._reconcile()

    def _on_cancelled_by_broker(self, channel: Any, _frame: Any) -> None:
        if channel is not self._link.channel:
            return
        self._flush()
        self._link.fail(f"The broker {self._link.where} took the queue {self._queue} away.")

    def _tell_stopped(self) -> None:
        self._flush()
        self._told_consuming = False
        self._owes_stop = False
        self._put(ConsumeStopped(self._name, self._link.epoch))

    # --- deliveries -------------------------------------------------------------------------------

    def _on_message(self, channel: Any, message: Received) -> None:
        if channel is not self._link.channel:
            return
        _, _, tag, redelivered, _, routing_key, headers, _, body = message
        size = len(body)
        self._open.add(tag, size)
        self._sizes.add(size)
        if not self._batch:
            self._loop.call_later(0, self._turn_ends)
        self._batch.append(
            Delivery(self._link.epoch, tag, headers or {}, body, redelivered, routing_key)
        )

    def _turn_ends(self) -> None:
        self._flush()
        if not self._braked and self._open.size_bytes > self._limit_bytes:
            self._braked = True
            log.debug("link %s waits until deliveries are settled", self._name)
        self._reconcile()

    def _flush(self) -> None:
        if self._batch:
            batch, self._batch = self._batch, []
            self._put(Delivered(self._name, batch))

    def _settle(self, verb: str, epoch: int, tags: Sequence[int], **how: bool) -> None:
        channel = self._link.channel
        if epoch != self._link.epoch or channel is None or not channel.is_open:
            log.debug(
                "link %s: %d settlements of epoch %d are dropped, its channel is gone",
                self._name,
                len(tags),
                epoch,
                extra={"event": "consumer.stale", "link": self._name},
            )
            return
        self._link.connection.cork()
        try:
            for frame in self._open.settle(tags):
                self._send_settlement(channel, verb, frame, how)
        finally:
            self._link.connection.uncork()
        if self._braked and self._open.size_bytes <= self._limit_bytes / 2:
            self._braked = False
            self._reconcile()

    @staticmethod
    def _send_settlement(channel: Any, verb: str, frame: Settlement, how: dict[str, bool]) -> None:
        getattr(channel, verb)(delivery_tag=frame.tag, multiple=frame.multiple, **how)

    def _ask(self, epoch: int, mark: int) -> None:
        channel = self._link.channel
        if epoch != self._link.epoch or channel is None or not channel.is_open:
            return
        channel.basic_qos(
            prefetch_count=self._prefetch or 1,
            callback=lambda _frame: self._put(AcksProcessed(self._name, epoch, mark)),
        )
