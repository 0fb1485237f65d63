"""The publishing side of a channel: assembling messages, routing them, confirming them.

A confirm is sent once every queue that took the message has it as safe as it asked to be: in
memory, or on disk for a persistent message in a durable queue. Confirms of one turn of the event
loop are folded into as few frames as possible. Owned by one channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pamqp import commands

from cep.hub.broker import frames
from cep.hub.broker.frames import Properties, Publication
from cep.hub.broker.queues import Message
from cep.hub.broker.replies import ChannelFault, Code, ConnectionFault

if TYPE_CHECKING:
    from cep.hub.broker.broker import Broker
    from cep.hub.broker.connection import Connection
    from cep.hub.broker.queues import Queue
    from cep.hub.broker.store import Done


class Confirms:
    """Publisher confirms of one channel: which publishes are answered, and with what."""

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, int] = {}
        self._acked: list[int] = []
        self._nacked: list[int] = []
        self._failed: set[int] = set()

    def expect(self, answers: int) -> int:
        """Number one more publish, which so many answers settle; return its tag."""
        self._last += 1
        self._open[self._last] = answers
        return self._last

    def answer(self, tag: int, *, safe: bool) -> bool:
        """Count an answer; True when the publish is settled by it."""
        if not safe:
            self._failed.add(tag)
        self._open[tag] -= 1
        if self._open[tag] > 0:
            return False
        del self._open[tag]
        if tag in self._failed:
            self._failed.discard(tag)
            self._nacked.append(tag)
        else:
            self._acked.append(tag)
        return True

    def frames(self, channel: int) -> bytes:
        """The frames for everything settled since the last call."""
        parts = [
            frames.encode_method(channel, commands.Basic.Nack(tag, multiple=False))
            for tag in self._nacked
        ]
        lowest = next(iter(self._open), self._last + 1)
        below = [tag for tag in self._acked if tag < lowest]
        if below:
            parts.append(frames.encode_ack(channel, max(below), multiple=len(below) > 1))
        parts += [
            frames.encode_ack(channel, tag, multiple=False) for tag in self._acked if tag > lowest
        ]
        self._acked, self._nacked = [], []
        return b"".join(parts)


class Publishing:
    """Takes the publishes of one channel."""

    def __init__(self, number: int, connection: Connection, broker: Broker) -> None:
        self._number = number
        self._connection = connection
        self._broker = broker
        self._publication: Publication | None = None
        self._properties = b""
        self._size = -1
        self._held = 0
        self._body: bytes | bytearray = b""
        self.confirms: Confirms | None = None

    @property
    def busy(self) -> bool:
        """Whether the content of a message is still to come."""
        return self._publication is not None

    def begin(self, publication: Publication) -> None:
        """A basic.publish arrived; its content follows.

        Raises:
            ChannelFault: 403 when the user may not, 404 when there is no such exchange.
        """
        exchange, key = publication.exchange, publication.routing_key
        identity = self._connection.identity
        if not identity.may_publish(exchange, key):
            raise ChannelFault(
                Code.ACCESS_REFUSED,
                f"write access to exchange '{exchange or 'amq.default'}' with routing key "
                f"'{key}' in vhost '/' refused for user '{identity.name}'",
            )
        if exchange:
            self._broker.exchange(exchange)
        self._publication = publication
        self._size = -1

    def header(self, payload: bytes) -> None:
        """A content header arrived.

        Raises:
            ChannelFault: 406 when the body will be larger than allowed.
            ConnectionFault: 505 when none was due; 506 when too much is on its way at once.
        """
        if self._publication is None or self._size >= 0:
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "a content header was not expected here")
        size, self._properties = frames.decode_content_header(payload)
        limit = self._broker.limits.body_bytes
        if size > limit:
            self._publication = None
            raise ChannelFault(
                Code.PRECONDITION_FAILED,
                f"message size {size} is larger than configured max size {limit}",
            )
        if not self._connection.assemble(size):
            raise ConnectionFault(Code.RESOURCE_ERROR, f"unfinished messages exceed {limit} bytes")
        self._held = size
        self._size = size
        if size == 0:
            self._complete(self._publication)

    def body(self, payload: bytes) -> None:
        """A piece of the body arrived.

        Raises:
            ConnectionFault: 505 when none was due, or more came than announced.
        """
        if self._publication is None or self._size < len(payload):
            raise ConnectionFault(Code.UNEXPECTED_FRAME, "a content body was not expected here")
        if not self._body:
            self._body = payload
        else:
            # Not a list of pieces: an object for each byte would be many times the announced size.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += payload
        self._size -= len(payload)
        if self._size == 0:
            self._complete(self._publication)

    def abandon(self) -> None:
        """The channel is closed; what was assembled is dropped."""
        self._connection.assemble(-self._held)
        self._held = 0
        self._body = b""
        self._publication = None

    def _complete(self, publication: Publication) -> None:
        body = bytes(self._body)
        raw = self._properties
        self.abandon()
        properties = frames.read_properties(raw)
        user = self._connection.user
        if properties.user_id is not None and properties.user_id != user:
            raise ChannelFault(
                Code.PRECONDITION_FAILED,
                f"user_id property set to '{properties.user_id}' but authenticated user was "
                f"'{user}'",
            )
        queues = self._broker.route(publication.exchange, publication.routing_key)
        if not queues and publication.mandatory:
            returned = frames.encode_return(
                self._number, Code.NO_ROUTE, "NO_ROUTE", publication.route
            )
            content = frames.encode_content(self._number, raw, body, self._connection.frame_max)
            self._connection.send(returned, *content)
        self._hand_out(publication, queues, properties, raw, body)
        self._broker.memory.hold_up(self._connection)

    def _hand_out(
        self,
        publication: Publication,
        queues: list[Queue],
        properties: Properties,
        raw: bytes,
        body: bytes,
    ) -> None:
        done: Done | None = None
        if self.confirms is not None:
            done = self._confirm_of(self.confirms, max(1, len(queues)))
            if not queues:
                done(True)
        for queue in queues:
            if queue.refuses(len(body)):
                if done is not None:
                    done(False)
                continue
            message = Message(
                next(self._broker.sequence),
                publication.route,
                raw,
                len(body),
                body,
                persistent=properties.persistent and queue.stored,
            )
            queue.offer(message, done)

    def _confirm_of(self, confirms: Confirms, answers: int) -> Done:
        tag = confirms.expect(answers)

        def answered(safe: bool) -> None:
            if confirms.answer(tag, safe=safe):
                self._connection.confirm_soon(self._number, confirms)

        return answered
