"""One client connection: frames in, heartbeats, writes coalesced out, the close.

Runs on the broker's event loop as an asyncio protocol. Whatever the peer sends, the worst that
happens is the end of this connection. What is sent during one turn of the loop leaves in one
write; deliveries wait while more than a bounded number of bytes is on its way out, and so does
what a peer asks for that does not read the answers. Frames of channels go to
`cep.hub.broker.channels`.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pamqp import base, commands

from cep.hub.broker import frames
from cep.hub.broker.access import Identity
from cep.hub.broker.channels import Channels
from cep.hub.broker.handshake import Handshake, Step
from cep.hub.broker.publishing import Confirms
from cep.hub.broker.replies import Code, ConnectionFault, reply_text
from cep.hub.door import Visitor

if TYPE_CHECKING:
    from cep.hub.broker.broker import Broker

log = logging.getLogger(__name__)

_CLOSE_S = 1.0
_EARLY_FRAME_MAX = 8192  # until the tuning, as RabbitMQ 4 has it
_SILENT_HALVES = 4  # half heartbeats without a byte: two whole ones


class Phase(enum.Enum):
    """How far the connection is in its life."""

    OPENING = 1
    RUNNING = 2
    CLOSING = 3
    CLOSED = 4


class Connection(asyncio.Protocol):
    """One TCP connection of a client."""

    def __init__(self, broker: Broker, visitor: Visitor) -> None:
        self._broker = broker
        self._visitor = visitor
        self._loop = asyncio.get_running_loop()
        self._phase = Phase.OPENING
        self._handshake = Handshake(self, broker)
        self._channels = Channels(self, broker)
        self._peer = self._address = "?"
        self._rest = b""
        self._limit_in = _EARLY_FRAME_MAX
        self._assembling = 0
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._flush_due = False
        self._paused = self._starved = self._held_up = self._waiting = False
        self._loading = self._unread = 0
        self._timer: asyncio.TimerHandle | None = None
        self._silent_halves = 0
        self._heard = self._said = False

    @property
    def identity(self) -> Identity:
        """Who has logged in; one without a name or rights until then."""
        return self._handshake.identity

    @property
    def user(self) -> str:
        """The user's name; empty before the login."""
        return self._handshake.identity.name

    @property
    def address(self) -> str:
        """The peer's address, without its port."""
        return self._address

    @property
    def frame_max(self) -> int:
        """The largest frame that may be sent."""
        return self._handshake.frame_max

    def client_can(self, capability: str) -> bool:
        """Whether the client said at login that it understands this."""
        return self._handshake.capabilities.get(capability) is True

    # -- asyncio's side ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._broker.limits.outbound_bytes)
        peer = transport.get_extra_info("peername") or ("?", "?")
        self._peer = f"{peer[0]}:{peer[1]}"
        self._address = str(peer[0])
        self._broker.connections.add(self)
        self._set_timer(self._broker.limits.handshake_s, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Take in what has arrived, frame by frame."""
        self._heard = True
        self._rest += data
        self._take_in()

    def _take_in(self) -> None:
        data, self._rest = self._rest, b""
        try:
            at = self._protocol_header(data) if self._handshake.step is Step.HEADER else 0
            end = len(data)
            while end - at >= frames.FRAME_OVERHEAD and not self._must_wait():
                kind, number, size = frames.FRAME_HEAD.unpack_from(data, at)
                if size > self._limit_in - frames.FRAME_OVERHEAD:
                    raise ConnectionFault(Code.FRAME_ERROR, f"a frame of {size} bytes is too large")
                stop = at + 7 + size
                if stop >= end:
                    break
                if data[stop] != frames.FRAME_END:
                    raise ConnectionFault(Code.FRAME_ERROR, "a frame has no end mark")
                payload = data[at + 7 : stop]
                at = stop + 1
                self._frame(kind, number, payload)
            self._rest = data[at:]
        except ConnectionFault as fault:
            if self._phase not in (Phase.CLOSING, Phase.CLOSED):
                self.warn("connection_fault", fault.text)
                self.close(fault.code, fault.message)
        except Exception:
            log.exception("A frame of %s failed", self._peer, extra={"event": "broker.bug"})
            self.close(Code.INTERNAL_ERROR, "the broker failed")
        if self._phase is Phase.RUNNING and self._must_wait():
            self._waiting = True
            self._transport.pause_reading()

    def _must_wait(self) -> bool:
        """Whether the next frame is not for now: the peer has not read what it asked for before.

        Deliveries stop at the limit of outgoing bytes, so only answers go beyond it.
        """
        if self._phase is not Phase.RUNNING:
            return self._phase is Phase.CLOSED
        unread = self._out_bytes
        if self._paused:
            unread += self._transport.get_write_buffer_size()
        return self._loading > 0 or unread >= 2 * self._broker.limits.outbound_bytes

    def _go_on(self) -> None:
        """Take in what had to wait, if that is over."""
        if self._waiting and not self._must_wait():
            self._waiting = False
            if not self._held_up:
                self._transport.resume_reading()
            self._loop.call_soon(self._take_in)

    def loading(self, count: int) -> None:
        """So many more answers (fewer, when negative) wait for the store; others follow them."""
        self._loading += count
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: everything it held goes back."""
        if self._phase is Phase.RUNNING:
            self.warn("connection_lost", str(exc or "closed by the peer without a word"))
        self._phase = Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        self._handshake.cancel()
        self._channels.shut()
        self._out.clear()
        self._broker.forget(self)

    def pause_writing(self) -> None:
        """The peer reads too slowly: no deliveries for now."""
        self._paused = True

    def resume_writing(self) -> None:
        """The peer has caught up."""
        self._paused = False
        self._go_on()
        self._feed()

    # -- sending ---------------------------------------------------------------------------

    def send(self, *pieces: bytes) -> None:
        """Queue bytes of whole frames; they leave at the end of this turn of the loop."""
        if self._phase is not Phase.CLOSED:
            self._out += pieces
            self._out_bytes += sum(map(len, pieces))
            self._flush_soon()

    def confirm_soon(self, number: int, confirms: Confirms) -> None:
        """Confirms of a channel are due with the next flush."""
        self._channels.confirm(number, confirms)
        self._flush_soon()

    def can_deliver(self) -> bool:
        """Whether a delivery may be queued; if not, the queues are asked again later."""
        if self._phase is not Phase.RUNNING:
            return False
        if self._paused or self._out_bytes >= self._broker.limits.outbound_bytes:
            self._starved = True
            return False
        return True

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
        self._out += self._channels.confirms_due()
        if self._out:
            data = b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._said = True
            self._transport.write(data)
        self._go_on()
        self._feed()

    def _feed(self) -> None:
        if self._starved and not self._paused and self._phase is Phase.RUNNING:
            self._starved = False
            self._channels.pump()

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
            if not self._waiting:
                self._transport.resume_reading()
            if self._phase is Phase.RUNNING and self.client_can("connection.blocked"):
                self._send_method(commands.Connection.Unblocked())

    def _send_method(self, method: base.Frame) -> None:
        self.send(frames.encode_method(0, method))

    # -- closing -----------------------------------------------------------------------------

    def close(self, code: Code, text: str) -> None:
        """Close with a reply code; the peer has a second to answer."""
        if self._phase in (Phase.CLOSED, Phase.CLOSING):
            return
        if self._handshake.step is Step.HEADER:
            self.abort()
            return
        self._phase = Phase.CLOSING
        self._channels.shut()
        self._send_method(commands.Connection.Close(code, reply_text(code, text), 0, 0))
        self.unblock()
        self._go_on()  # the answer to the close must be read
        self._set_timer(_CLOSE_S, self.abort)

    def finish(self) -> None:
        """Write what is due and close the transport."""
        self._flush()
        self._phase = Phase.CLOSED
        self._transport.close()
        self._set_timer(_CLOSE_S, self._transport.abort)

    def abort(self) -> None:
        """End the connection without a word."""
        self._phase = Phase.CLOSED
        self._transport.abort()

    def warn(self, event: str, reason: str) -> None:
        """Log why this connection ends, or one of its channels."""
        extra = {"event": f"broker.{event}"}
        reason = "".join(each if each.isprintable() else "?" for each in reason)
        log.warning("User %r at %s: %s", self.user, self._peer, reason, extra=extra)

    def _too_late(self) -> None:
        self.warn("handshake_timeout", f"it took too long: {self._handshake.step.value}")
        self.abort()

    def _set_timer(self, delay_s: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, action)

    # -- heartbeats ----------------------------------------------------------------------------

    def _opened(self) -> None:
        self._phase = Phase.RUNNING
        self._visitor.busy()
        if self._handshake.heartbeat_s:
            self._set_timer(self._handshake.heartbeat_s / 2, self._half_beat)
        elif self._timer is not None:
            self._timer.cancel()
        extra = {"event": "broker.connected"}
        log.info("User %r connected from %s", self.user, self._peer, extra=extra)

    def _half_beat(self) -> None:
        if not self._said:
            self.send(frames.HEARTBEAT_FRAME)
        # While reading is held up by us, the peer's silence says nothing, but its own reading does.
        silent = not (self._heard or self._held_up or (self._waiting and self._reads()))
        self._silent_halves = self._silent_halves + 1 if silent else 0
        self._heard = self._said = False
        if self._silent_halves >= _SILENT_HALVES:
            self.warn("heartbeat_missed", "it has not been heard for two heartbeats")
            self.abort()
        else:
            self._set_timer(self._handshake.heartbeat_s / 2, self._half_beat)

    def _reads(self) -> bool:
        """Whether the peer has read something since this was asked last, or need not."""
        unread, self._unread = self._unread, self._transport.get_write_buffer_size()
        return not self._paused or self._unread < unread

    # -- frames in ---------------------------------------------------------------------------

    def _protocol_header(self, data: bytes) -> int:
        """Check the first eight bytes; return how many of the data are dealt with."""
        if len(data) < 8 and frames.PROTOCOL_HEADER.startswith(data):
            self._rest = data
            return 0
        if data[:8] != frames.PROTOCOL_HEADER:
            # What the specification asks for: say which protocol is spoken, and hang up.
            self.warn("protocol", "it does not speak AMQP 0-9-1")
            self.send(frames.PROTOCOL_HEADER)
            self.finish()
            return len(data)
        self._handshake.begin()
        return 8

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if kind == frames.METHOD:
            if number == 0:
                self._connection_method(payload)
            elif self._phase is Phase.RUNNING:
                self._channels.method(number, payload)
            elif self._phase is Phase.OPENING:
                raise ConnectionFault(Code.COMMAND_INVALID, "the connection is not open yet")
        elif kind in (frames.HEADER, frames.BODY):
            known = self._channels.content(number, kind, payload)
            if not known and self._phase is not Phase.CLOSING:
                raise ConnectionFault(Code.UNEXPECTED_FRAME, "content on a closed channel")
        elif kind != frames.HEARTBEAT or number or payload:
            raise ConnectionFault(Code.FRAME_ERROR, f"a frame of type {kind} was not expected")

    def _connection_method(self, payload: bytes) -> None:
        method = frames.decode_method(payload)
        if isinstance(method, commands.Connection.Close):
            self._channels.shut()
            self._send_method(commands.Connection.CloseOk())
            self.finish()
        elif isinstance(method, commands.Connection.CloseOk):
            self.finish()
        elif self._phase is not Phase.CLOSING:
            if self._handshake.method(method):
                self._opened()
            if self._handshake.step in (Step.VHOST, Step.DONE):
                self._limit_in = self.frame_max
