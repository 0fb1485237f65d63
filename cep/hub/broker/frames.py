"""Frames and methods: bytes to values and back, over pamqp's codec.

pamqp knows every method; the three that travel with each message (publish, ack, deliver) and the
content are packed here by hand, since their cost is the broker's throughput. Names, routing keys
and properties of a message stay the bytes the publisher sent, so that any field table survives
unchanged. No state, no I/O.

Source of the layouts: AMQP 0-9-1 specification, sections 2.3.5 and 4.2.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from pamqp import base, commands, frame

from cep.hub.broker.replies import Code, ConnectionFault, not_implemented

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 0xCE
FRAME_HEAD = struct.Struct(">BHI")
FRAME_OVERHEAD = 8
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
MIN_FRAME_MAX = 4096

PUBLISH = commands.Basic.Publish.index
ACK = commands.Basic.Ack.index

_CONTENT_HEAD = struct.Struct(">HHQ")
_ACK_BODY = struct.Struct(">QB")
_ACK_FRAME = struct.Struct(">BHIIQBB")
_DELIVER_TAIL = struct.Struct(">QB")

_FLAGGED = (
    # (flag bit, kind) in wire order: s = short string, t = table, o = octet, T = 64-bit time.
    (15, "s"),  # content_type
    (14, "s"),  # content_encoding
    (13, "t"),  # headers
    (12, "o"),  # delivery_mode
    (11, "o"),  # priority
    (10, "s"),  # correlation_id
    (9, "s"),  # reply_to
    (8, "s"),  # expiration
    (7, "s"),  # message_id
    (6, "T"),  # timestamp
    (5, "s"),  # type
    (4, "s"),  # user_id
    (3, "s"),  # app_id
    (2, "s"),  # cluster_id
)
_DELIVERY_MODE, _EXPIRATION, _USER_ID = 12, 8, 4


class Publication(NamedTuple):
    """One basic.publish: `route` is exchange and routing key as they came over the wire."""

    exchange: str
    routing_key: str
    route: bytes
    mandatory: bool


class Properties(NamedTuple):
    """What the broker itself has to know of a message's properties."""

    persistent: bool
    user_id: str | None


def decode_method(payload: bytes) -> base.Frame:
    """Decode a method frame's payload.

    Raises:
        ConnectionFault: 540 for a method that AMQP does not have, 502 for a damaged one.
    """
    index = int.from_bytes(payload[:4], "big")
    kind = commands.INDEX_MAPPING.get(index)
    if kind is None or len(payload) < 4:
        raise not_implemented(f"method {index >> 16}.{index & 0xFFFF}")
    method: base.Frame = kind()
    try:
        method.unmarshal(payload[4:])
    except Exception as exc:  # the codec raises whatever the garbage leads it to
        raise ConnectionFault(Code.SYNTAX_ERROR, f"{method.name} cannot be decoded") from exc
    return method


def encode_method(channel: int, method: base.Frame) -> bytes:
    """The whole frame of a method."""
    return frame.marshal(method, channel)


def decode_publish(payload: bytes) -> Publication:
    """Decode basic.publish.

    Raises:
        ConnectionFault: 502 when damaged; 540 for `immediate`, which RabbitMQ refuses as well.
    """
    try:
        middle = 7 + payload[6]
        end = middle + 1 + payload[middle]
        bits = payload[end]
        exchange = str(payload[7:middle], "utf-8")
        routing_key = str(payload[middle + 1 : end], "utf-8", "surrogateescape")
    except (IndexError, UnicodeDecodeError) as exc:
        raise ConnectionFault(Code.SYNTAX_ERROR, "Basic.Publish cannot be decoded") from exc
    if bits & 2:
        raise not_implemented("immediate=true")
    return Publication(exchange, routing_key, payload[6:end], bool(bits & 1))


def decode_ack(payload: bytes) -> tuple[int, bool]:
    """Decode basic.ack: delivery tag, multiple."""
    try:
        tag, bits = _ACK_BODY.unpack_from(payload, 4)
    except struct.error as exc:
        raise ConnectionFault(Code.SYNTAX_ERROR, "Basic.Ack cannot be decoded") from exc
    return tag, bool(bits & 1)


def encode_ack(channel: int, tag: int, *, multiple: bool) -> bytes:
    """The whole frame of basic.ack, the confirm of a publish."""
    return _ACK_FRAME.pack(METHOD, channel, 13, ACK, tag, multiple, FRAME_END)


def short_string(text: str) -> bytes:
    """A short string as on the wire."""
    raw = text.encode("utf-8", "surrogateescape")
    return bytes((len(raw),)) + raw


def split_route(route: bytes) -> tuple[str, str]:
    """Exchange and routing key of a stored route."""
    middle = 1 + route[0]
    return (
        str(route[1:middle], "utf-8", "surrogateescape"),
        str(route[middle + 1 :], "utf-8", "surrogateescape"),
    )


def encode_deliver(
    channel: int, consumer_tag: bytes, tag: int, *, redelivered: bool, route: bytes
) -> bytes:
    """The method frame of basic.deliver; `consumer_tag` is a short string as on the wire."""
    payload = b"".join(
        (b"\x00\x3c\x00\x3c", consumer_tag, _DELIVER_TAIL.pack(tag, redelivered), route)
    )
    return _method(channel, payload)


def encode_get_ok(channel: int, tag: int, *, redelivered: bool, route: bytes, left: int) -> bytes:
    """The method frame of basic.get-ok; `left` is the number of messages still there."""
    head = b"\x00\x3c\x00\x47" + _DELIVER_TAIL.pack(tag, redelivered)
    return _method(channel, head + route + min(left, 0xFFFFFFFF).to_bytes(4, "big"))


def encode_return(channel: int, code: int, text: str, route: bytes) -> bytes:
    """The method frame of basic.return."""
    head = b"\x00\x3c\x00\x32" + code.to_bytes(2, "big") + short_string(text)
    return _method(channel, head + route)


def _method(channel: int, payload: bytes) -> bytes:
    return FRAME_HEAD.pack(METHOD, channel, len(payload)) + payload + b"\xce"


def encode_content(channel: int, properties: bytes, body: bytes, frame_max: int) -> list[bytes]:
    """Header and body frames of a message, in pieces to be written one after another."""
    head = _CONTENT_HEAD.pack(60, 0, len(body)) + properties
    pieces = [FRAME_HEAD.pack(HEADER, channel, len(head)), head]
    room = frame_max - FRAME_OVERHEAD
    if len(body) <= room:
        if body:
            pieces += (b"\xce" + FRAME_HEAD.pack(BODY, channel, len(body)), body)
    else:
        for start in range(0, len(body), room):
            part = body[start : start + room]
            pieces += (b"\xce" + FRAME_HEAD.pack(BODY, channel, len(part)), part)
    pieces.append(b"\xce")
    return pieces


def decode_content_header(payload: bytes) -> tuple[int, bytes]:
    """Decode a content header: body size, and the properties as they came (flags first).

    Raises:
        ConnectionFault: 502 when it is damaged or not of class basic.
    """
    if len(payload) < 14:
        raise ConnectionFault(Code.SYNTAX_ERROR, "a content header is too short")
    kind, _weight, size = _CONTENT_HEAD.unpack_from(payload)
    if kind != 60:
        raise ConnectionFault(Code.SYNTAX_ERROR, f"a content header is of class {kind}")
    return size, payload[12:]


def read_properties(raw: bytes) -> Properties:
    """Walk over the properties to find those that the broker acts upon.

    Raises:
        ConnectionFault: 502 when they do not fill their frame exactly; 540 for an expiration,
            which this broker would otherwise silently ignore.
    """
    flags = raw[0] << 8 | raw[1]
    at = 2
    found: dict[int, bytes] = {}
    try:
        for bit, kind in _FLAGGED:
            if not flags >> bit & 1:
                continue
            if kind == "s":
                end = at + 1 + raw[at]
            elif kind == "t":
                end = at + 4 + int.from_bytes(raw[at : at + 4], "big")
            else:
                end = at + (1 if kind == "o" else 8)
            found[bit] = raw[at:end]
            at = end
    except IndexError:
        at = -1
    if at != len(raw) or flags & 3:
        raise ConnectionFault(Code.SYNTAX_ERROR, "the properties of a message cannot be decoded")
    if _EXPIRATION in found:
        raise not_implemented("a message expiration")
    user_id = found.get(_USER_ID)
    return Properties(
        persistent=found.get(_DELIVERY_MODE) == b"\x02",
        user_id=None if user_id is None else str(user_id[1:], "utf-8", "replace"),
    )
