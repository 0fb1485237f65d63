"""What a task costs, counted and not timed: a guard that is the same on every machine.

Counted are calls (of Python and of C functions, as `sys.setprofile` sees them), bytes written and
writes. The bounds stand about half above what was counted when they were set, so that they speak
when something is done once more for each task, and are silent about a changed line.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pika
import pytest
from pika import BasicProperties, frame, spec

from cep.amqp.connection import Connection, Envelope
from cep.amqp.consumer import Consumer
from cep.amqp.deliveries import Reader, Taker
from cep.amqp.outgoing import Message, Outgoing
from cep.journal.bodies import BodyFiles
from cep.journal.journal import Journal
from cep.model import PublishKwargs, QueueAddress
from cep.wire.headers import parse_task_headers
from cep.wire.result import peek_error
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
from tests.unit.agent_fakes import ENDPOINT, FUNCTION, open_journal, task_id
from tests.unit.task_payloads import dilled, message

TASKS = 50


def calls_per_task(work: Callable[[], Any], tasks: int = TASKS) -> float:
    """How many calls the work makes for each task."""
    count = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count / tasks


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = open_journal(tmp_path)
    yield opened
    opened.close()


def no_op() -> Callable[[], None]:
    """A function as a user's script defines it: it travels by value."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("def no_op():\n    return None\n", space)
    return space["no_op"]  # type: ignore[no-any-return]


def test_a_no_op_in_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GC_TASK_UUID", "")
    place = str(tmp_path)
    context = WorkerContext(ENDPOINT, place, False, 10 * 1024 * 1024, None, place)
    ids = [task_id() for _ in range(TASKS)]
    function = dilled(no_op(), "01\n")
    bodies = [message(function, task_id=one) for one in ids]
    # What is done once is done; a function is kept when it comes the second time.
    answers = [execute(body, one, context) for body, one in zip(bodies[:2], ids, strict=False)]
    assert [peek_error(one) for one in answers] == [None, None]

    def work() -> None:
        for body, one in zip(bodies, ids, strict=True):
            execute(body, one, context)

    assert calls_per_task(work) < 148  # counted: 99, and 170 when dill reads each


def test_the_journal_of_one_batch(journal: Journal, tmp_path: Path) -> None:
    """Accept, give, finish and settle, each committed for all tasks together."""

    def work() -> None:
        seqs = [journal.accept(task_id(), FUNCTION, b"b" * 700) for _ in range(TASKS)]
        journal.give(seqs)
        journal.commit()
        for seq in seqs:
            journal.finish(seq, b"r" * 500)
        journal.commit()
        for seq in seqs:
            journal.result(seq)
        journal.settle(seqs)
        journal.commit()

    work()
    (log,) = (path for path in tmp_path.rglob("*-wal") if path.is_file())
    before = log.stat().st_size
    assert calls_per_task(work) < 83  # counted: 55
    # Pages of 4 KiB: what a task's 1.2 KB cost when fifty share three commits.
    assert (log.stat().st_size - before) / TASKS < 5_000  # counted: 3,131


def test_large_bodies_are_not_read_back(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are on disk before anything is done with them, and used from memory, once."""
    read: list[tuple[int, str]] = []
    from_disk = BodyFiles.read

    def noting(files: BodyFiles, seq: int, kind: str, size: int) -> bytes:
        read.append((seq, kind))
        return from_disk(files, seq, kind, size)

    monkeypatch.setattr(BodyFiles, "read", noting)
    large = bytes(1_000_000)
    seqs = [journal.accept(task_id(), FUNCTION, large) for _ in range(10)]
    journal.commit()
    assert [journal.load(seq).body for seq in seqs] == [large] * 10
    for seq in seqs:
        journal.finish(seq, large)
    journal.commit()
    assert [journal.result(seq) for seq in seqs] == [large] * 10
    assert read == []
    assert [journal.result(seq) for seq in seqs] == [large] * 10  # what went out is not kept
    assert read == [(seq, "result") for seq in seqs]


def test_a_batch_is_one_commit(journal: Journal) -> None:
    statements: list[str] = []
    journal._writer._connection.set_trace_callback(statements.append)
    seqs = [journal.accept(task_id(), FUNCTION, b"body") for _ in range(TASKS)]
    journal.give(seqs[:10])
    journal.commit()
    assert sum(one.startswith("COMMIT") for one in statements) == 1
    statements.clear()
    assert not journal.commit()
    assert statements == []


def test_a_batch_is_some_statements_and_not_one_for_each_row(journal: Journal) -> None:
    """Each statement of the main thread gives way to the threads of the thread engine."""
    statements: list[str] = []
    journal._writer._connection.set_trace_callback(statements.append)
    seqs = [journal.accept(task_id(), FUNCTION, b"b" * 700) for _ in range(TASKS)]
    journal.give(seqs)
    journal.commit()
    for seq in seqs:
        journal.finish(seq, b"r" * 500)
    journal.commit()
    journal.settle(seqs)
    journal.commit()
    assert len(statements) < 36  # counted: 24


def test_the_headers_of_a_task() -> None:
    headers = {"task_uuid": task_id(), "function_uuid": FUNCTION}

    def work() -> None:
        for _ in range(TASKS):
            parse_task_headers(headers)

    assert calls_per_task(work) < 20  # counted: 13


class _Wire(Connection):
    """A connection with neither socket nor loop: keeps its writes, and has no frame processed."""

    def __init__(self) -> None:
        self._corked = False
        self._gathered: list[bytes | memoryview] = []
        self._gathered_bytes = 0
        self._frame_buffer = b""
        self._reader = Reader()
        self._answers: dict[int, Any] = {}
        self.bytes_sent = self.frames_sent = self.bytes_received = self.frames_received = 0
        self._body_max_length = 100_000
        self.connection_state = self.CONNECTION_OPEN
        self.callbacks = pika.callback.CallbackManager()
        self._channels: dict[int, Any] = {}
        self.writes: list[bytes] = []
        self._adapter_emit_data = self.writes.append

    def _process_frame(self, _frame: Any) -> None:
        pass


def test_a_batch_of_results_is_one_write() -> None:
    route = PublishKwargs("results", "key", True, {"delivery_mode": 2})
    outgoing, wire = Outgoing(), _Wire()
    envelope = Envelope(1, "results", "key", True, BasicProperties(delivery_mode=2))

    def work() -> None:
        outgoing.add(Message(token, b"x" * 500, route) for token in range(TASKS))
        wire.cork()
        tag = 1
        while (waiting := outgoing.next()) is not None:
            outgoing.published(tag, waiting)
            wire.publish(envelope, waiting.body)
            tag += 1
        wire.uncork()
        outgoing.answered(tag - 1, True)

    assert calls_per_task(work) < 28  # counted: 18
    assert len(wire.writes) == 1


class _NoLoop:
    """Nothing runs later."""

    def call_later(self, _delay_s: float, _function: Callable[[], None]) -> None:
        pass


def deliveries(properties: BasicProperties) -> bytes:
    """What a broker sends for the tasks."""
    parts = (
        frame.Method(1, spec.Basic.Deliver("consumer", 1, False, "", "queue")),
        frame.Header(1, 700, properties),
        frame.Body(1, b"x" * 700),
    )
    return b"".join(part.marshal() for part in parts) * TASKS


def test_a_delivery_from_the_bytes_to_the_batch() -> None:
    wire = _Wire()
    channel = wire._channels[1] = pika.channel.Channel(wire, 1, lambda _channel: None)
    channel._set_state(channel.OPEN)
    loop: Any = _NoLoop()
    consumer = Consumer(loop, QueueAddress("amqp://h/", "queue"), name="tasks", put=print)
    consumer._link.channel = channel
    taker = Taker(partial(consumer._on_message, channel))
    channel.basic_consume("queue", taker, consumer_tag="consumer")
    come = deliveries(BasicProperties(delivery_mode=2, headers={"task_uuid": "t", "f_uuid": "f"}))
    assert (
        calls_per_task(lambda: wire._on_data_available(come)) < 23
    )  # counted: 15; 28 one by one, 58 by pika
    assert len(consumer._batch) == TASKS


def test_an_answer_from_the_bytes_to_the_outgoing_messages() -> None:
    wire, outgoing = _Wire(), Outgoing()
    channel = wire._channels[1] = pika.channel.Channel(wire, 1, lambda _channel: None)
    wire._answers[1] = (channel, lambda tag, multiple, _positive: outgoing.answered(tag, multiple))
    route = PublishKwargs("results", "key", True, {"delivery_mode": 2})
    come = b""
    for tag in range(1, TASKS + 1):
        outgoing.published(tag, Message(tag, b"x" * 500, route))
        come += frame.Method(1, spec.Basic.Ack(tag, False)).marshal()
    assert calls_per_task(lambda: wire._on_data_available(come)) < 14  # counted: 9
    assert outgoing.in_flight == 0


def test_reading_frames_asks_for_as_much_work_each_however_many_come_together() -> None:
    """pika's own reader moves all that has not been looked at once for each frame."""
    come = deliveries(BasicProperties(priority=1))  # not an ordinary one, so frame by frame
    wire = _Wire()
    few = calls_per_task(lambda: wire._on_data_available(come))
    many = calls_per_task(lambda: wire._on_data_available(come * 10), TASKS * 10)
    assert few < 76  # counted: 55
    assert many <= few * 1.05
