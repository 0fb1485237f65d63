"""One channel: queue, exchange and basic methods, deliveries and their settlement.

Owned by its connection and run on the broker's event loop. A method that the client got wrong
raises a `Fault`, which the connection turns into channel.close or connection.close.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from pamqp import base, commands

from cep.hub.broker import declaring, frames
from cep.hub.broker.publishing import Confirms, Publishing
from cep.hub.broker.queues import Message, Queue
from cep.hub.broker.replies import ChannelFault, Code, ConnectionFault, not_implemented

if TYPE_CHECKING:
    from cep.hub.broker.broker import Broker
    from cep.hub.broker.connection import Connection


class Delivered(NamedTuple):
    """A message that the client has and has not settled."""

    message: Message
    queue: Queue
    consumer: ChannelConsumer | None


class ChannelConsumer:
    """A consumer as its queue sees it."""

    __slots__ = (
        "_wire_tag",
        "channel",
        "exclusive",
        "no_ack",
        "prefetch",
        "queue",
        "tag",
        "unacked",
    )

    def __init__(
        self, channel: Channel, queue: Queue, tag: str, *, no_ack: bool, exclusive: bool
    ) -> None:
        self.channel = channel
        self.queue = queue
        self.tag = tag
        self.no_ack = no_ack
        self.exclusive = exclusive
        self.prefetch = channel.prefetch
        self.unacked = 0
        self._wire_tag = frames.short_string(tag)

    def has_room(self) -> bool:
        """Whether prefetch and the connection allow one more message."""
        if not self.no_ack:
            if 0 < self.prefetch <= self.unacked:
                return False
            if 0 < self.channel.prefetch_all <= len(self.channel.unacked):
                return False
        return self.channel.connection.can_deliver()

    def deliver(self, message: Message, body: bytes) -> None:
        """Send the message; without acks it is settled by that."""
        channel = self.channel
        tag = channel.next_tag()
        channel.connection.send(
            frames.encode_deliver(
                channel.number,
                self._wire_tag,
                tag,
                redelivered=message.redelivered,
                route=message.route,
            ),
            *frames.encode_content(
                channel.number, message.properties, body, channel.connection.frame_max
            ),
        )
        if self.no_ack:
            self.queue.settle((message,))
        else:
            self.unacked += 1
            channel.unacked[tag] = Delivered(message, self.queue, self)

    def cancelled(self) -> None:
        """The queue is gone: tell a client that understands it."""
        channel = self.channel
        channel.consumers.pop(self.tag, None)
        if channel.connection.client_can("consumer_cancel_notify"):
            channel.send(commands.Basic.Cancel(self.tag, nowait=True))


class Channel:
    """One open channel.

    Attributes:
        prefetch: Limit per consumer for consumers to come; 0 is none.
        prefetch_all: Limit over the whole channel; 0 is none.
        unacked: Delivery tag -> message, in the order of delivery.
        open: False once a close was sent or received.
        last_queue: The queue declared last, which an empty name means.
    """

    def __init__(self, number: int, connection: Connection, broker: Broker) -> None:
        self.number = number
        self.connection = connection
        self.broker = broker
        self.open = True
        self.prefetch = 0
        self.prefetch_all = 0
        self.last_queue = ""
        self.consumers: dict[str, ChannelConsumer] = {}
        self.unacked: dict[int, Delivered] = {}
        self.publishing = Publishing(number, connection, broker)
        self._tag = 0

    def method(self, index: int, payload: bytes) -> None:
        """Carry out one method.

        Raises:
            Fault: The client was wrong, or wants what this broker does not have.
        """
        if self.publishing.busy:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "the content of a message was expected")
        if index == frames.PUBLISH:
            self.publishing.begin(frames.decode_publish(payload))
        elif index == frames.ACK:
            tag, multiple = frames.decode_ack(payload)
            self._acknowledge(tag, multiple)
        else:
            method = frames.decode_method(payload)
            handler = _HANDLERS.get(index)
            if handler is None:
                raise not_implemented(method.name)
            handler(self, method)

    def send(self, method: base.Frame) -> None:
        """Send a method on this channel."""
        self.connection.send(frames.encode_method(self.number, method))

    def reply(self, method: base.Frame, nowait: bool) -> Callable[[bool], None]:
        """What to call once the store has it: sends the reply, or ends the connection."""

        def done(safe: bool) -> None:
            if not safe:
                self.connection.close(Code.INTERNAL_ERROR, "the broker cannot store")
            elif self.open and not nowait:
                self.send(method)

        return done

    def queue(self, name: str) -> Queue:
        """The queue of that name; the one declared last when it is empty."""
        if not name and not self.last_queue:
            raise ChannelFault(Code.NOT_FOUND, "no previously declared queue")
        return self.broker.queue(name or self.last_queue, self.connection)

    def require(self, allowed: bool, right: str, kind: str, name: str) -> None:
        """Refuse with 403 unless allowed."""
        if not allowed:
            raise ChannelFault(
                Code.ACCESS_REFUSED,
                f"{right} access to {kind} '{name}' in vhost '/' refused for user "
                f"'{self.connection.identity.name}'",
            )

    def next_tag(self) -> int:
        """The next delivery tag."""
        self._tag += 1
        return self._tag

    def shut(self) -> None:
        """The channel is over: consumers go, unsettled messages go back to their queues."""
        self.open = False
        self.publishing.abandon()
        for consumer in list(self.consumers.values()):
            self._remove(consumer)
        unacked, self.unacked = self.unacked, {}
        _give_back(unacked.values())

    # -- consuming -----------------------------------------------------------------------

    def _consume(self, method: commands.Basic.Consume) -> None:
        if method.no_local:
            raise not_implemented("no_local=true")
        if method.arguments:
            raise not_implemented(f"consumer argument '{next(iter(method.arguments))}'")
        queue = self.queue(method.queue)
        self.require(self.connection.identity.may_read(queue.name), "read", "queue", queue.name)
        tag = method.consumer_tag or f"amq.ctag-{secrets.token_urlsafe(16)}"
        if tag in self.consumers:
            raise ConnectionFault(Code.NOT_ALLOWED, f"attempt to reuse consumer tag '{tag}'")
        most = self.broker.limits.consumers
        if len(self.consumers) >= most:
            raise ChannelFault(Code.NOT_ALLOWED, f"more than {most} consumers on one channel")
        if queue.exclusive_consumer or (method.exclusive and queue.consumers):
            raise ChannelFault(
                Code.ACCESS_REFUSED, f"queue '{queue.name}' in vhost '/' in exclusive use"
            )
        consumer = ChannelConsumer(
            self, queue, tag, no_ack=method.no_ack, exclusive=method.exclusive
        )
        self.consumers[tag] = consumer
        if not method.nowait:
            self.send(commands.Basic.ConsumeOk(tag))
        queue.add_consumer(consumer)
        queue.pump()

    def _cancel(self, method: commands.Basic.Cancel) -> None:
        consumer = self.consumers.get(method.consumer_tag or "")
        if consumer is not None:
            self._remove(consumer)
        if not method.nowait:
            self.send(commands.Basic.CancelOk(method.consumer_tag))

    def _remove(self, consumer: ChannelConsumer) -> None:
        del self.consumers[consumer.tag]
        queue = consumer.queue
        queue.remove_consumer(consumer)
        if queue.auto_delete and not queue.consumers and not queue.deleted:
            self.broker.delete_queue(queue, None)

    def _get(self, method: commands.Basic.Get) -> None:
        queue = self.queue(method.queue)
        self.require(self.connection.identity.may_read(queue.name), "read", "queue", queue.name)
        message = queue.take()
        if message is None:
            self.send(commands.Basic.GetEmpty())
            return
        tag = self.next_tag()
        self.unacked[tag] = Delivered(message, queue, None)

        def answer(body: bytes | None) -> None:
            if tag not in self.unacked or body is None:
                return
            self.connection.send(
                frames.encode_get_ok(
                    self.number,
                    tag,
                    redelivered=message.redelivered,
                    route=message.route,
                    left=len(queue.ready),
                ),
                *frames.encode_content(
                    self.number, message.properties, body, self.connection.frame_max
                ),
            )
            if method.no_ack:
                del self.unacked[tag]
                queue.settle((message,))

        def loaded(future: asyncio.Future[bytes | None]) -> None:
            answer(future.result())
            self.connection.loading(-1)

        body = queue.body_of(message)
        if body.done():
            answer(body.result())
        else:
            # Whatever the peer asks next waits, or it could have all of the store loaded at once.
            self.connection.loading(1)
            body.add_done_callback(loaded)

    def _qos(self, method: commands.Basic.Qos) -> None:
        if method.prefetch_size:
            raise not_implemented(f"prefetch_size!=0 ({method.prefetch_size})")
        if method.global_:
            self.prefetch_all = method.prefetch_count
        else:
            self.prefetch = method.prefetch_count
        self.send(commands.Basic.QosOk())
        self.pump()

    def pump(self) -> None:
        """Let the queues of this channel's consumers deliver again."""
        for consumer in list(self.consumers.values()):
            consumer.queue.pump()

    # -- settling ------------------------------------------------------------------------

    def _take_back(self, tag: int, multiple: bool) -> list[Delivered]:
        """Remove from the unacknowledged ones what the client settles."""
        if not multiple:
            found = self.unacked.pop(tag, None)
            if found is None:
                raise ChannelFault(Code.PRECONDITION_FAILED, f"unknown delivery tag {tag}")
            settled = [found]
        elif tag == 0:
            settled = list(self.unacked.values())
            self.unacked.clear()
        elif tag not in self.unacked:
            raise ChannelFault(Code.PRECONDITION_FAILED, f"unknown delivery tag {tag}")
        else:
            settled = []
            for each in list(self.unacked):
                if each > tag:
                    break
                settled.append(self.unacked.pop(each))
        return settled

    def _acknowledge(self, tag: int, multiple: bool) -> None:
        settled = self._take_back(tag, multiple)
        for queue, messages in _by_queue(settled).items():
            queue.settle(messages)
        self._give_room(settled)

    def _nack(self, method: commands.Basic.Nack) -> None:
        self._refuse(method.delivery_tag or 0, method.multiple, method.requeue)

    def _reject(self, method: commands.Basic.Reject) -> None:
        self._refuse(method.delivery_tag or 0, False, method.requeue)

    def _refuse(self, tag: int, multiple: bool, requeue: bool) -> None:
        settled = self._take_back(tag, multiple)
        if requeue:
            _give_back(settled)
        else:
            for queue, messages in _by_queue(settled).items():
                queue.settle(messages)
        self._give_room(settled, counted=requeue)

    def _give_room(self, settled: Iterable[Delivered], *, counted: bool = False) -> None:
        """Lower the consumers' counts (unless done) and let their queues deliver again."""
        if not counted:
            _uncount(settled)
        if self.prefetch_all:
            self.pump()
            return
        for queue in {each.queue for each in settled if each.consumer is not None}:
            queue.pump()

    def _recover(self, method: commands.Basic.Recover) -> None:
        if not method.requeue:
            raise not_implemented("basic.recover with requeue=false")
        self.send(commands.Basic.RecoverOk())  # ahead of what comes again
        unacked, self.unacked = self.unacked, {}
        _give_back(unacked.values())

    # -- the rest ------------------------------------------------------------------------

    def _select(self, method: commands.Confirm.Select) -> None:
        if self.publishing.confirms is None:
            self.publishing.confirms = Confirms()
        if not method.nowait:
            self.send(commands.Confirm.SelectOk())

    def _flow(self, method: commands.Channel.Flow) -> None:
        if not method.active:
            raise not_implemented("channel.flow with active=false")
        self.send(commands.Channel.FlowOk(active=True))


def _by_queue(delivered: Iterable[Delivered]) -> dict[Queue, list[Message]]:
    grouped: dict[Queue, list[Message]] = {}
    for each in delivered:
        grouped.setdefault(each.queue, []).append(each.message)
    return grouped


def _uncount(delivered: Iterable[Delivered]) -> None:
    for each in delivered:
        if each.consumer is not None:
            each.consumer.unacked -= 1


def _give_back(delivered: Iterable[Delivered]) -> None:
    delivered = list(delivered)
    _uncount(delivered)
    for queue, messages in _by_queue(delivered).items():
        queue.requeue(messages)


_HANDLERS: dict[int, Callable[[Channel, Any], None]] = {
    commands.Exchange.Declare.index: declaring.declare_exchange,
    commands.Queue.Declare.index: declaring.declare_queue,
    commands.Queue.Bind.index: declaring.bind,
    commands.Queue.Unbind.index: declaring.unbind,
    commands.Queue.Purge.index: declaring.purge,
    commands.Queue.Delete.index: declaring.delete_queue,
    commands.Basic.Qos.index: Channel._qos,
    commands.Basic.Consume.index: Channel._consume,
    commands.Basic.Cancel.index: Channel._cancel,
    commands.Basic.Get.index: Channel._get,
    commands.Basic.Nack.index: Channel._nack,
    commands.Basic.Reject.index: Channel._reject,
    commands.Basic.Recover.index: Channel._recover,
    commands.Confirm.Select.index: Channel._select,
    commands.Channel.Flow.index: Channel._flow,
}
