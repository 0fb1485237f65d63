"""The wire codec: messages, headers and packed buffers, as agent, worker and hub read them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator

from cep.errors import WireError
from cep.wire import buffers, envelope
from cep.wire.headers import parse_task_headers
from cep.wire.result import Transition, error_result, pack_result, unpack_result
from cep.wire.status import pack_status_report, unpack_status_report
from cep.wire.task import pack_task, unpack_task
from tests.fuzz.target import Source, Target

TASK_ID = "11111111-2222-3333-4444-555555555555"
HEADERS = ("task_uuid", "function_uuid", "resource_specification", "result_serializers", "other")


def _headers(data: bytes) -> None:
    source = Source(data)
    headers: dict[str, object] = {}
    while source.left:
        name = source.pick(HEADERS)
        kind = source.number() % 4
        value: object = source.piece().decode("utf-8", "surrogateescape")
        if kind == 1:
            value = [value, *(source.piece().decode("latin-1") for _ in range(source.number() % 4))]
        elif kind == 2:
            value = int.from_bytes(source.take(8), "big")
        elif kind == 3:
            value = source.piece()
        headers[name] = value
    read = parse_task_headers(headers)
    assert envelope.read_uuid(read.task_id) == read.task_id


def _buffers(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    parts = buffers.unpack_buffers(text)
    assert buffers.unpack_buffers(buffers.pack_buffers(parts)) == parts
    assert sum(map(len, parts)) <= len(text)


def _again(message: object) -> None:
    """What was read may be sent on: by a hub in JSON, by anybody in UTF-8."""
    json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8")


def _any(data: bytes) -> None:
    kind, content = envelope.unpack(data)
    _again([kind, content])
    assert envelope.unpack(envelope.pack(kind, content)) == (kind, content)


def _task(data: bytes) -> None:
    task = unpack_task(data)
    assert unpack_task(pack_task(task.task_id, task.task_buffer)).task_buffer == task.task_buffer


def _result(data: bytes) -> None:
    result = unpack_result(data)
    _again([result.data, result.details, result.error_code, result.user_message])


def _status(data: bytes) -> None:
    _again(unpack_status_report(data).global_state)


PARSERS: tuple[Callable[[bytes], None], ...] = (_any, _task, _result, _status, _headers, _buffers)


def one(data: bytes) -> None:
    """The first byte chooses the parser; only a WireError of moderate length may come of it."""
    source = Source(data)
    parser = source.pick(PARSERS)
    try:
        parser(source.rest())
    except WireError as error:
        assert len(str(error)) < 1000
        assert error.task_id is None or envelope.read_uuid(error.task_id) == error.task_id


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    yield one


def seeds() -> Iterator[bytes]:
    """One message of each kind, and what Python's JSON is known to be generous with."""
    moves = [Transition(1, "running", "worker")]
    messages = (
        pack_task(TASK_ID, buffers.pack_buffers(["04\nx", "00\ny", "00\nz"])),
        pack_result(TASK_ID, "00\nx\n", details={"host": "n1", "a": [1, {}]}, transitions=moves),
        error_result(TASK_ID, "WORKER_LOST", "gone"),
        pack_status_report(TASK_ID, {"heartbeat_period": 30, "info": {}}, {TASK_ID: moves}),
    )
    for message in messages:
        for kind in range(4):
            yield bytes((kind,)) + message
    text = b'\x01{"message_type":"result","data":{"task_id":"' + TASK_ID.encode() + b'","data":'
    for value in (b'"\\ud800"', b"NaN", b"1e999", b"9" * 4299, b"[" * 900 + b"]" * 900):
        yield b"\x02" + text + value + b"}}"
        yield b"\x00" + text + value + b"}}"
    uuid = bytes((len(TASK_ID),)) + TASK_ID.encode()
    yield b"\x04\x00\x00" + uuid + b"\x01\x00" + uuid + b"\x02\x00\x08" + b'{"a": 1}'
    yield b"\x04\x00\x00" + uuid + b"\x01\x00" + uuid + b"\x03\x01\x03a.b\x01\x03c.d"
    yield b"\x052\nab3\nabc"


TARGET = Target("wire", "messages, headers and buffers", _open, seeds)
