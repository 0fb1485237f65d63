"""The broker's codec edge, against pamqp's."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, frame, header

from cep.hub.broker import frames
from cep.hub.broker.publishing import Confirms
from cep.hub.broker.replies import ConnectionFault, Fault

short = st.text(alphabet=st.characters(codec="ascii"), min_size=1, max_size=60)


@given(
    st.builds(
        commands.Basic.Properties,
        content_type=short | st.none(),
        content_encoding=short | st.none(),
        headers=st.dictionaries(short, st.lists(short) | st.integers(0, 99)) | st.none(),
        delivery_mode=st.sampled_from([1, 2, None]),
        priority=st.integers(0, 9) | st.none(),
        correlation_id=short | st.none(),
        reply_to=short | st.none(),
        message_id=short | st.none(),
        message_type=short | st.none(),
        user_id=short | st.none(),
        app_id=short | st.none(),
    )
)
def test_properties_are_read_as_pamqp_wrote_them(given: commands.Basic.Properties) -> None:
    payload = frame.marshal(header.ContentHeader(0, 5, given), 1)[7:-1]
    size, raw = frames.decode_content_header(payload)
    read = frames.read_properties(raw)
    assert size == 5
    assert read.persistent == (given.delivery_mode == 2)
    assert read.user_id == given.user_id
    whole = b"".join(frames.encode_content(1, raw, b"12345", 4096))
    assert whole == frame.marshal(header.ContentHeader(0, 5, given), 1) + frame.marshal(
        body.ContentBody(b"12345"), 1
    )


@given(st.binary(max_size=80))
def test_damaged_bytes_raise_faults_and_nothing_else(raw: bytes) -> None:
    for decode in (
        frames.decode_method,
        frames.decode_publish,
        frames.decode_ack,
        frames.decode_content_header,
        lambda payload: frames.read_properties(b"\x00\x00" + payload),
        lambda payload: frames.read_properties(b"\xff\xfc" + payload),
    ):
        with contextlib.suppress(Fault):
            decode(raw)  # type: ignore[no-untyped-call,operator]


@given(short, short, st.booleans())
def test_a_publish_is_read_as_pamqp_wrote_it(exchange: str, key: str, mandatory: bool) -> None:
    written = commands.Basic.Publish(routing_key=key, mandatory=mandatory)
    written.exchange = exchange
    payload = b"\x00\x3c\x00\x28\x00\x00" + frames.short_string(exchange)
    payload += frames.short_string(key) + bytes((mandatory,))
    read = frames.decode_publish(payload)
    assert (read.exchange, read.routing_key, read.mandatory) == (exchange, key, mandatory)


def test_a_routing_key_that_is_not_text_travels_unchanged() -> None:
    payload = b"\x00\x3c\x00\x28\x00\x00\x00\x02\xff\xfe\x00"
    publication = frames.decode_publish(payload)
    assert publication.route == b"\x00\x02\xff\xfe"
    sent = frames.encode_deliver(1, b"\x01c", 1, redelivered=False, route=publication.route)
    assert b"\x00\x02\xff\xfe" in sent


def test_a_large_body_is_cut_to_the_frame_size() -> None:
    whole = b"".join(frames.encode_content(3, b"\x00\x00", b"x" * 10_000, 4096))
    sizes = []
    while whole:
        used, channel, value = frame.unmarshal(whole)
        assert channel == 3
        assert used <= 4096
        sizes.append(len(value.value) if isinstance(value, body.ContentBody) else 0)
        whole = whole[used:]
    assert sizes == [0, 4088, 4088, 1824]


def test_immediate_is_refused() -> None:
    with pytest.raises(ConnectionFault, match="immediate"):
        frames.decode_publish(b"\x00\x3c\x00\x28\x00\x00\x00\x01q\x02")


def test_confirms_are_folded_without_covering_what_is_open_or_refused() -> None:
    confirms = Confirms()
    tags = [confirms.expect(1) for _ in range(6)]
    for tag in (1, 2, 4, 6):
        confirms.answer(tag, safe=True)
    confirms.answer(3, safe=False)
    data = confirms.frames(1)
    answered: list[tuple[str, int, bool]] = []
    while data:
        used, _channel, method = frame.unmarshal(data)
        assert isinstance(method, commands.Basic.Ack | commands.Basic.Nack)
        answered.append((method.name, method.delivery_tag, method.multiple))
        data = data[used:]
    assert answered == [
        ("Basic.Nack", 3, False),
        ("Basic.Ack", 4, True),
        ("Basic.Ack", 6, False),
    ]
    assert tags == [1, 2, 3, 4, 5, 6]
    assert confirms.frames(1) == b""


def test_a_publish_to_two_queues_is_confirmed_once_both_have_it() -> None:
    confirms = Confirms()
    tag = confirms.expect(2)
    assert not confirms.answer(tag, safe=False)
    assert confirms.answer(tag, safe=True)
    assert frame.unmarshal(confirms.frames(1))[2].name == "Basic.Nack"
