"""An AMQP client that does only what a test tells it: for what a good client never shows."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

from pamqp import base, body, commands, frame, header, heartbeat

DEADLINE_S = 60.0
_F = TypeVar("_F", bound=base.Frame)
PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"


class RawClient:
    """One TCP connection to a broker, blocking, with a deadline on every read."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._credentials = f"\0{parts.username}\0{parts.password}"
        self.socket = socket.create_connection((parts.hostname, parts.port or 5672), DEADLINE_S)
        self._buffer = b""

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def open(self, *, heartbeat: int = 0, mechanism: str = "PLAIN") -> None:
        """Log in, tune, and open the vhost and channel 1."""
        self.socket.sendall(PROTOCOL_HEADER)
        self.expect(commands.Connection.Start)
        properties = {"capabilities": {"authentication_failure_close": True}}
        login = commands.Connection.StartOk(properties, mechanism, self._credentials, "en_US")
        self.send(login, channel=0)
        tune = self.expect(commands.Connection.Tune)
        tuned = commands.Connection.TuneOk(tune.channel_max, tune.frame_max, heartbeat)
        self.send(tuned, channel=0)
        self.send(commands.Connection.Open("/"), channel=0)
        self.expect(commands.Connection.OpenOk)
        self.send(commands.Channel.Open())
        self.expect(commands.Channel.OpenOk)

    def send(self, method: base.Frame, *, channel: int = 1) -> None:
        """Send one method."""
        self.socket.sendall(frame.marshal(method, channel))

    def publish(self, queue: str, bodies: list[bytes], *, delivery_mode: int = 2) -> None:
        """Publish to a queue, all in one write."""
        properties = commands.Basic.Properties(delivery_mode=delivery_mode)
        self.socket.sendall(
            b"".join(
                frame.marshal(commands.Basic.Publish(exchange="", routing_key=queue), 1)
                + frame.marshal(header.ContentHeader(0, len(each), properties), 1)
                + frame.marshal(body.ContentBody(each), 1)
                for each in bodies
            )
        )

    def expect(self, kind: type[_F]) -> _F:
        """The next frame but heartbeats, which must be this method."""
        got = next(each for each in self.frames() if not isinstance(each, heartbeat.Heartbeat))
        assert isinstance(got, kind), got
        return got

    def frames(self) -> Iterator[object]:
        """Frames as they come, until the broker hangs up."""
        while True:
            while len(self._buffer) >= 7:
                size = 8 + int.from_bytes(self._buffer[3:7], "big")
                if len(self._buffer) < size:
                    break
                _count, _channel, value = frame.unmarshal(self._buffer[:size])
                self._buffer = self._buffer[size:]
                yield value
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return
            if not data:
                return
            self._buffer += data
