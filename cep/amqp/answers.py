"""The broker's answers to what was published, read in one step. Pure functions.

A basic.ack or basic.nack is one small frame of a fixed size, and comes for nearly every task. pika
cuts it out, makes objects of it, and looks for those who wait for it through all that its callbacks
can do. `read` takes the three things it says.

Source of the layout: AMQP 0-9-1 specification, section 4.2; basic.nack and the answers to published
messages: RabbitMQ's extensions of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeAlias

from pika import spec

# Publish tag; all open ones up to it as well; positive.
TakeAnswer: TypeAlias = Callable[[int, bool, bool], None]

# Type, channel and size of the frame; method; publish tag; bits, the lowest of which is `multiple`;
# end of the frame.
_ANSWER = struct.Struct(">BHIIQBB")
_PAYLOAD_BYTES = _ANSWER.size - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE
BYTES = _ANSWER.size
_METHOD, _END = spec.FRAME_METHOD, spec.FRAME_END
_ACK, _NACK = spec.Basic.Ack.INDEX, spec.Basic.Nack.INDEX


def read(data: bytes, at: int) -> tuple[int, int, bool, bool] | None:
    """The answer that begins here, or None: whatever else it is, pika reads it.

    Args:
        data: Frames, the last one perhaps not complete.
        at: Where in it a frame begins.

    Returns:
        Number of the channel, publish tag, whether it is for all open ones up to it, and whether it
        is positive. It takes `BYTES` bytes.
    """
    if len(data) - at < BYTES:
        return None
    kind, number, size, index, tag, bits, end = _ANSWER.unpack_from(data, at)
    if index not in (_ACK, _NACK):
        return None
    if kind != _METHOD or size != _PAYLOAD_BYTES or end != _END:
        return None
    return number, tag, bits & 1 != 0, index == _ACK
