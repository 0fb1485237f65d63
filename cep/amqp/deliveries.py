"""Ordinary deliveries, read in one pass: what a broker sends for nearly every task. No thread.

pika reads a delivery frame by frame: each is cut out and becomes objects, somebody who waits for it
is looked for, and a channel puts the frames together. An ordinary delivery is three frames that lie
one after another in what was read: Basic.Deliver; a header with no properties but a delivery mode
and headers that are all texts; and the whole body, which is not empty. `read` finds in it what pika
finds, by one walk from its first byte to its last.

It knows nothing else. For what is longer, rarer, damaged or not yet here as a whole it returns
None, and the caller goes pika's way, which takes all.

The deliveries of one queue are alike: their tag, their body and the texts in their headers differ,
and these texts are ids of one length. So a `Reader` keeps what two in a row had in common as a
`_Mould`, and what fits into that is read in one step.

Source of the layouts: AMQP 0-9-1 specification, sections 2.3.5 and 4.2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from pika import BasicProperties, frame, spec

FRAMES = 3  # of an ordinary delivery

# Type, channel and size of the frame; method; length of the consumer tag.
_METHOD = struct.Struct(">BHIIB")
# Delivery tag; bits, the lowest of which is `redelivered`; length of the exchange's name.
_DELIVERED = struct.Struct(">QBB")
# Type, channel and size of the frame; class, weight (without meaning), size of the body; flags.
_HEADER = struct.Struct(">BHIHHQH")
# Type, channel and size of the frame.
_BODY = struct.Struct(">BHI")
_LENGTH = struct.Struct(">I")
# What precedes the size of a frame in it, and the size of the body in a header frame.
_SIZE_AT, _BODY_SIZE_AT = struct.calcsize(">BH"), struct.calcsize(">BHIHH")
# Looked up once and not for each message.
_HEAD_BYTES, _END = spec.FRAME_HEADER_SIZE, spec.FRAME_END
_DELIVER, _BASIC = spec.Basic.Deliver.INDEX, BasicProperties.INDEX
_HEADERS, _MODE = BasicProperties.FLAG_HEADERS, BasicProperties.FLAG_DELIVERY_MODE
_OTHERS = 0xFFFF & ~(_HEADERS | _MODE)
_TEXT = ord("S")


class Received(NamedTuple):
    """One delivery, all of it.

    Attributes:
        number: Of the channel.
        consumer_tag: Whom it is for.
        tag: The broker's delivery tag.
        redelivered: The broker says it may have been delivered before.
        exchange: Where it was published.
        routing_key: The key it was published with.
        headers: None when it has none; may hold anything when pika has read them.
        mode: The delivery mode, None when it has none.
        body: A copy.
    """

    number: int
    consumer_tag: str
    tag: int
    redelivered: bool
    exchange: str
    routing_key: str
    headers: dict[str, Any] | None
    mode: int | None
    body: bytes

    def as_pika(self) -> tuple[Any, Any, bytes]:
        """What pika makes of it: method frame, header frame and body."""
        method = spec.Basic.Deliver(
            self.consumer_tag, self.tag, self.redelivered, self.exchange, self.routing_key
        )
        properties = BasicProperties(headers=self.headers, delivery_mode=self.mode)
        return (
            frame.Method(self.number, method),
            frame.Header(self.number, len(self.body), properties),
            self.body,
        )


class Taker:
    """A consumer's callback for pika that ordinary deliveries reach without pika's objects.

    Args:
        take: Called with each delivery.
    """

    __slots__ = ("take",)

    def __init__(self, take: Callable[[Received], None]) -> None:
        self.take = take

    def __call__(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        """Take a delivery that pika has read."""
        self.take(
            Received(
                channel.channel_number,
                method.consumer_tag,
                method.delivery_tag,
                bool(method.redelivered),
                method.exchange or "",
                method.routing_key or "",
                properties.headers,
                properties.delivery_mode,
                body,
            )
        )


# Without the detour through what a named tuple does about its arguments.
_received: Callable[[tuple[Any, ...]], Received] = partial(tuple.__new__, Received)


class Reader:
    """Reads the ordinary deliveries of one connection, in its thread."""

    def __init__(self) -> None:
        self._mould: _Mould | None = None
        self._head_bytes = 0  # of the last delivery that fitted into no mould

    def read(self, data: bytes, at: int) -> tuple[Received, int] | None:
        """The ordinary delivery that begins here, or None: whatever else it is, pika reads it.

        Args:
            data: Frames, the last one perhaps not complete.
            at: Where in it a frame begins.

        Returns:
            It, and where in the data the next frame begins.
        """
        if self._mould is not None and (found := self._mould.read(data, at)) is not None:
            return found
        walked = _walk(data, at)
        if walked is None:
            return None
        message, end, texts = walked
        head_bytes = end - at - len(message.body)
        if head_bytes == self._head_bytes:  # two alike, so there will be more
            self._mould = _Mould(data, at, message, texts)
        self._head_bytes = head_bytes
        return message, end


# Name of a text in a table, where it begins and where it ends.
_Texts = list[tuple[str, int, int]]


class _Mould:
    """All that precedes the body of a delivery, with room for what may differ in the next one.

    Args:
        data: Where the delivery was read from.
        at: Where it begins.
        message: What was read.
        texts: Those in its headers.
    """

    def __init__(self, data: bytes, at: int, message: Received, texts: _Texts) -> None:
        self._before = message[:2]
        self._between = message[4:6]
        self._mode = message.mode
        self._names = None if message.headers is None else [name for name, _, _ in texts]
        # What may differ, as (format, where it is): tag and bits, the body's size in the header
        # frame, the texts, and the body's size in its frame. All else is constant.
        tag_at = at + _METHOD.size + data[at + _METHOD.size - 1]
        (method_size,) = _LENGTH.unpack_from(data, at + _SIZE_AT)
        header_at = at + _HEAD_BYTES + method_size + 1
        (header_size,) = _LENGTH.unpack_from(data, header_at + _SIZE_AT)
        body_at = header_at + _HEAD_BYTES + header_size + 1
        places = [("QB", tag_at), ("Q", header_at + _BODY_SIZE_AT)]
        places += [(f"{end - start}s", start) for _, start, end in texts]
        places.append(("I", body_at + _SIZE_AT))
        layout, reached = ">", at
        for size, place in places:
            layout += f"{place - reached}s{size}"
            reached = place + struct.calcsize(f">{size}")
        form = struct.Struct(layout)
        self._unpack, self._size = form.unpack_from, form.size
        self._constants = itemgetter(0, *range(3, 6 + 2 * len(texts), 2))
        self._constant = self._constants(self._unpack(data, at))

    def read(self, data: bytes, at: int) -> tuple[Received, int] | None:
        """The delivery that begins here, and where the next frame does; None if it does not fit."""
        try:
            found = self._unpack(data, at)
            if self._constants(found) != self._constant:
                return None
            size = found[-1]
            start = at + self._size
            end = start + size
            if size != found[4] or not size or data[end] != _END:
                return None
            headers = None
            if self._names is not None:
                texts = map(bytes.decode, found[6:-1:2])
                headers = dict(zip(self._names, texts))  # noqa: B905 (as many; to ask costs)
        except (struct.error, IndexError, UnicodeDecodeError):
            return None
        rest = (headers, self._mode, data[start:end])
        bits = (found[1], found[2] & 1 != 0)
        return _received((*self._before, *bits, *self._between, *rest)), end + 1


def _walk(data: bytes, at: int) -> tuple[Received, int, _Texts] | None:
    """What `Reader.read` returns, and the texts of the headers; without knowing what to expect."""
    # Every part begins where the one before it ends, so that the last one ends where its frame does
    # tells of all of them that none reaches beyond it.
    try:
        kind, number, size, index, length = _METHOD.unpack_from(data, at)
        if index != _DELIVER or kind != spec.FRAME_METHOD:
            return None
        start = at + _METHOD.size
        after = start + length
        consumer_tag = data[start:after].decode()
        tag, bits, length = _DELIVERED.unpack_from(data, after)
        start = after + _DELIVERED.size
        after = start + length
        exchange = data[start:after].decode()
        start = after + 1
        end = start + data[after]
        routing_key = data[start:end].decode()
        if end != at + _HEAD_BYTES + size or data[end] != _END:
            return None

        at = end + 1
        kind, same, size, index, _, body_size, flags = _HEADER.unpack_from(data, at)
        if kind != spec.FRAME_HEADER or same != number or index != _BASIC or flags & _OTHERS:
            return None
        end = at + _HEADER.size
        headers = mode = None
        texts: _Texts = []
        if flags & _HEADERS:
            texts, end = _texts(data, end)
            headers = {name: data[start:after].decode() for name, start, after in texts}
        if flags & _MODE:
            mode = data[end]
            end += 1
        if end != at + _HEAD_BYTES + size or data[end] != _END:
            return None

        at = end + 1
        kind, same, size = _BODY.unpack_from(data, at)
        start = at + _BODY.size
        end = start + size
        if kind != spec.FRAME_BODY or same != number or size != body_size or not size:
            return None
        if data[end] != _END:
            return None
    except (IndexError, UnicodeDecodeError, struct.error, _OtherTable):
        return None
    redelivered, body = bits & 1 != 0, data[start:end]
    message = Received(
        number, consumer_tag, tag, redelivered, exchange, routing_key, headers, mode, body
    )
    return message, end + 1, texts


class _OtherTable(Exception):
    """A table with other values than texts."""


def _texts(data: bytes, at: int) -> tuple[_Texts, int]:
    """The texts of the table that begins here, and where it ends.

    Raises:
        _OtherTable: It has other values as well.
        IndexError, UnicodeDecodeError, struct.error: It only looks like one.
    """
    found: _Texts = []
    (size,) = _LENGTH.unpack_from(data, at)
    at += _LENGTH.size
    limit = at + size
    while at < limit:
        after = at + 1 + data[at]
        name = data[at + 1 : after].decode()
        if data[after] != _TEXT:
            raise _OtherTable
        (length,) = _LENGTH.unpack_from(data, after + 1)
        start = after + 1 + _LENGTH.size
        at = start + length
        found.append((name, start, at))
    return found, at
