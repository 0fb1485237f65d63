"""A broker on the loopback of the test's own event loop, and a client that speaks raw frames."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

from pamqp import base, body, commands, frame, header

from cep.hub.broker import Broker, Identity

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
DEADLINE_S = 60.0
CAPABILITIES = {
    "authentication_failure_close": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
}
_F = TypeVar("_F", bound=base.Frame)


def everybody(user: str, password: str) -> Identity | None:
    """Let everybody in who knows the password, and do everything."""
    return Identity.privileged(user) if password == "right" else None


@contextlib.asynccontextmanager
async def running(state_dir: Path, **options: Any) -> AsyncIterator[tuple[Broker, int]]:
    """A started broker and its port."""
    options.setdefault("authenticate", everybody)
    broker = Broker(state_dir, **options)
    port = await broker.start()
    try:
        yield broker, port
    finally:
        await broker.stop()


class Client:
    """Sends what it is told, and keeps nothing but bytes not yet read."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *methods: base.Frame, channel: int = 1) -> None:
        """Send methods."""
        for method in methods:
            self.writer.write(frame.marshal(method, channel))

    def publish(
        self,
        queue: str,
        content: bytes,
        *,
        exchange: str = "",
        properties: commands.Basic.Properties | None = None,
        **flags: bool,
    ) -> None:
        """Publish one message."""
        properties = properties or commands.Basic.Properties(delivery_mode=2)
        publish = commands.Basic.Publish(exchange=exchange, routing_key=queue, **flags)
        self.send(publish)
        head = header.ContentHeader(0, len(content), properties)
        self.writer.write(frame.marshal(head, 1))
        for start in range(0, len(content), 100_000):
            part = body.ContentBody(content[start : start + 100_000])
            self.writer.write(frame.marshal(part, 1))

    async def receive(self) -> Any:
        """The next frame; None when the broker has hung up."""
        try:
            head = await asyncio.wait_for(self.reader.readexactly(7), DEADLINE_S)
            size = int.from_bytes(head[3:], "big")
            rest = await asyncio.wait_for(self.reader.readexactly(size + 1), DEADLINE_S)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return frame.unmarshal(head + rest)[2]

    async def expect(self, kind: type[_F]) -> _F:
        """The next frame, which must be this method."""
        got = await self.receive()
        assert isinstance(got, kind), getattr(got, "reply_text", got)
        return got

    async def call(self, method: base.Frame, answer: type[_F]) -> _F:
        """Send a method and return its answer."""
        self.send(method)
        return await self.expect(answer)

    async def call_through(self, method: base.Frame, answer: type[_F]) -> _F:
        """Send a method and return its answer, past whatever else was on its way."""
        self.send(method)
        while not isinstance(got := await self.receive(), answer):
            assert got is not None
        return got

    async def body(self) -> bytes:
        """The content that follows a method."""
        head = await self.receive()
        assert isinstance(head, header.ContentHeader), head
        parts = b""
        while len(parts) < head.body_size:
            parts += (await self.receive()).value
        return parts

    async def close_code(self) -> int | None:
        """Read until a close comes; its reply code, None when there was none."""
        while (got := await self.receive()) is not None:
            if isinstance(got, commands.Connection.Close | commands.Channel.Close):
                return got.reply_code
        return None


async def connect(port: int) -> Client:
    """A client that has only its TCP connection."""
    return Client(*await asyncio.open_connection("127.0.0.1", port))


@contextlib.asynccontextmanager
async def client(
    port: int, *, user: str = "u", password: str = "right", heartbeat: int = 0
) -> AsyncIterator[Client]:
    """A client with channel 1 open."""
    made = await connect(port)
    try:
        made.writer.write(PROTOCOL_HEADER)
        await made.expect(commands.Connection.Start)
        login = f"\0{user}\0{password}"
        properties = {"capabilities": dict(CAPABILITIES)}
        made.send(commands.Connection.StartOk(properties, "PLAIN", login, "en_US"), channel=0)
        await made.expect(commands.Connection.Tune)
        made.send(
            commands.Connection.TuneOk(0, 0, heartbeat), commands.Connection.Open("/"), channel=0
        )
        await made.expect(commands.Connection.OpenOk)
        await made.call(commands.Channel.Open(), commands.Channel.OpenOk)
        yield made
    finally:
        made.writer.close()
        with contextlib.suppress(ConnectionError):
            await made.writer.wait_closed()
