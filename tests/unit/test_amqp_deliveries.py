"""The short roads of deliveries and answers, beside pika's own reader: nobody sees a difference.

Both connections have real channels of pika and no socket. These tests also speak when a later pika
has other inner parts than the connection relies on.
"""

from __future__ import annotations

from functools import partial
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
# The first one's callback is ours, the second one's is of pika's form.
CONSUMED, PLAIN, CANCELLED, UNKNOWN = "consumed", "plain", "cancelled", "nobody's"
CLOSES, CANCELS = b"close", b"cancel"  # bodies that tell the consumer what to do
CLOSING_TAG = 13  # an answer that makes the publisher close its channel
ORDINARY = BasicProperties(delivery_mode=2, headers={"task_uuid": "t", "function_uuid": "fü"})


class _WithoutSocket:
    """A connection with two channels, one consumer cancelled in each, that keeps what it does."""

    def __init__(self) -> None:
        quieten_pika()
        self._corked = False
        self._gathered: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        self._frame_buffer = b""
        self._reader = deliveries.Reader()
        self._answers: dict[int, Any] = {}
        self.server_capabilities = {"basic.nack": True, "publisher_confirms": True}
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
            channel._add_on_cleanup_callback(self._on_channel_cleanup)
            channel.open()
            self.hear(frame.Method(number, spec.Channel.OpenOk()).marshal())
            if number == 1:
                self._ask_for_answers(channel)
                self.hear(frame.Method(number, spec.Confirm.SelectOk()).marshal())
            for tag in (CONSUMED, CANCELLED):
                channel.basic_consume("queue", self._callback(channel), consumer_tag=tag)
                self.hear(frame.Method(number, spec.Basic.ConsumeOk(tag)).marshal())
            channel.basic_consume("queue", self._take_from_pika, consumer_tag=PLAIN)
            self.hear(frame.Method(number, spec.Basic.ConsumeOk(PLAIN)).marshal())
            channel.basic_cancel(CANCELLED, callback=lambda _frame: None)

    def __repr__(self) -> str:
        return "connection"  # in pika's errors, of either

    def _adapter_emit_data(self, data: bytes) -> None:
        self.sent += data

    def _take_from_pika(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self.seen.append(f"{channel.channel_number} {method!r} {properties!r} {body!r}")
        self._obey(channel, method.consumer_tag, body)

    def _take(self, channel: Any, message: deliveries.Received) -> None:
        self.seen.append(f"{channel.channel_number} {message!r}")
        self._obey(channel, message.consumer_tag, message.body)

    def _obey(self, channel: Any, consumer_tag: str, body: bytes) -> None:
        if body == CLOSES and channel.is_open:
            channel.close()
        if body == CANCELS and channel.is_open:
            channel.basic_cancel(consumer_tag, callback=lambda _frame: None)

    def _answered(self, channel: Any, tag: int, multiple: bool, positive: bool) -> None:
        said = (tag, multiple, positive)
        self.seen.append(f"{channel.channel_number} answer {said} {channel.is_open}")
        if tag == CLOSING_TAG and channel.is_open:
            channel.close()

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

    def _callback(self, channel: Any) -> Any:
        return deliveries.Taker(partial(self._take, channel))

    def _ask_for_answers(self, channel: Any) -> None:
        agreed = partial(self.seen.append, "agreed")
        self.ask_for_answers(channel, partial(self._answered, channel), agreed)


class Pikas(_WithoutSocket, pika.SelectConnection):  # type: ignore[misc]
    """pika alone."""

    def _callback(self, channel: Any) -> Any:
        def take(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            found = deliveries.Received(
                channel.channel_number,
                *(method.consumer_tag, method.delivery_tag, method.redelivered),
                *(method.exchange, method.routing_key),
                *(properties.headers, properties.delivery_mode, body),
            )
            self._take(channel, found)

        return take

    def _ask_for_answers(self, channel: Any) -> None:
        def take(found: Any) -> None:
            positive = isinstance(found.method, spec.Basic.Ack)
            self._answered(channel, found.method.delivery_tag, found.method.multiple, positive)

        channel.confirm_delivery(take, callback=lambda _frame: self.seen.append("agreed"))


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
tags = st.integers(0, 2**64 - 1) | st.just(CLOSING_TAG)
messages = st.builds(
    delivery,
    st.binary(min_size=1, max_size=MOST) | st.binary(max_size=3 * MOST)
    | st.sampled_from([CLOSES, CANCELS]),
    properties,
    number=numbers,
    consumer=st.sampled_from([CONSUMED, CONSUMED, PLAIN, CANCELLED, UNKNOWN]),
    tag=tags,
    redelivered=st.booleans(),
    key=short,
)  # fmt: skip
methods = st.sampled_from(
    [
        spec.Basic.Deliver(CONSUMED, 7, False, "exchange", "key"),
        spec.Basic.Return(312, "NO_ROUTE", "exchange", "key"),
        spec.Basic.Cancel(CONSUMED),
        spec.Basic.CancelOk(CANCELLED),
        spec.Channel.CloseOk(),
        spec.Channel.Close(406, "PRECONDITION_FAILED", 60, 80),
    ]
)
answer_methods = st.builds(spec.Basic.Ack, tags, st.booleans()) | st.builds(
    spec.Basic.Nack, tags, st.booleans(), st.booleans()
)
said = st.builds(frame.Method, numbers, answer_methods).map(lambda one: one.marshal())
# Single frames, so that messages come without their beginning, without their end, and in others.
others = (
    st.builds(frame.Method, numbers, methods)
    | st.builds(frame.Header, numbers, st.integers(0, 2 * MOST), properties)
    | st.builds(frame.Body, numbers, st.binary(max_size=MOST))
    | st.just(frame.Heartbeat())
).map(lambda one: one.marshal())
# As most are: alike, so that they fit into the mould that the first two of them made.
alike = st.builds(
    delivery,
    st.binary(min_size=1, max_size=MOST) | st.sampled_from([b"", CLOSES, CANCELS]),
    st.builds(
        lambda one, other: BasicProperties(delivery_mode=2, headers={"a": one, "b": other}),
        st.sampled_from(["id-1", "id-2", "longer", "f\xfc."]),
        st.sampled_from(["id-3", "id-4", "", 5]),
    ),
    number=st.sampled_from([1, 1, 1, 1, 2]),
    tag=tags,
    redelivered=st.booleans(),
    key=st.sampled_from(["key", "key", "kez"]),
)
streams = st.lists(messages | messages | messages | said | others, max_size=8).map(b"".join)
streams_alike = st.lists(alike | alike | alike | alike | said, max_size=12).map(b"".join)


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


@given(streams | streams_alike, cuts)
def test_whatever_a_broker_sends_and_however_it_is_cut_channels_see_what_pika_shows_them(
    stream: bytes, cuts: list[int]
) -> None:
    heard_alike(stream, cuts)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("consumer", [CONSUMED, PLAIN, CANCELLED, UNKNOWN])
@pytest.mark.parametrize("body", [b"one", CLOSES, CANCELS])
def test_whom_a_delivery_is_for_and_whether_he_still_takes_any_is_pikas_to_know(
    number: int, consumer: str, body: bytes
) -> None:
    first = delivery(body, number=number, consumer=consumer)
    heard_alike(first + delivery(b"another", tag=2, number=number), [])


def test_a_delivery_with_any_damaged_byte_is_taken_as_pika_takes_it() -> None:
    first, second = delivery(b"damaged"), delivery(b"sound", tag=2)
    mould = delivery(b"one") + delivery(b"two")
    for where, byte in enumerate(first):
        for value in {(byte + 1) % 256, (byte + 2) % 256, 255} - {byte}:
            damaged = first[:where] + bytes((value,)) + first[where + 1 :]
            heard_alike(damaged + second, [])
            heard_alike(mould + damaged + second, [])


# The end of the first channel; what it had asked before that is answered first.
GONE = b"".join(
    frame.Method(1, method).marshal()
    for method in (spec.Basic.CancelOk(CANCELLED), spec.Channel.CloseOk())
)


def answer(tag: int, multiple: bool = False, *, number: int = 1, positive: bool = True) -> bytes:
    """What a broker sends for one or more published messages."""
    method = spec.Basic.Ack(tag, multiple) if positive else spec.Basic.Nack(tag, multiple, False)
    return frame.Method(number, method).marshal()  # type: ignore[no-any-return]


def test_an_answer_with_any_damaged_byte_is_taken_as_pika_takes_it() -> None:
    first, second = answer(2, True), answer(3)
    for where, byte in enumerate(first):
        for value in {(byte + 1) % 256, (byte + 2) % 256, 255} - {byte}:
            heard_alike(first[:where] + bytes((value,)) + first[where + 1 :] + second, [])


def test_answers_come_in_order_with_what_the_broker_returns() -> None:
    returned = frame.Method(1, spec.Basic.Return(312, "NO_ROUTE", "exchange", "key")).marshal()
    returned += frame.Header(1, 4, ORDINARY).marshal() + frame.Body(1, b"body").marshal()
    heard_alike(answer(1) + returned + answer(2, positive=False) + answer(9, True), [])


def test_answers_on_a_channel_that_closes_are_heard_and_none_after_its_end() -> None:
    heard_alike(answer(CLOSING_TAG) + answer(14) + GONE + answer(15), [])


def test_the_next_channel_of_the_same_number_has_asked_for_no_answers() -> None:
    ours = Ours()
    ours.hear(answer(CLOSING_TAG) + GONE)
    assert 1 not in ours._channels
    before = list(ours.seen)
    assert before == ["agreed", f"1 answer {(CLOSING_TAG, False, True)} True"]
    again = ours._channels[1] = pika.channel.Channel(ours, 1, lambda _channel: None)
    again.open()
    ours.hear(frame.Method(1, spec.Channel.OpenOk()).marshal() + answer(14))
    assert not any("answer" in one for one in ours.seen[len(before) :])


def test_an_ordinary_delivery_is_not_read_by_pika(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Ours()
    bare = BasicProperties(delivery_mode=1)
    stream = delivery(b"one") + delivery(b"two", bare, tag=2, redelivered=True, number=2)
    stream += delivery(b"three", consumer=PLAIN) + answer(1) + answer(5, True, positive=False)
    monkeypatch.setattr(frame, "decode_frame", lambda _data: pytest.fail("pika reads"))
    ours.hear(stream)
    asked, one, two, three, *both = ours.seen
    assert asked == "agreed"
    message = deliveries.Received(
        1, CONSUMED, 1, False, "exchange", "key", ORDINARY.headers, 2, b"one"
    )
    assert one == f"1 {message!r}"
    message = message._replace(number=2, tag=2, redelivered=True, headers=None, mode=1, body=b"two")
    assert two == f"2 {message!r}"
    assert three.startswith("1 <Basic.Deliver(")
    assert three.endswith("b'three'")
    assert both == ["1 answer (1, False, True) True", "1 answer (5, True, False) True"]


def test_deliveries_that_are_alike_are_read_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Ours()
    ours.hear(delivery(b"one") + delivery(b"two", tag=2))
    monkeypatch.setattr(deliveries, "_walk", lambda _data, _at: pytest.fail("it is taken apart"))
    other = BasicProperties(delivery_mode=2, headers={"task_uuid": "u", "function_uuid": "f\xfd"})
    ours.hear(delivery(b"a longer one", other, tag=3, redelivered=True))
    message = deliveries.Received(
        1, CONSUMED, 3, True, "exchange", "key", other.headers, 2, b"a longer one"
    )
    assert ours.seen[-1] == f"1 {message!r}"


def test_a_delivery_that_is_not_here_as_a_whole_is_left_to_pika() -> None:
    whole = delivery(b"x" * MOST)
    assert deliveries.Reader().read(b"before" + whole + b"after", 6) is not None
    reader = deliveries.Reader()
    for _ in range(3):  # the third one fits into the mould that the first two made
        for end in range(len(whole)):
            assert reader.read(whole[:end], 0) is None
        assert reader.read(whole, 0) is not None


def test_a_body_frame_after_an_empty_message_is_no_part_of_it() -> None:
    heard_alike(delivery(b"") + frame.Body(1, b"").marshal(), [])


def test_a_message_within_another_one_is_not_given_on_its_own() -> None:
    """The channel is in the midst of a message: a breach by the broker, which pika answers."""
    begun = frame.Method(1, spec.Basic.Deliver(CONSUMED, 1, False, "exchange", "key")).marshal()
    parts = begun + frame.Header(1, 5, ORDINARY).marshal() + frame.Body(1, b"ab").marshal()
    heard_alike(parts + delivery(b"xyz", tag=2), [])
    heard_alike(begun + delivery(b"xyz", tag=2), [])
