"""A TCP proxy that knows where AMQP frames begin and end, and does to them what networks do.

It stands between the agent and the broker. Its own thread runs an event loop; the methods below
may be called from any thread and return when the loop has done what they say.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
FRAME_END = b"\xce"
METHOD_FRAME = 1
BASIC_CLASS, ACK = 60, 80  # source: AMQP 0-9-1 specification, class basic, method ack
CHUNK = 64 * 1024
TO_BROKER, TO_CLIENT = "to broker", "to client"


def method_frame(channel: int, class_id: int, method_id: int, arguments: bytes) -> bytes:
    """The bytes of one method frame."""
    payload = struct.pack(">HH", class_id, method_id) + arguments
    return struct.pack(">BHI", METHOD_FRAME, channel, len(payload)) + payload + FRAME_END


def ack_of_an_unknown_tag(channel: int = 1) -> bytes:
    """A basic.ack that no broker forgives: the tag was never delivered."""
    return method_frame(channel, BASIC_CLASS, ACK, struct.pack(">QB", 2**40, 0))


def is_ack(frame: bytes) -> bool:
    """Whether this is a basic.ack: of a delivery, or, from the broker, a confirm."""
    return frame[0] == METHOD_FRAME and frame[7:11] == struct.pack(">HH", BASIC_CLASS, ACK)


@dataclass(eq=False)
class _Pair:
    """A connection of the client and the one to the broker that belongs to it."""

    client: asyncio.StreamWriter
    broker: asyncio.StreamWriter
    pumps: list[asyncio.Task[None]] = field(default_factory=list)
    frames_out: int = 0

    def reset(self) -> None:
        """End both with a reset, as a firewall does."""
        for writer in (self.client, self.broker):
            with contextlib.suppress(OSError):
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        for pump in self.pumps:
            pump.cancel()


class Proxy:
    """See the module. `port` is where clients connect; all on 127.0.0.1.

    Args:
        broker_port: The broker's; it may be set later.
    """

    def __init__(self, broker_port: int = 0) -> None:
        self.broker_port = broker_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._pairs: set[_Pair] = set()
        self._passing = True  # new connections are let through
        self._moving = asyncio.Event()
        self._moving.set()
        self._lag_s = 0.0
        self._swallow: dict[str, Callable[[bytes], bool]] = {}
        self._swallowed = threading.Semaphore(0)
        self._break_in_frame: str | None = None
        self._broken = threading.Event()
        self.port = 0

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._do(self._serve())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # --- what networks do -------------------------------------------------------------------------

    def cut(self) -> None:
        """Reset all connections; until `mend`, new ones are reset, too."""
        self._call(self._cut)

    def mend(self) -> None:
        """Everything passes again; what was frozen is reset, as its peers have given it up."""
        self._call(self._mend)

    def freeze(self) -> None:
        """Half open: connections stay, new ones are accepted, and nothing moves."""
        self._call(self._moving.clear)

    def slow(self, lag_s: float) -> None:
        """Each frame waits, and is passed on in small pieces."""

        def change() -> None:
            self._lag_s = lag_s

        self._call(change)

    def inject(self, frame: bytes) -> int:
        """Send a frame to the broker in the name of each client; returns how many there are."""
        return int(self._call(lambda: self._inject(frame)))

    def swallow_acks(self, direction: str) -> None:
        """Let every basic.ack of this direction disappear, until `mend`."""
        while self._swallowed.acquire(blocking=False):
            pass  # of an earlier time
        self._call(lambda: self._swallow.update({direction: is_ack}))

    def wait_for_swallowed(self, within_s: float) -> bool:
        """Wait until something was swallowed."""
        return self._swallowed.acquire(timeout=within_s)

    def cut_in_a_frame(self, direction: str, within_s: float) -> bool:
        """Pass half of the next frame on and reset; True when that has happened."""
        self._broken.clear()

        def change() -> None:
            self._break_in_frame = direction

        self._call(change)
        return self._broken.wait(within_s)

    # --- in the loop ------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, function: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return function()

        return self._do(run())

    async def _serve(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _cut(self) -> None:
        self._passing = False
        for pair in self._pairs:
            pair.reset()
        self._pairs.clear()

    def _mend(self) -> None:
        frozen = not self._moving.is_set()
        self._swallow.clear()
        self._break_in_frame = None
        self._lag_s = 0.0
        if frozen:
            self._cut()
            self._moving.set()
        self._passing = True

    def _inject(self, frame: bytes) -> int:
        for pair in self._pairs:
            pair.broker.write(frame)
        return len(self._pairs)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._passing:
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self.broker_port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, there[1])
        self._pairs.add(pair)
        pair.pumps = [
            asyncio.ensure_future(self._pump(pair, reader, there[1], TO_BROKER)),
            asyncio.ensure_future(self._pump(pair, there[0], writer, TO_CLIENT)),
        ]

    async def _pump(
        self, pair: _Pair, source: asyncio.StreamReader, sink: asyncio.StreamWriter, direction: str
    ) -> None:
        try:
            if direction == TO_BROKER:
                sink.write(await source.readexactly(len(PROTOCOL_HEADER)))
            while True:
                head = await source.readexactly(7)
                (size,) = struct.unpack(">I", head[3:7])
                frame = head + await source.readexactly(size + 1)
                await self._moving.wait()
                await self._pass_on(pair, sink, frame, direction)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            # One end is gone: so is the other, in good order, after what was written.
            self._pairs.discard(pair)
            sink.close()

    async def _pass_on(
        self, pair: _Pair, sink: asyncio.StreamWriter, frame: bytes, direction: str
    ) -> None:
        swallow = self._swallow.get(direction)
        if swallow is not None and swallow(frame):
            self._swallowed.release()
            return
        if self._break_in_frame == direction:
            self._break_in_frame = None
            sink.write(frame[: len(frame) // 2])
            await sink.drain()
            self._broken.set()
            pair.reset()
            return
        if self._lag_s:
            for at in range(0, len(frame), 100):
                sink.write(frame[at : at + 100])
                await sink.drain()
            await asyncio.sleep(self._lag_s)
        else:
            sink.write(frame)
            await sink.drain()
