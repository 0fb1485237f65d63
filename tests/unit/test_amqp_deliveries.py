"""The short road of ordinary deliveries, beside pika's own reader: a channel sees no difference.

Both connections have real channels of pika and no socket. These tests also speak when a later pika
has other inner parts than the connection relies on.
"""

from __future__ import annotations

from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties, frame, spec

from cep.amqp import deliveries
from cep.amqp.connection import Connection
from cep.amqp.loop import quieten_pika

MOST = 12  # bytes of a body frame
CONSUMED, CANCELLED, UNKNOWN = "consumed", "cancelled", "nobody's"
CLOSES, CANCELS = b"close", b"cancel"  # bodies that tell the consumer what to do
ORDINARY = BasicProperties(delivery_mode=2, headers={"task_uuid": "t", "function_uuid": "fü"})


class _WithoutSocket:
    """A connection with two channels, one consumer cancelled in each, that keeps what it does."""

    def __init__(self) -> None:
        quieten_pika()
        self._corked = False
        self._gathered: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        self._frame_buffer = b""
        self._heartbeat_checker = None
        self._body_max_length = MOST
        self.bytes_sent = self.frames_sent = self.bytes_received = self.frames_received = 0
        self.connection_state = pika.connection.Connection.CONNECTION_OPEN
        self.callbacks = pika.callback.CallbackManager()
        self.sent = b""
        self.seen: list[str] = []
        self._channels = {n: pika.channel.Channel(self, n, lambda _channel: None) for n in (1, 2)}
        self.channels = list(self._channels.values())
        for number, channel in self._channels.items():
            channel.open()
            self.hear(frame.Method(number, spec.Channel.OpenOk()).marshal())
            for tag in (CONSUMED, CANCELLED):
                channel.basic_consume("queue", self._take, consumer_tag=tag)
                self.hear(frame.Method(number, spec.Basic.ConsumeOk(tag)).marshal())
            channel.basic_cancel(CANCELLED, callback=lambda _frame: None)

    def __repr__(self) -> str:
        return "connection"  # in pika's errors, of either

    def _adapter_emit_data(self, data: bytes) -> None:
        self.sent += data

    def _take(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.seen.append(f"{channel.channel_number} {method!r} {properties!r} {body!r}")
        if body == CLOSES and channel.is_open:
            channel.close()
        if body == CANCELS and channel.is_open:
            channel.basic_cancel(method.consumer_tag, callback=lambda _frame: None)

    def hear(self, piece: bytes) -> None:
        try:
            self._on_data_available(piece)  # type: ignore[attr-defined]
        except Exception as error:
            self.seen.append(repr(error))

    def state(self) -> list[object]:
        """All that a channel, the heartbeat checker and a broker can tell of what was read."""
        found: list[object] = [self.seen, self.sent, self._frame_buffer]
        found += [self.bytes_received, self.frames_received, sorted(self._channels)]
        for channel in self.channels:
            found += [channel.is_open, channel.is_closing, channel.consumer_tags]
            found.append({k: repr(v) for k, v in vars(channel._content_assembler).items()})
        return found


class Ours(_WithoutSocket, Connection):
    """The connection under test."""


class Pikas(_WithoutSocket, pika.SelectConnection):  # type: ignore[misc]
    """pika alone."""


def delivery(
    body: bytes,
    properties: BasicProperties = ORDINARY,
    *,
    number: int = 1,
    consumer: str = CONSUMED,
    tag: int = 1,
    redelivered: bool = False,
    key: str = "key",
) -> bytes:
    """What a broker sends for one message."""
    parts = [body[at : at + MOST] for at in range(0, len(body), MOST)]
    method = spec.Basic.Deliver(consumer, tag, redelivered, "exchange", key)
    frames = [
        frame.Method(number, method),
        frame.Header(number, len(body), properties),
        *(frame.Body(number, part) for part in parts),
    ]
    return b"".join(one.marshal() for one in frames)


short = st.text(max_size=8)
numbers = st.sampled_from([1, 1, 1, 2, 3])  # nobody has opened the third
headers = st.dictionaries(short, short) | st.dictionaries(
    short, short | st.integers(-9, 9) | st.booleans() | st.binary(max_size=3) | st.lists(short)
)
properties = st.just(ORDINARY) | st.builds(
    BasicProperties,
    headers=headers | st.none(),
    delivery_mode=st.sampled_from([1, 2, None]),
    content_type=short | st.none(),
    priority=st.integers(0, 9) | st.none(),
    timestamp=st.integers(0, 2**40) | st.none(),
    app_id=short | st.none(),
)
messages = st.builds(
    delivery,
    st.binary(min_size=1, max_size=MOST) | st.binary(max_size=3 * MOST)
    | st.sampled_from([CLOSES, CANCELS]),
    properties,
    number=numbers,
    consumer=st.sampled_from([CONSUMED, CONSUMED, CONSUMED, CANCELLED, UNKNOWN]),
    tag=st.integers(0, 2**64 - 1),
    redelivered=st.booleans(),
    key=short,
)  # fmt: skip
methods = st.sampled_from(
    [
        spec.Basic.Deliver(CONSUMED, 7, False, "exchange", "key"),
        spec.Basic.Return(312, "NO_ROUTE", "exchange", "key"),
        spec.Basic.Ack(3, True),
        spec.Basic.Cancel(CONSUMED),
        spec.Basic.CancelOk(CANCELLED),
        spec.Channel.CloseOk(),
        spec.Channel.Close(406, "PRECONDITION_FAILED", 60, 80),
    ]
)
# Single frames, so that messages come without their beginning, without their end, and in others.
others = (
    st.builds(frame.Method, numbers, methods)
    | st.builds(frame.Header, numbers, st.integers(0, 2 * MOST), properties)
    | st.builds(frame.Body, numbers, st.binary(max_size=MOST))
    | st.just(frame.Heartbeat())
).map(lambda one: one.marshal())
streams = st.lists(messages | messages | messages | others, max_size=8).map(b"".join)


def heard_alike(stream: bytes, cuts: list[int]) -> None:
    ours, pikas = Ours(), Pikas()
    ends = [*sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    at = 0
    for end in ends:
        ours.hear(stream[at:end])
        pikas.hear(stream[at:end])
        assert ours.state() == pikas.state()
        at = end


cuts = st.lists(st.integers(0, 10_000), max_size=4)


@given(streams, cuts)
def test_whatever_a_broker_sends_and_however_it_is_cut_channels_see_what_pika_shows_them(
    stream: bytes, cuts: list[int]
) -> None:
    heard_alike(stream, cuts)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("consumer", [CONSUMED, CANCELLED, UNKNOWN])
@pytest.mark.parametrize("body", [b"one", CLOSES, CANCELS])
def test_whom_a_delivery_is_for_and_whether_he_still_takes_any_is_pikas_to_know(
    number: int, consumer: str, body: bytes
) -> None:
    first = delivery(body, number=number, consumer=consumer)
    heard_alike(first + delivery(b"another", tag=2, number=number), [])


def test_a_delivery_with_any_damaged_byte_is_taken_as_pika_takes_it() -> None:
    first, second = delivery(b"damaged"), delivery(b"sound", tag=2)
    for where, byte in enumerate(first):
        for value in {(byte + 1) % 256, (byte + 2) % 256, 255} - {byte}:
            heard_alike(first[:where] + bytes((value,)) + first[where + 1 :] + second, [])


def test_an_ordinary_delivery_is_not_read_by_pika(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Ours()
    bare = BasicProperties(delivery_mode=1)
    stream = delivery(b"one") + delivery(b"two", bare, tag=2, redelivered=True, number=2)
    monkeypatch.setattr(frame, "decode_frame", lambda _data: pytest.fail("pika reads"))
    ours.hear(stream)
    assert [one.split()[-1] for one in ours.seen] == ["b'one'", "b'two'"]
    assert "redelivered=True" in ours.seen[1]


def test_a_delivery_that_is_not_here_as_a_whole_is_left_to_pika() -> None:
    whole = delivery(b"x" * MOST)
    assert deliveries.read(b"before" + whole + b"after", 6) is not None
    for end in range(len(whole)):
        assert deliveries.read(whole[:end], 0) is None


def test_a_body_frame_after_an_empty_message_is_no_part_of_it() -> None:
    heard_alike(delivery(b"") + frame.Body(1, b"").marshal(), [])


def test_a_message_within_another_one_is_not_given_on_its_own() -> None:
    """The channel is in the midst of a message: a breach by the broker, which pika answers."""
    begun = frame.Method(1, spec.Basic.Deliver(CONSUMED, 1, False, "exchange", "key")).marshal()
    parts = begun + frame.Header(1, 5, ORDINARY).marshal() + frame.Body(1, b"ab").marshal()
    heard_alike(parts + delivery(b"xyz", tag=2), [])
    heard_alike(begun + delivery(b"xyz", tag=2), [])
