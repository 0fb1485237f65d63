"""One client connection: handshake, heartbeats, frames in, writes coalesced out.

Runs on the broker's event loop as an asyncio protocol. Whatever the peer sends, the worst that
happens is the end of this connection. What is sent during one turn of the loop leaves in one
write; deliveries wait while more than a bounded number of bytes is on its way out.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import TYPE_CHECKING, cast

from pamqp import base, commands

from cep.hub.broker import frames
from cep.hub.broker.access import Identity
from cep.hub.broker.channel import Channel
from cep.hub.broker.handshake import Handshake, Step
from cep.hub.broker.publishing import Confirms
from cep.hub.broker.replies import (
    CHANNEL_ERROR,
    COMMAND_INVALID,
    FRAME_ERROR,
    INTERNAL_ERROR,
    UNEXPECTED_FRAME,
    ChannelFault,
    ConnectionFault,
    reply_text,
)

if TYPE_CHECKING:
    from cep.hub.broker.broker import Broker

log = logging.getLogger(__name__)

_CLOSE_S = 1.0
_EARLY_FRAME_MAX = 8192  # before the tuning, as RabbitMQ 4 has it

class Phase(enum.Enum):
    """Whether methods of channels are taken."""

    OPENING = 1
    RUNNING = 2
    CLOSING = 3
    CLOSED = 4


class Connection(asyncio.Protocol):
    """One TCP connection of a client.

    Attributes:
        identity: Who has logged in; may do nothing until then.
        frame_max: The negotiated largest frame.
    """

    def __init__(self, broker: Broker) -> None:
        self.identity = Identity("")
        self.frame_max = broker.frame_max
        self._broker = broker
        self._loop = asyncio.get_running_loop()
        self._phase = Phase.HEADER
        self._channels: dict[int, Channel] = {}
        self._capabilities: Mapping[str, object] = {}
        self._rest = b""
        self._limit_in = _EARLY_FRAME_MAX
        self._assembling = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self._confirming: dict[int, Confirms] = {}
        self._paused = False
        self._starved = False
        self._held_up = False
        self._timer: asyncio.TimerHandle | None = None
        self._beat_s = 0.0
        self._silent_beats = 0
        self._heard = self._said = False
        self._peer = "?"
        self._login: asyncio.Future[None] | None = None

    @property
    def user(self) -> str:
        """The user's name; empty before the login."""
        return self.identity.name

    # -- asyncio's side ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._broker.limits.outbound_bytes)
        peer = transport.get_extra_info("peername") or ("?", "?")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer)
        self._broker.connections.add(self)
        if len(self._broker.connections) > self._broker.limits.connections:
            log.warning(
                "Connection of %s refused: there are too many",
                self._peer,
                extra={"event": "broker.too_many"},
            )
            self.abort()
            return
        self._timer = self._loop.call_later(self._broker.limits.handshake_s, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Take in what has arrived, frame by frame."""
        self._heard = True
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at = 0
        try:
            if self._phase is Phase.HEADER:
                if not self._protocol_header(data):
                    return
                at = 8
            end = len(data)
            while end - at >= frames.FRAME_OVERHEAD and self._phase is not Phase.CLOSED:
                kind, number, size = frames.FRAME_HEAD.unpack_from(data, at)
                if size > self._limit_in - frames.FRAME_OVERHEAD:
                    raise ConnectionFault(
                        FRAME_ERROR, f"a frame of {size} bytes is larger than negotiated"
                    )
                stop = at + 7 + size
                if stop >= end:
                    break
                if data[stop] != frames.FRAME_END:
                    raise ConnectionFault(FRAME_ERROR, "a frame has no end mark")
                payload = data[at + 7 : stop]
                at = stop + 1
                self._frame(kind, number, payload)
            self._rest = data[at:]
        except ConnectionFault as fault:
            self._fault(fault)
        except Exception:
            log.exception(
                "The broker failed on a frame of %s", self._peer, extra={"event": "broker.bug"}
            )
            self.internal_error("the broker failed")

    def eof_received(self) -> bool:
        """The peer has closed its half; so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: everything it held goes back."""
        if self._phase not in (Phase.CLOSED, Phase.CLOSING, Phase.HEADER):
            log.warning(
                "Connection of user %r at %s was lost: %s",
                self.user,
                self._peer,
                exc or "closed by the peer",
                extra={"event": "broker.connection_lost"},
            )
        self._phase = Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        if self._login is not None:
            self._login.cancel()
        self._shut_channels()
        self._out.clear()
        self._broker.forget(self)

    def pause_writing(self) -> None:
        """The peer reads too slowly: no deliveries for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._paused = False
        self._feed()

    # -- sending ---------------------------------------------------------------------------

    def send(self, *pieces: bytes) -> None:
        """Queue bytes of whole frames; they leave at the end of this turn of the loop."""
        if self._phase is Phase.CLOSED:
            return
        self._out += pieces
        for piece in pieces:
            self._out_bytes += len(piece)
        self._flush_soon()

    def confirm_soon(self, number: int, confirms: Confirms) -> None:
        """Confirms of a channel are due with the next flush."""
        self._confirming[number] = confirms
        self._flush_soon()

    def can_deliver(self) -> bool:
        """Whether a delivery may be queued; if not, the queues are asked again later."""
        if self._phase is not Phase.RUNNING:
            return False
        if self._paused or self._out_bytes >= self._broker.limits.outbound_bytes:
            self._starved = True
            return False
        return True

    def client_can(self, capability: str) -> bool:
        """Whether the client said at login that it understands this."""
        return self._capabilities.get(capability) is True

    def assemble(self, size: int) -> bool:
        """Count bytes of messages that are coming in; False when that is too much at once."""
        self._assembling += size
        return self._assembling <= self._broker.limits.body_bytes

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._phase is Phase.CLOSED:
            self._out.clear()
            return
        if self._confirming:
            for number, confirms in self._confirming.items():
                channel = self._channels.get(number)
                if channel is not None and channel.open:
                    self._out.append(confirms.frames(number))
            self._confirming.clear()
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._said = True
            self._transport.write(data)
        self._feed()

    def _feed(self) -> None:
        if self._starved and not self._paused and self._phase is Phase.RUNNING:
            self._starved = False
            for channel in list(self._channels.values()):
                channel.pump()

    def block(self) -> None:
        """Too much is held in memory: read nothing more from this publisher for now."""
        if self._phase is Phase.RUNNING:
            self._held_up = True
            self._transport.pause_reading()
            if self.client_can("connection.blocked"):
                self._send_method(commands.Connection.Blocked("low on memory"))

    def unblock(self) -> None:
        """Read again."""
        if self._held_up:
            self._held_up = False
            self._silent_beats = 0
            if self._phase in (Phase.RUNNING, Phase.CLOSING):
                self._transport.resume_reading()
            if self._phase is Phase.RUNNING and self.client_can("connection.blocked"):
                self._send_method(commands.Connection.Unblocked())

    def _send_method(self, method: base.Frame) -> None:
        self.send(frames.encode_method(0, method))

    # -- closing -----------------------------------------------------------------------------

    def close(self, code: int, text: str, index: int = 0) -> None:
        """Close with a reply code; the peer has a second to answer."""
        if self._phase in (Phase.CLOSED, Phase.CLOSING):
            return
        if self._phase is Phase.HEADER:
            self.abort()
            return
        self._phase = Phase.CLOSING
        self._shut_channels()
        close = commands.Connection.Close(code, reply_text(code, text), index >> 16, index & 0xFFFF)
        self._send_method(close)
        self._limit_in = self.frame_max
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_CLOSE_S, self.abort)
        if self._held_up:
            self._held_up = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """End the connection without a word."""
        if self._phase is not Phase.CLOSED:
            self._phase = Phase.CLOSED
            self._transport.abort()

    def internal_error(self, text: str) -> None:
        """Close because of a fault of ours (541)."""
        self.close(INTERNAL_ERROR, text)

    def _fault(self, fault: ConnectionFault, index: int = 0) -> None:
        log.warning(
            "Connection of user %r at %s is closed: %s",
            self.user,
            self._peer,
            fault.text,
            extra={"event": "broker.connection_fault"},
        )
        self.close(fault.code, fault.message, index)

    def _finish(self) -> None:
        """Write what is due and close the transport."""
        self._flush()
        self._phase = Phase.CLOSED
        self._transport.close()

    def _shut_channels(self) -> None:
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.shut()

    def _too_late(self) -> None:
        log.warning(
            "Connection of %s is closed: %s took too long",
            self._peer,
            self._phase.value,
            extra={"event": "broker.handshake_timeout"},
        )
        self.abort()

    # -- heartbeats ----------------------------------------------------------------------------

    def _start_heartbeat(self, interval_s: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if interval_s:
            self._beat_s = interval_s / 2
            self._timer = self._loop.call_later(self._beat_s, self._beat)

    def _beat(self) -> None:
        if not self._said:
            self.send(frames.HEARTBEAT_FRAME)
        self._silent_beats = 0 if self._heard or self._held_up else self._silent_beats + 1
        self._heard = self._said = False
        if self._silent_beats >= 4:
            log.warning(
                "Connection of user %r at %s is closed: no heartbeat for %s s",
                self.user,
                self._peer,
                4 * self._beat_s,
                extra={"event": "broker.heartbeat_missed"},
            )
            self.abort()
            return
        self._timer = self._loop.call_later(self._beat_s, self._beat)

    # -- frames in ---------------------------------------------------------------------------

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == frames.HEARTBEAT:
            if number or payload:
                raise ConnectionFault(FRAME_ERROR, "a heartbeat frame is not empty")
        elif kind == frames.METHOD:
            index = int.from_bytes(payload[:4], "big")
            if number == 0:
                self._connection_method(payload)
            elif self._phase is Phase.RUNNING:
                self._channel_method(number, index, payload)
            elif self._phase is not Phase.CLOSING:
                raise ConnectionFault(COMMAND_INVALID, "the connection is not open yet")
        elif kind in (frames.HEADER, frames.BODY):
            if self._phase is Phase.CLOSING:
                return
            channel = self._channels.get(number)
            if channel is None:
                raise ConnectionFault(UNEXPECTED_FRAME, "content on a channel that is not open")
            if channel.open:
                self._content(channel, kind, payload)
        else:
            raise ConnectionFault(FRAME_ERROR, f"frame type {kind} is unknown")

    def _content(self, channel: Channel, kind: int, payload: bytes) -> None:
        try:
            if kind == frames.HEADER:
                channel.publishing.header(payload)
            else:
                channel.publishing.body(payload)
        except ChannelFault as fault:
            self._close_channel(channel, fault, frames.PUBLISH)

    def _channel_method(self, number: int, index: int, payload: bytes) -> None:
        channel = self._channels.get(number)
        if index == commands.Channel.Open.index:
            if channel is not None:
                raise ConnectionFault(CHANNEL_ERROR, f"channel {number} is open already")
            if number > self._broker.limits.channels:
                raise ConnectionFault(CHANNEL_ERROR, f"channel {number} is above channel_max")
            self._channels[number] = Channel(number, self, self._broker)
            self.send(frames.encode_method(number, commands.Channel.OpenOk()))
        elif channel is None:
            # A close-ok may cross the peer's own close; anything else is the peer's mistake.
            if index != commands.Channel.CloseOk.index:
                raise ConnectionFault(CHANNEL_ERROR, f"channel {number} is not open")
        elif index == commands.Channel.Close.index:
            self._channels.pop(number)
            if channel.open:
                channel.shut()
            self.send(frames.encode_method(number, commands.Channel.CloseOk()))
        elif not channel.open:
            if index == commands.Channel.CloseOk.index:
                self._channels.pop(number)
        else:
            try:
                channel.method(index, payload)
            except ChannelFault as fault:
                self._close_channel(channel, fault, index)

    def _close_channel(self, channel: Channel, fault: ChannelFault, index: int) -> None:
        log.warning(
            "Channel %s of user %r is closed: %s",
            channel.number,
            self.user,
            fault.text,
            extra={"event": "broker.channel_fault"},
        )
        confirms = self._confirming.pop(channel.number, None)
        if confirms is not None:
            self.send(confirms.frames(channel.number))
        close = commands.Channel.Close(fault.code, fault.text, index >> 16, index & 0xFFFF)
        self.send(frames.encode_method(channel.number, close))
        channel.shut()

    def _connection_method(self, payload: bytes) -> None:
        method = frames.decode_method(payload)
        if isinstance(method, commands.Connection.Close):
            self._shut_channels()
            self._send_method(commands.Connection.CloseOk())
            self._finish()
        elif isinstance(method, commands.Connection.CloseOk):
            if self._phase is Phase.CLOSING:
                self._finish()
        elif self._phase is Phase.CLOSING:
            return
        elif isinstance(method, commands.Connection.StartOk) and self._phase is Phase.START:
            self._start_ok(method)
        elif isinstance(method, commands.Connection.TuneOk) and self._phase is Phase.TUNE:
            self._tune_ok(method)
        elif isinstance(method, commands.Connection.Open) and self._phase is Phase.OPEN:
            self._open(method)
        elif self._phase is Phase.RUNNING:
            raise not_implemented(method.name)
        else:
            raise ConnectionFault(COMMAND_INVALID, f"{method.name} came while {self._phase.value}")
