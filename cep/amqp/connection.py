"""pika's SelectConnection with two changes: whose port it is, and gathered writes.

A plain connection to a loopback port says nothing, no password above all, before the account
behind that port is known to be a right one (cep.safety.peer).

What is written in one go leaves in one go: pika hands each frame to the socket by itself, three
system calls and three packets for a small message. Between `cork` and `uncork` frames are gathered
and sent together, which makes publishing several times cheaper.

The overridden methods are inner ones of pika (bounded in pyproject.toml); should they ever go away,
unit tests say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pika import SelectConnection

from cep.errors import PeerUntrusted
from cep.safety import peer

GATHER_BYTES = 256 * 1024  # more is passed on at once, so that nothing large is copied twice


class Connection(SelectConnection):  # type: ignore[misc]
    """A connection whose writes can be gathered. Belongs to the AMQP thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._corked = False
        self._gathered: list[bytes] = []
        self._gathered_bytes = 0
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
