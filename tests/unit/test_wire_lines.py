"""Large texts in lines: the same as what JSON and base64 of the standard library make of them."""

from __future__ import annotations

import base64
import json
import random
import uuid
from pathlib import Path
from typing import Any

import pytest

from cep.errors import WireError
from cep.wire import buffers, envelope, lines, result, task
from cep.worker import codec
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
from tests.unit.task_payloads import dilled, dumped, message

TASK_ID = str(uuid.uuid4())


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def escaped(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False)[1:-1].encode()


# What is left of the last line, and whether it has padding; and one and two steps of 512 lines.
SIZES = [*range(20_000, 20_058), 57 * 512, 57 * 512 + 1, 57 * 1024, 100_003]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_reads_as_base64_in_lines(size: int) -> None:
    text = "00\n" + base64.encodebytes(noise(size)).decode()
    made = lines.written("00\n", noise(size))
    assert (made.json, len(made), str(made)) == (escaped(text), len(text), text)
    assert lines.decode(text[3:]) == noise(size)


@pytest.mark.parametrize("size", SIZES)
def test_packed_payloads_are_read_without_json(size: int) -> None:
    """Short texts behind a large one may together end where a full line would."""
    large = dumped(noise(size))
    for before in range(0, 80, 13):
        for parts in (["01\n" + "A" * before, large, "00\ngAR9lC4=\n"], [large, large]):
            packed = buffers.pack_buffers(parts)
            assert lines.unescape(escaped(packed)) == packed


def test_short_lines_as_long_as_a_full_one_are_told_apart() -> None:
    text = ("A" * 76 + "\n") * 300 + "B" * 30 + "\n" + "C" * 44 + "\n" + ("D" * 76 + "\n") * 300
    assert lines.unescape(escaped(text)) == text


@pytest.mark.parametrize(
    "wrong", [b"\x07", b"\\t", b"\\\\", b"\\", "é".encode(), b"\n", b"\xff", b"\x7f"]
)
@pytest.mark.parametrize("at", [3, 40_000, -5])
def test_what_is_not_plain_is_left_to_json(wrong: bytes, at: int) -> None:
    whole = lines.written("00\n", noise(60_000)).json
    assert lines.unescape(whole[:at] + wrong + whole[at:]) is None


def test_a_text_of_many_short_lines_is_left_to_json() -> None:
    assert lines.unescape(escaped("x\n" * 10_000)) is None


@pytest.mark.parametrize("spoil", ["AAAA!", "=", "A", "\n\n"])
def test_broken_base64_is_not_decoded(spoil: str) -> None:
    text = base64.encodebytes(noise(30_000)).decode()
    assert lines.decode(text[:50] + spoil + text[50:]) is None


def read_both_ways(body: bytes, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is made of a task message, with the fast way and without it."""
    seen: list[Any] = []
    for fast in (True, False):
        with monkeypatch.context() as patch:
            if not fast:
                patch.setattr(lines, "LARGE", 1 << 40)
            try:
                seen.append(task.unpack_task(body))
            except WireError as error:
                seen.append((str(error), error.task_id))
    return seen


BUFFER = escaped(buffers.pack_buffers(["01\nxxx", dumped(noise(30_000)), "00\ngAR9lC4=\n"]))
HEAD = f'\x01{{"message_type":"task","data":{{"task_id":"{TASK_ID}"'.encode()


@pytest.mark.parametrize(
    "rest",
    [
        b',"task_buffer":"%s"}}',
        b',"container":{},"task_buffer":"%s"}}',
        b',"container":{"task_buffer":"%s"}}}',  # not where it belongs
        b',"container":{"task_buffer":"%s"},"task_buffer":""}}',
        b',"container":{"task_buffer":"%s"},"task\\u005fbuffer":""}}',
        b',"task_buffer":"%s","task_buffer":"other"}}',
        b',"other":"task_buffer","task_buffer":"%s"}}',
        b',"task_buffer": "%s"}}',
        b',"task_buffer":"%s"}',
        b',"task_buffer":"%s',
        b',"task_buffer":"%s"}}x',
        b',"container_id":"no","task_buffer":"%s"}}',
    ],
)
def test_a_large_task_is_read_as_json_reads_it(
    rest: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in (BUFFER, BUFFER + b"\x01", BUFFER[:20_000] + b'\\"' + BUFFER[20_000:]):
        fast, slow = read_both_ways(HEAD + rest.replace(b"%s", text), monkeypatch)
        assert fast == slow


def test_neither_way_through_a_worker_looks_at_each_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON reads and writes small texts only, and the result is what the slow way makes."""
    value = noise(200_000)
    function = dilled(_same, "01\n")
    context = WorkerContext(TASK_ID, str(tmp_path), False, 10_000_000, None, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    body = message(function, value, task_id=TASK_ID)
    longest = 0
    decode, encode = envelope._decode_text, envelope.encode

    def noting_decode(text: str) -> Any:
        nonlocal longest
        longest = max(longest, len(text))
        return decode(text)

    def noting_encode(one: Any) -> str:
        nonlocal longest
        written = encode(one)
        longest = max(longest, len(written))
        return written

    monkeypatch.setenv("GC_TASK_UUID", "")  # so that what the task sets is taken back
    monkeypatch.setattr(envelope, "_decode_text", noting_decode)
    monkeypatch.setattr(envelope, "encode", noting_encode)
    packed = execute(body, TASK_ID, context)
    assert 0 < longest < lines.LARGE
    opened = result.unpack_result(packed)
    assert opened.data == "00\n" + base64.encodebytes(codec._pickled(value)).decode()
    assert packed == result.pack_result(
        TASK_ID, opened.data, details=opened.details, transitions=opened.transitions
    )


def _same(value: Any) -> Any:
    return value
