"""The embedded broker, from the first byte of a connection to what its store holds afterwards.

No sockets: a connection gets its bytes from the input, in odd pieces, over a transport in memory.
An input is either raw bytes or a script of valid methods with damage in between; scripts are built
with pamqp. After each input the books must balance: the connection is gone, its messages are back
in their queues, the memory counted is the memory held, everything sent was valid AMQP, and now
and then a bystander's queue still works and the store, opened anew, has what the broker had.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pamqp import commands, frame

from cep.hub.broker import Broker, Identity, Limits
from cep.hub.broker.connection import Connection
from cep.hub.door import Door, Visitor
from tests.fuzz.target import Source, Target
from tests.fuzz.targets.amqp_script import (
    DAMAGE,
    LARGEST_BODY,
    PROTOCOL_HEADER,
    C,
    declare,
    method,
    opening,
    publish,
    script,
)

KIB = 1 << 10
LIMITS = Limits(
    body_bytes=LARGEST_BODY,
    memory_bytes=256 * KIB,
    page_bytes=32 * KIB,
    queue_bytes=256 * KIB,
    queue_messages=50,
    outbound_bytes=64 * KIB,
    channels=3,
)
FRAME_MAX = 8192
# What may be on its way to a peer that reads nothing: deliveries up to the limit, the last of them
# and the answers to the methods that arrived together.
UNREAD_LIMIT = 4 * LIMITS.outbound_bytes + 2 * LIMITS.body_bytes
MOST_CHUNKS = 500  # what is left after them comes at once
CHUNKS = (1 << 20, 1, 2, 3, 7, 8, 13, 1000)
BYSTANDER = "bystander"
_DOOR = Door(limit=16, name="fuzzed broker")  # nobody comes in through it; it is asked only
CHECK_EVERY, RESTART_EVERY = 16, 400


class MemoryTransport(asyncio.Transport):
    """Keeps what is written; one of a lazy peer counts it as unread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: Connection, lazy: bool) -> None:
        super().__init__({"peername": ("127.0.0.1", 40000)})
        self.sent = bytearray()
        self.reading = True
        self.closed = False
        self._loop = loop
        self._connection = connection
        self._lazy = lazy
        self._paused = False
        self._high = 64 * KIB

    def set_write_buffer_limits(self, high: int | None = None, **_low: int | None) -> None:
        self._high = high if high is not None else self._high

    def get_write_buffer_size(self) -> int:
        return len(self.sent) if self._lazy else 0

    def write(self, data: Any) -> None:
        if self.closed:
            return
        self.sent += data
        if self._lazy:
            assert len(self.sent) <= UNREAD_LIMIT, f"{len(self.sent)} bytes wait for the peer"
            if len(self.sent) > self._high and not self._paused:
                self._paused = True
                self._connection.pause_writing()

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.call_soon(self._connection.connection_lost, None)

    def abort(self) -> None:
        self.close()


class Bugs(logging.Handler):
    """What the broker logs as its own failure."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def authenticate(user: str, password: str) -> Identity | None:
    """`all` may do everything, `some` has the rights of an endpoint, others may not come in."""
    if password != "right":
        return None
    if user == "all":
        return Identity.privileged(user)
    names = frozenset(("q", "durable", "x"))
    return Identity(user, read=names, write=names, routing_keys=frozenset(("q", "k")))


class Rig:
    """A broker that lives for many inputs, and a bystander on it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.bugs = Bugs()
        self.failures: list[dict[str, Any]] = []
        self._tries = 0
        self._generation = itertools.count()
        self._folder = tempfile.TemporaryDirectory()
        self._directory = Path(self._folder.name)

    def start(self) -> None:
        """Start a broker over an empty directory."""
        self.loop.set_exception_handler(lambda _loop, context: self.failures.append(context))
        asyncio.set_event_loop(self.loop)
        self._directory = Path(self._folder.name) / str(next(self._generation))
        self.broker = self._broker()
        self.loop.run_until_complete(self.broker.start())
        self.bystander, self._wire = self.connect(lazy=False)
        self.feed(self.bystander, self._wire, opening("all") + declare(BYSTANDER, durable=True), 0)

    def _broker(self) -> Broker:
        return Broker(
            self._directory,
            authenticate=authenticate,
            heartbeat_s=0,
            frame_max=FRAME_MAX,
            limits=LIMITS,
        )

    def connect(self, *, lazy: bool) -> tuple[Connection, MemoryTransport]:
        """A new connection, as if a client had come."""
        connection = self.loop.run_until_complete(_made(self.broker))
        transport = MemoryTransport(self.loop, connection, lazy)
        self.loop.call_soon(connection.connection_made, transport)
        self.turn()
        return connection, transport

    def turn(self) -> None:
        """Let the broker do what is due at once."""
        self.loop.run_until_complete(_turns(3))

    def feed(self, connection: Connection, wire: MemoryTransport, data: bytes, size: int) -> None:
        """Let bytes arrive, in chunks, for as long as the broker wants to read."""
        self.loop.run_until_complete(_fed(connection, wire, data, size or len(data) or 1))

    def one(self, data: bytes) -> None:
        """Try one input."""
        self._tries += 1
        source = Source(data)
        flags, size = source.number(), source.pick(CHUNKS)
        stream = script(source, "some" if flags & 4 else "all") if flags & 1 else source.rest()
        if flags & 1 == 0 and flags & 8:
            stream = opening("all") + stream
        connection, wire = self.connect(lazy=bool(flags & 2))
        self.feed(connection, wire, stream, size)
        self.loop.run_until_complete(_stored(self.broker))
        wire.close()
        self.turn()
        check_sent(bytes(wire.sent))
        self._check_books(connection)
        if self._tries % CHECK_EVERY == 0:
            self._check_bystander()
        if self._tries % RESTART_EVERY == 0:
            self._check_store()
            self.start()

    def _check_books(self, connection: Connection) -> None:
        broker = self.broker
        bugs, self.bugs.records = self.bugs.records, []
        assert not bugs, logging.Formatter().format(bugs[0])
        failures, self.failures = self.failures, []
        assert not failures, failures
        assert connection not in broker.connections
        assert self.bystander in broker.connections
        held = 0
        for queue in list(broker.queues.values()):
            assert queue.owner is not connection
            assert not queue.consumers
            assert queue.count == len(queue.ready)
            assert queue.bytes == sum(message.size for message in queue.ready)
            assert queue.bytes <= LIMITS.queue_bytes
            held += sum(m.size for m in queue.ready if m.body is not None)
        assert broker.memory.held == held
        assert held <= LIMITS.memory_bytes + LIMITS.body_bytes

    def _check_bystander(self) -> None:
        self._wire.sent.clear()
        self.feed(
            self.bystander,
            self._wire,
            publish("", BYSTANDER, b"still there")
            + method(commands.Basic.Get(queue=BYSTANDER, no_ack=True)),
            0,
        )
        self.loop.run_until_complete(_stored(self.broker))
        self.turn()
        assert b"still there" in self._wire.sent
        for name in [name for name in self.broker.queues if name != BYSTANDER]:
            self.broker.delete_queue(self.broker.queues[name], None)

    def _check_store(self) -> None:
        """Stop the broker; another one on its directory must find what it had."""
        broker = self.broker
        had = {
            queue.name: [message.seq for message in queue.ready if message.persistent]
            for queue in broker.queues.values()
            if queue.stored
        }
        exchanges = {name for name, found in broker.exchanges.items() if found.durable}
        self._wire.close()
        self.turn()
        self.loop.run_until_complete(broker.stop())
        again = self._broker()
        self.loop.run_until_complete(again.start())
        found = {q.name: [message.seq for message in q.ready] for q in again.queues.values()}
        assert found == had, (found, had)
        assert set(again.exchanges) == exchanges
        self.loop.run_until_complete(again.stop())

    def stop(self) -> None:
        """End it."""
        self._wire.close()
        self.turn()
        self.loop.run_until_complete(self.broker.stop())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()
        asyncio.set_event_loop(None)
        self._folder.cleanup()


async def _made(broker: Broker) -> Connection:
    return Connection(broker, Visitor(_DOOR, lambda _visitor: asyncio.Protocol()))


async def _fed(connection: Connection, wire: MemoryTransport, data: bytes, step: int) -> None:
    at = number = 0
    while at < len(data) and not wire.closed and wire.reading:
        size = step if number < MOST_CHUNKS else len(data)
        connection.data_received(data[at : at + size])
        at, number = at + size, number + 1
        if number % 64 == 1:
            await _turns(2)
    await _turns(3)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _busy(broker: Broker) -> bool:
    """Whether somebody waits for the store."""
    store = broker.store
    return bool(
        store._writing
        or store._pending.puts
        or store._pending.changes
        or any(connection._loading for connection in broker.connections)
        or any(queue._paging for queue in broker.queues.values())
    )


async def _stored(broker: Broker) -> None:
    """Wait until everything asked of the store so far is written and answered."""
    while _busy(broker):
        asked = asyncio.get_running_loop().create_future()
        broker.store.load([], asked.set_result)
        await asked
        await _turns(1)
    await _turns(3)


def check_sent(sent: bytes) -> None:
    """What the broker sent must be AMQP that pamqp reads, and confess no failure of its own."""
    at = 0
    while at < len(sent):
        if sent[at : at + 8] == PROTOCOL_HEADER:
            at += 8
            continue
        used, _channel, got = frame.unmarshal(sent[at:])
        assert used > 0
        at += used
        if isinstance(got, commands.Connection.Close | commands.Channel.Close):
            assert got.reply_code != 541, got.reply_text


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    rig = Rig()
    logger = logging.getLogger("cep.hub.broker")
    logger.addHandler(rig.bugs)
    rig.start()
    try:
        yield rig.one
    finally:
        logger.removeHandler(rig.bugs)
        rig.stop()


def seeds() -> Iterator[bytes]:
    """A life of each kind: as raw bytes, and as scripts that use every step."""
    life = opening("all") + declare("q", durable=True) + publish("", "q", b"x" * 9000, durable=1)
    life += method(C.Basic.Consume(queue="q", consumer_tag="a")) + method(C.Basic.Ack(1))
    yield b"\x00\x00" + life + method(C.Connection.Close(0, "", 0, 0), 0)
    for chunk in range(len(CHUNKS)):
        yield bytes((0, chunk)) + life
    yield b"\x00\x00GET / HTTP/1.1\r\n\r\n"
    yield b"\x00\x00" + opening("all", password="wrong")
    for frame_max in (100, 4096, 1 << 30):
        yield b"\x00\x00" + opening("all", frame_max=frame_max) + declare("q", durable=False)
    for index in commands.INDEX_MAPPING:
        with contextlib.suppress(Exception):  # some methods have no defaults
            yield b"\x08\x00" + method(commands.INDEX_MAPPING[index]())
    new_queue = b"\x03\x01\x00\x00\x01\x00\x00\x00"
    filled = new_queue + b"\x00\x05hello\x04\x00\x01\x00\x01\x00"
    for number in range(DAMAGE):
        for flags in (1, 3, 5):
            yield bytes((flags, number % 8)) + filled + bytes((number,)) + bytes(range(1, 9))
    yield b"\x03\x00" + filled + b"\x0f\xff\x0f\xff\x0f\xff\x0f\xff"
    yield b"\x01\x00" + filled + b"\x02\x03" + b"\x00" * 255 + b"\xff"


TARGET = Target("broker", "embedded broker: frames, handshake, channels, store", _open, seeds)
