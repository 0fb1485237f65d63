"""Streams of valid AMQP methods with damage in between, chosen by the bytes of an input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pamqp import base, body, commands, frame, header

from tests.fuzz.target import Source

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
NAMES = ("q", "durable", "x", "", "mine", "amq.direct", "q\xe9")
LARGEST_BODY = 64 << 10  # bytes, the limit of the broker under test


def method(one: base.Frame, channel: int = 1) -> bytes:
    """A method's frame."""
    return frame.marshal(one, channel)


def opening(user: str, *, password: str = "right", frame_max: int = 0) -> bytes:
    """What a client sends until channel 1 is open."""
    capabilities = {"consumer_cancel_notify": True, "connection.blocked": True}
    properties = {"capabilities": {**capabilities, "authentication_failure_close": True}}
    return (
        PROTOCOL_HEADER
        + method(
            commands.Connection.StartOk(properties, "PLAIN", f"\0{user}\0{password}", "en_US"), 0
        )
        + method(commands.Connection.TuneOk(0, frame_max, 0), 0)
        + method(commands.Connection.Open("/"), 0)
        + method(commands.Channel.Open())
    )


def declare(name: str, *, durable: bool) -> bytes:
    """Declare a queue."""
    return method(commands.Queue.Declare(queue=name, durable=durable))


def publish(exchange: str, key: str, content: bytes, *, channel: int = 1, **more: Any) -> bytes:
    """A whole message."""
    properties = commands.Basic.Properties(delivery_mode=2 if more.pop("durable", 0) else 1)
    return (
        method(commands.Basic.Publish(exchange=exchange, routing_key=key, **more), channel)
        + frame.marshal(header.ContentHeader(0, len(content), properties), channel)
        + b"".join(
            frame.marshal(body.ContentBody(content[at : at + 4000]), channel)
            for at in range(0, len(content), 4000)
        )
    )


def _flag(source: Source) -> bool:
    return bool(source.number() & 1)


def _name(source: Source) -> str:
    return source.pick(NAMES[:4]) if source.number() % 8 else source.pick(NAMES)


def _publish(source: Source) -> bytes:
    content = (source.piece() or b"x") * source.pick((1, 1, 1, 20, 200))
    return publish(
        source.pick(("", "", "x", "nowhere")),
        _name(source),
        content[:LARGEST_BODY],
        durable=_flag(source),
        mandatory=_flag(source),
    )


def _half(source: Source) -> bytes:
    """The begin of a message, then pieces of it that may never end."""
    size = source.pick((0, 1, 10, 60_000, 70_000, 1 << 40))
    head = header.ContentHeader(0, size, commands.Basic.Properties())
    parts = [method(commands.Basic.Publish(routing_key="q")), frame.marshal(head, 1)]
    parts += [frame.marshal(body.ContentBody(source.piece()), 1) for _ in range(source.number())]
    return b"".join(parts[: source.number() + 1])


C = commands
STEPS: tuple[Callable[[Source], bytes], ...] = (
    _publish,
    _publish,
    _half,
    lambda s: method(
        C.Queue.Declare(
            queue=_name(s),
            passive=_flag(s),
            durable=_flag(s),
            exclusive=_flag(s),
            auto_delete=_flag(s),
            nowait=_flag(s),
        )
    ),
    lambda s: method(C.Exchange.Declare(exchange=_name(s), passive=_flag(s), durable=_flag(s))),
    lambda s: method(C.Queue.Bind(queue=_name(s), exchange="x", routing_key=_name(s))),
    lambda s: method(C.Queue.Unbind(queue=_name(s), exchange="x", routing_key=_name(s))),
    lambda s: method(C.Queue.Purge(queue=_name(s), nowait=_flag(s))),
    lambda s: method(C.Queue.Delete(queue=_name(s), if_unused=_flag(s), if_empty=_flag(s))),
    lambda s: method(
        C.Basic.Consume(
            queue=_name(s), consumer_tag=s.pick(("", "a", "b")), no_ack=_flag(s), exclusive=_flag(s)
        )
    ),
    lambda s: method(C.Basic.Cancel(consumer_tag=s.pick(("a", "b", "c")), nowait=_flag(s))),
    lambda s: method(C.Basic.Get(queue=_name(s), no_ack=_flag(s))),
    lambda s: method(C.Basic.Get(queue="q")) * s.number(),
    lambda s: method(C.Basic.Ack(s.number() % 8, multiple=_flag(s))),
    lambda s: method(C.Basic.Nack(s.number() % 8, multiple=_flag(s), requeue=_flag(s))),
    lambda s: (method(C.Basic.Get(queue="q")) + method(C.Basic.Nack(0, True, True))) * s.number(),
    lambda s: method(C.Basic.Reject(s.number() % 8, requeue=_flag(s))),
    lambda s: method(C.Basic.Qos(prefetch_count=s.number() % 4, global_=_flag(s))),
    lambda s: method(C.Basic.Recover(requeue=_flag(s))),
    lambda s: method(C.Confirm.Select(nowait=_flag(s))),
    lambda s: method(C.Channel.Flow(active=_flag(s))),
    lambda s: method(C.Channel.Open(), s.number() % 6),
    lambda s: method(C.Channel.Close(0, "", 0, 0), s.number() % 6),
    lambda s: method(C.Channel.CloseOk(), s.number() % 6),
    lambda s: method(C.Connection.Close(0, "", 0, 0), s.number() % 2),
    lambda _: method(C.Connection.CloseOk(), 0),
    lambda s: method(C.Connection.TuneOk(0, s.number() << 8, 0), 0),
    lambda _: method(C.Tx.Select()),
    lambda _: b"\x08\x00\x00\x00\x00\x00\x00\xce",
    lambda s: s.piece(),
)
DAMAGE = len(STEPS)


def _step(number: int, source: Source) -> bytes:
    try:
        return STEPS[number](source)
    except ValueError:  # pamqp does not write what AMQP does not allow; damage does that
        return b""


def script(source: Source, user: str) -> bytes:
    """A stream of valid methods; a step beyond the last one damages the next."""
    stream = [opening(user)]
    while source.left:
        step = source.number() % (DAMAGE + 2)
        if step < DAMAGE:
            stream.append(_step(step, source))
            continue
        at, value = source.number(), source.number()
        next_one = bytearray(_step(source.number() % DAMAGE, source))
        if next_one:
            next_one[at % len(next_one)] = value
        stream.append(bytes(next_one[: len(next_one) - (value if step > DAMAGE else 0)]))
    return b"".join(stream)
