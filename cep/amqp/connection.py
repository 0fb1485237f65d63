"""pika's SelectConnection with three changes: whose port it is, and gathered reads and writes.

A plain connection to a loopback port says nothing, no password above all, before the account
behind that port is known to be a right one (cep.safety.peer).

What is written in one go leaves in one go: pika hands each frame to the socket by itself, three
system calls and three packets for a small message. Between `cork` and `uncork` frames are gathered
and sent together, which makes publishing several times cheaper. And what all messages of a kind
have in common on the wire, `Envelope`, is made once and not for each of them.

What has arrived is read in large pieces: pika reads 4 KiB at a time, and moves all that it has not
yet looked at once for each frame. And what comes for nearly every task is read in one step and
given to whom it is for: an ordinary delivery (`cep.amqp.deliveries`), which pika takes for three
frames, and the broker's answer to what was published (`cep.amqp.answers`). All else goes pika's
way.

The overridden methods and attributes are inner ones of pika (bounded in pyproject.toml); should
they ever go away, unit tests say so.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from pika import BasicProperties, SelectConnection, frame, spec

from cep.amqp import answers, deliveries
from cep.errors import PeerUntrusted
from cep.safety import peer

GATHER_BYTES = 256 * 1024  # more is passed on at once, so that nothing large is copied twice
# One and a half of the largest frames that RabbitMQ sends by itself: what is not complete is copied
# once more with each piece that comes. The allocator keeps such a piece (cep.allocator).
READ_BYTES = 192 * 1024
# Before anything else has its turn: what has been read counts for no limit yet, so one piece.
READ_AT_ONCE_BYTES = READ_BYTES
_KNOWN_FRAMES = frozenset(
    (spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY, spec.FRAME_HEARTBEAT)
)
_OVERHEAD_BYTES = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE
_FRAME_END = bytes((spec.FRAME_END,))
# Source: AMQP 0-9-1, 4.2.3 and 4.2.6.1: type, channel, size; class, weight, size of the body.
_FRAME_HEAD = struct.Struct(">BHI")
_CONTENT_HEAD = struct.Struct(">HHQ")
_SIZE = struct.Struct(">Q")


class Envelope:
    """What precedes the body of each message that is published on one channel in one way.

    Args:
        channel_number: Of the channel.
        exchange: Where to.
        routing_key: Where to.
        mandatory: Whether the broker returns what it cannot route.
        properties: Of every message.
    """

    def __init__(
        self,
        channel_number: int,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        properties: BasicProperties,
    ) -> None:
        method = spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=mandatory)
        self._method: bytes = frame.Method(channel_number, method).marshal()
        self._channel_number = channel_number
        self._properties = b"".join(properties.encode())
        # Of a message in one body frame, all that precedes the body: two constant parts, each with
        # a size behind it.
        self._before_size = self._header(0)[: -len(self._properties) - 1 - _SIZE.size]
        self._after_size = self._properties + _FRAME_END
        self._after_size += struct.pack(">BH", spec.FRAME_BODY, channel_number)
        self._head = struct.Struct(f">{len(self._before_size)}sQ{len(self._after_size)}sI")

    def _header(self, size: int) -> bytes:
        """Method and header of a message of this size."""
        head = _CONTENT_HEAD.pack(spec.Basic.INDEX, 0, size) + self._properties
        return (
            self._method
            + _FRAME_HEAD.pack(spec.FRAME_HEADER, self._channel_number, len(head))
            + head
            + _FRAME_END
        )

    def frames(self, body: bytes, most: int) -> list[bytes | memoryview]:
        """The frames of one message, in pieces to be written one after another.

        Args:
            body: Not copied.
            most: The largest body frame's payload, in bytes.
        """
        size = len(body)
        if 0 < size <= most:
            head = self._head.pack(self._before_size, size, self._after_size, size)
            return [head, body, _FRAME_END]
        pieces: list[bytes | memoryview] = [self._header(size)]
        view = memoryview(body)
        for at in range(0, size, most):
            part = view[at : at + most]
            pieces += (
                _FRAME_HEAD.pack(spec.FRAME_BODY, self._channel_number, len(part)),
                part,
                _FRAME_END,
            )
        return pieces


def _deliver(channel: Any, message: deliveries.Received) -> None:
    """Give a delivery to a channel of pika that is at rest.

    Which consumers there are, and which of them were cancelled, is pika's to know.
    """
    tag = message.consumer_tag
    consumer = channel._consumers.get(tag)
    if type(consumer) is deliveries.Taker and tag not in channel._cancelled:
        consumer.take(message)
    else:
        channel._on_deliver(*message.as_pika())


class Connection(SelectConnection):  # type: ignore[misc]
    """A connection whose reads and writes are gathered. Belongs to the AMQP thread."""

    _frame_buffer: bytes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._corked = False
        self._gathered: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        self._reader = deliveries.Reader()
        # Channel, and who takes the answers on it, by the channel's number.
        self._answers: dict[int, tuple[Any, answers.TakeAnswer]] = {}
        super().__init__(*args, **kwargs)

    def _on_stream_connected(self) -> None:
        """The socket is connected (with TLS: the certificate is accepted), and nothing was said."""
        if self.params.ssl_options is None:
            try:
                peer.check_peer(self._transport._sock)
            except PeerUntrusted as error:
                self._terminate_stream(error)
                return
        self._transport._MAX_RECV_BYTES = READ_BYTES
        self._transport._MAX_CONSUME_BYTES = READ_AT_ONCE_BYTES
        super()._on_stream_connected()

    # --- reading ----------------------------------------------------------------------------------

    def _on_data_available(self, data_in: bytes) -> None:
        """Process the frames that are complete, and keep the rest.

        Two roads lead to a consumer or publisher: that of ordinary deliveries and answers, which is
        the shorter one, and pika's, which is open to every frame. It depends on how the bytes were
        cut which of them a delivery goes, and nobody can tell the difference.
        """
        data = self._frame_buffer + data_in if self._frame_buffer else data_in
        self._frame_buffer = b""
        at, length = 0, len(data)
        try:
            while length - at >= _OVERHEAD_BYTES and data[at] in _KNOWN_FRAMES:
                if self._answers and (answer := answers.read(data, at)):
                    number, tag, multiple, positive = answer
                    asked = self._answers.get(number)
                    if asked and self._channels.get(number) is asked[0]:
                        self.bytes_received += answers.BYTES
                        self.frames_received += 1
                        at += answers.BYTES
                        asked[1](tag, multiple, positive)
                        continue
                ordinary = self._reader.read(data, at)
                if ordinary and (channel := self._at_rest(ordinary[0].number)):
                    message, end = ordinary
                    self.bytes_received += end - at
                    self.frames_received += deliveries.FRAMES
                    at = end
                    _deliver(channel, message)
                    continue
                size = int.from_bytes(data[at + 3 : at + spec.FRAME_HEADER_SIZE], "big")
                end = at + size + _OVERHEAD_BYTES
                if end > length:
                    return
                _, found = frame.decode_frame(data[at:end])
                self.bytes_received += end - at  # what the heartbeat checker looks at
                at = end
                self._process_frame(found)
        finally:
            self._frame_buffer += data[at:]
        if self._frame_buffer and self._frame_buffer[0] not in _KNOWN_FRAMES:
            super()._on_data_available(b"")  # a broker of another protocol says so in this way

    def _at_rest(self, number: int) -> Any:
        """The channel of this number, unless it is in the midst of a message; else None."""
        channel = self._channels.get(number)
        if channel is None:
            return None
        begun = channel._content_assembler
        if begun._method_frame or begun._header_frame or begun._body_fragments:
            return None
        return channel

    def ask_for_answers(
        self, channel: Any, take: answers.TakeAnswer, agreed: Callable[[], None]
    ) -> None:
        """Let the broker answer for each message that is published on this open channel.

        pika is asked to call back as well, and does so for a frame that it has read itself. Of an
        answer that is read here it sees nothing, and misses nothing: it keeps no count of what was
        published or answered, and only looks for callbacks among those of the channel's number,
        which it forgets together with the channel.

        Args:
            channel: Of this connection.
            take: Called with each answer, in order, until the channel is closed.
            agreed: Called when the broker has agreed.
        """

        def take_frame(found: Any) -> None:
            method = found.method
            take(method.delivery_tag, bool(method.multiple), method.NAME == spec.Basic.Ack.NAME)

        channel.confirm_delivery(take_frame, callback=lambda _frame: agreed())
        self._answers[channel.channel_number] = (channel, take)

    # --- writing ----------------------------------------------------------------------------------

    def cork(self) -> None:
        """Gather from now on what is written."""
        self._corked = True

    def uncork(self) -> None:
        """Send what was gathered."""
        self._corked = False
        self._pass_on()

    def publish(self, envelope: Envelope, body: bytes) -> None:
        """Write one message; the channel is open, and of this connection."""
        self._output_marshaled_frames(envelope.frames(body, self._body_max_length))

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes | memoryview]) -> None:
        size = sum(map(len, marshaled_frames))
        self.bytes_sent += size
        self.frames_sent += len(marshaled_frames)
        self._gathered.extend(marshaled_frames)
        self._gathered_bytes += size
        if not self._corked or self._gathered_bytes >= GATHER_BYTES:
            self._pass_on()

    def _pass_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = 0
        if len(gathered) > 1:
            self._adapter_emit_data(b"".join(gathered))
        elif gathered:
            self._adapter_emit_data(gathered[0])

    def _adapter_emit_data(self, data: bytes | memoryview) -> None:
        """Send what the kernel takes at once, and leave the rest, and all trouble, to pika.

        pika asks for the turn of the loop in which the socket is writable, which it nearly always
        is: two changes of what is polled and one more poll for each write. With TLS a write may
        have to wait for a read, so there pika's way is the only one.
        """
        transport = self._transport
        usable = self.params.ssl_options is None and transport._state == transport._STATE_ACTIVE
        if usable and not transport._tx_buffers:
            try:
                sent = transport._sock.send(data)
            except OSError:
                sent = 0  # full, or broken: pika's own try meets it again and knows what to do
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
        super()._adapter_emit_data(data)
