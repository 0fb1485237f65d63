"""What worker processes send, and may leave in the memory they share with the agent."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cep.config.settings import ProcessPoolSettings
from cep.engines.base import EngineEvent
from cep.engines.pool_dispatcher import Dispatcher
from cep.engines.pool_link import Worker
from cep.model import Outcome, OutcomeKind, Task
from cep.worker import packets
from tests.fuzz.target import Source, Target, piece

TASK_ID = "11111111-2222-3333-4444-555555555555"
SEQS = (3, 5)


class Rig:
    """A dispatcher of the process engine whose thread is this one, with one worker at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events: list[EngineEvent] = []
        self._kills = 0
        link: Any = SimpleNamespace(kill=self._killed, control=None)
        self._wake = os.eventfd(0)
        self._dispatcher = Dispatcher(
            ProcessPoolSettings(max_workers=1),
            count=1,
            link=link,
            slots=folder,
            commands=deque(),
            wake=self._wake,
            deliver=self._events.append,
        )
        self._descriptors = _descriptors()

    def _killed(self, _worker: Worker) -> None:
        self._kills += 1

    def one(self, data: bytes) -> None:
        """A worker with two tasks says hello, sends packets, and dies."""
        source = Source(data)
        worker = Worker(0, None, self._folder)
        dispatcher = self._dispatcher
        dispatcher._workers[0] = dispatcher._by_handle[worker.sock.fileno()] = worker
        dispatcher._poll.register(worker.sock)
        for seq in SEQS:
            worker.given[seq] = Task(seq, TASK_ID, "f", b"body")
        self._kills = 0
        worker.far.setblocking(False)
        first = source.number()
        hello = packets.hello(os.getpid()) if first & 1 else source.piece()
        with contextlib.suppress(BlockingIOError):
            worker.far.send(hello or b"x")
            while source.left > 1:
                self._send(worker.far, source)
        if first & 2:
            content = source.rest()
            os.ftruncate(worker.stash, len(content))
            os.pwrite(worker.stash, content, 0)
        if worker.pid is None:
            dispatcher._hear(worker)
        dispatcher._settle(worker, "died")
        self._check()

    def _send(self, far: socket.socket, source: Source) -> None:
        how = source.number()
        if how % 4 == 0:
            handle = _file(source.piece() * (1 + how // 4))
            try:
                socket.send_fds(far, [source.piece() or b"x"], [handle])
            finally:
                os.close(handle)
        elif how % 4 == 1:
            far.send(source.piece() or b"x")
        elif how % 4 == 2:
            far.send(packets.result_record(source.pick((*SEQS, 9)), source.piece(), 0.001))
        else:
            with _odd_file(how) as handle:
                socket.send_fds(far, [source.piece() or b"x"], [handle])

    def _check(self) -> None:
        dispatcher = self._dispatcher
        outcomes = list(dispatcher._outcomes)
        dispatcher._outcomes.clear()
        waiting = [task.seq for task in dispatcher._pending]
        dispatcher._pending.clear()
        settled = [outcome.seq for outcome in outcomes] + waiting
        # Each task once: it has a result, is lost, or waits for another worker.
        assert sorted(settled) == list(SEQS), (outcomes, waiting)
        assert all(_sound(outcome) for outcome in outcomes)
        assert _descriptors() == self._descriptors

    def close(self) -> None:
        """Close what the rig opened."""
        os.close(self._wake)
        self._dispatcher._poll.close()


def _sound(outcome: Outcome) -> bool:
    return outcome.kind in (OutcomeKind.DONE, OutcomeKind.LOST)


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _file(content: bytes) -> int:
    handle = os.memfd_create("fuzz")
    os.write(handle, content)
    return handle


@contextlib.contextmanager
def _odd_file(kind: int) -> Iterator[int]:
    """A descriptor that is no ordinary file to read from."""
    handles: tuple[int, ...]
    if kind & 4:
        handles = os.pipe()
    elif kind & 8:
        handles = (os.open("/", os.O_RDONLY | os.O_DIRECTORY),)
    elif kind & 16:
        handles = (os.open("/proc/self/exe", os.O_PATH),)
    else:
        handles = (os.open("/dev/null", os.O_WRONLY),)
    try:
        yield handles[0]
    finally:
        for handle in handles:
            os.close(handle)


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        try:
            yield rig.one
        finally:
            rig.close()


def seeds() -> Iterator[bytes]:
    """Results in packets, in files, cut off, of tasks the worker has not, and odd descriptors."""
    one, other = (packets.result_record(seq, b"result", 0.25) for seq in SEQS)
    yield b"\x01\x01" + piece(one) + b"\x01" + piece(other)
    yield b"\x01\x01" + piece(one + other)
    yield b"\x01\x02\x00" + piece(b"result") + b"\x02\x01" + piece(b"result")
    yield b"\x01\x01" + piece(one + one)
    yield b"\x01\x01" + piece(one[:-3])
    yield b"\x01\x02\x02" + piece(b"of nobody")
    for seconds in (float("nan"), float("inf"), -1.0):
        yield b"\x01\x01" + piece(packets.result_record(3, b"x", seconds))
    large = packets._RESULT.pack(3, 6, 0.5, 1)
    for claimed in (6, 0, 4096, 2**32 - 1):
        head = packets._RESULT.pack(3, claimed, 0.5, 1)
        yield b"\x01\x00" + piece(b"result") + piece(head)
        for odd in (3, 7, 11, 19):
            yield bytes((1, odd)) + piece(head)
    yield b"\x01\x01" + piece(large)
    yield b"\x00" + piece(packets.hello(1)) + b"\x01" + piece(one)
    yield b"\x00" + piece(packets.hello(0))
    yield b"\x00" + piece(b"X")
    yield b"\x03\x01" + piece(one) + b""
    yield b"\x03"
    for stash in (b"", b"\x01", b"\xff\xff\xff\xff", len(other).to_bytes(4, "little") + other):
        yield b"\x03" + stash


TARGET = Target("pool", "packets and shared memory of worker processes", _open, seeds)
