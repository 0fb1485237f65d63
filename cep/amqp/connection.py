"""pika's SelectConnection with three changes: whose port it is, gathered writes, held reading.

A plain connection to a loopback port says nothing, no password above all, before the account
behind that port is known to be a right one (cep.safety.peer).

What is written in one go leaves in one go: pika hands each frame to the socket by itself, three
system calls and three packets for a small message. Between `cork` and `uncork` frames are gathered
and sent together, which makes publishing several times cheaper.

A broker may have hundreds of large messages on their way before it hears that they are too many.
While reading is held they stay in its own memory and the network's buffers.

The overridden methods are inner ones of pika (bounded in pyproject.toml); should they ever go away,
unit tests say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pika import SelectConnection

from cep.errors import PeerUntrusted
from cep.safety import peer

GATHER_BYTES = 256 * 1024  # more is passed on at once, so that nothing large is copied twice
# A held connection still takes one mouthful (pika: 100 KiB) this often, so that it never looks dead
# to pika's own watch over heartbeats.
BREATH_S = 10.0


class Connection(SelectConnection):  # type: ignore[misc]
    """A connection whose writes can be gathered. Belongs to the AMQP thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._corked = False
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
        self._held: Any = None  # the transport that is not read
        super().__init__(*args, **kwargs)

    def _on_stream_connected(self) -> None:
        """The socket is connected (with TLS: the certificate is accepted), and nothing was said."""
        if self.params.ssl_options is None:
            try:
                peer.check_peer(self._transport._sock)
            except PeerUntrusted as error:
                self._terminate_stream(error)
                return
        super()._on_stream_connected()

    def cork(self) -> None:
        """Gather from now on what is written."""
        self._corked = True

    def uncork(self) -> None:
        """Send what was gathered."""
        self._corked = False
        self._pass_on()

    def hold(self) -> None:
        """Read nothing until `go_on`; what comes waits in the network's buffers."""
        transport = self._transport
        if self._held is None and _active(transport):
            self._held = transport
            # pika asks the object for this method each time it wants to be called again.
            transport._on_socket_readable = _nothing
            transport._nbio.remove_reader(transport._sock.fileno())
            self.ioloop.call_later(BREATH_S, lambda: self._breathe(transport))

    def go_on(self) -> None:
        """Read again."""
        transport, self._held = self._held, None
        if transport is None:
            return
        del transport._on_socket_readable
        if _active(transport):
            transport._nbio.set_reader(transport._sock.fileno(), transport._on_socket_readable)
            # TLS may have records decrypted already, for which the socket does not wake anybody.
            transport._nbio.add_callback_threadsafe(transport._on_socket_readable)

    def close(self, *args: Any, **kwargs: Any) -> None:
        """Close in good order, for which the broker's answer must be read."""
        self.go_on()
        super().close(*args, **kwargs)

    def _breathe(self, transport: Any) -> None:
        if self._held is transport and _active(transport):
            type(transport)._on_socket_readable(transport)
            self.ioloop.call_later(BREATH_S, lambda: self._breathe(transport))

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
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


def _active(transport: Any) -> bool:
    return transport is not None and cast(bool, transport._state == transport._STATE_ACTIVE)


def _nothing() -> None:
    """Stand in for reading."""
