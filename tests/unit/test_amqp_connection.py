"""The connection's reading and writing: the same frames as pika's, with less work."""

from __future__ import annotations

from typing import Any

import pika
import pytest
from pika import frame, spec
from pika.adapters.utils import io_services_utils

from cep.amqp import deliveries
from cep.amqp.connection import Connection, Envelope

PROPERTIES = pika.BasicProperties(delivery_mode=2, headers={"a": "b", "n": 7})
MOST = 1000  # bytes of a body frame


def frames_of(body: bytes, tag: int) -> list[Any]:
    """What a broker sends for one delivery."""
    parts = [body[at : at + MOST] for at in range(0, len(body), MOST)]
    return [
        frame.Method(1, spec.Basic.Deliver("consumer", tag, False, "", "queue")),
        frame.Header(1, len(body), PROPERTIES),
        *(frame.Body(1, part) for part in parts),
    ]


class Reader(Connection):
    """A connection that only reads, and keeps what it would have processed."""

    def __init__(self) -> None:
        self._frame_buffer = b""
        self._reader = deliveries.Reader()
        self._answers = {}
        self.bytes_received = 0
        self.found: list[Any] = []

    def _process_frame(self, frame_value: Any) -> None:
        self.found.append(frame_value)


def told(frames: list[Any]) -> list[str]:
    return [repr(one) for one in frames]


@pytest.mark.parametrize("piece", [1, 7, 8, 9, 100, 4096, 10**6])
def test_frames_are_read_alike_in_whatever_pieces_they_come(piece: int) -> None:
    sent = [*frames_of(b"x" * 300, 1), frame.Heartbeat(), *frames_of(b"y" * 5 * MOST, 2)]
    sent += frames_of(b"", 3)
    wire = b"".join(one.marshal() for one in sent)
    reader = Reader()
    for at in range(0, len(wire), piece):
        reader._on_data_available(wire[at : at + piece])
    assert told(reader.found) == told(sent)
    assert reader._frame_buffer == b""
    assert reader.bytes_received == len(wire), "the heartbeat checker looks at it"


def test_a_protocol_header_is_left_to_pika() -> None:
    reader = Reader()
    reader._on_data_available(b"AMQP\x00\x00\x09\x01")
    (found,) = reader.found
    assert isinstance(found, frame.ProtocolHeader)


def test_a_frame_with_a_wrong_end_is_refused() -> None:
    wire = frame.Heartbeat().marshal()[:-1] + b"\x00"
    with pytest.raises(pika.exceptions.InvalidFrameError):
        Reader()._on_data_available(wire)


def test_what_follows_a_frame_that_failed_is_kept_and_the_frame_is_not_seen_twice() -> None:
    class Failing(Reader):
        def _process_frame(self, frame_value: Any) -> None:
            super()._process_frame(frame_value)
            raise RuntimeError("a callback failed")

    one, two = (piece.marshal() for piece in frames_of(b"", 1))
    reader = Failing()
    with pytest.raises(RuntimeError):
        reader._on_data_available(one + two)
    assert reader._frame_buffer == two
    assert len(reader.found) == 1


@pytest.mark.parametrize("size", [0, 1, MOST - 1, MOST, MOST + 1, 3 * MOST, 3 * MOST + 5])
def test_an_envelope_writes_what_pika_writes(size: int) -> None:
    written: list[bytes] = []
    channel = pika.channel.Channel(_Plain(written), 7, lambda _channel: None)
    channel._set_state(channel.OPEN)
    body = bytes(range(256)) * (size // 256 + 1)
    channel.basic_publish("there", "key", body[:size], PROPERTIES, mandatory=True)
    envelope = Envelope(7, "there", "key", True, PROPERTIES)
    assert b"".join(envelope.frames(body[:size], MOST)) == b"".join(written)


class _Plain(pika.SelectConnection):  # type: ignore[misc]
    """pika's own way to write a message, into a list."""

    def __init__(self, written: list[bytes]) -> None:
        self.callbacks = pika.callback.CallbackManager()
        self._body_max_length = MOST
        self._output_marshaled_frames = written.extend


def test_pika_still_has_the_limits_that_are_raised() -> None:
    """Fails when pika no longer reads in pieces of these sizes."""
    assert io_services_utils._AsyncTransportBase._MAX_RECV_BYTES == 4096
    assert io_services_utils._AsyncTransportBase._MAX_CONSUME_BYTES == 1024 * 100
