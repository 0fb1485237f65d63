"""Properties of the codec: what is packed is read again; any bytes are a value or a WireError."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cep.errors import WireError
from cep.wire import buffers, envelope
from cep.wire.headers import TaskHeaders, parse_task_headers
from cep.wire.result import ACTORS, STATES, Transition, pack_result, unpack_result
from cep.wire.status import pack_status_report, unpack_status_report
from cep.wire.task import pack_task, unpack_task

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
ids = st.uuids().map(str)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=4)
transitions = st.lists(
    st.builds(
        Transition,
        timestamp_ns=st.integers(0, 2**63),
        state=st.sampled_from(sorted(STATES)),
        actor=st.sampled_from(sorted(ACTORS)),
    ),
    max_size=3,
)
UNPACKERS = (envelope.unpack, unpack_task, unpack_result, unpack_status_report)


@given(ids, texts)
def test_a_task_is_read_as_it_was_packed(task_id: str, buffer: str) -> None:
    body = pack_task(task_id, buffer)
    read = unpack_task(body)
    assert (read.task_id, read.task_buffer) == (task_id, buffer)
    # Nothing but what JSON must escape is added to the payload.
    assert len(body) <= len(json.dumps(buffer)) + 200


@given(ids, texts, st.none() | objects, st.none() | st.tuples(texts, texts), transitions)
def test_a_result_is_read_as_it_was_packed(
    task_id: str,
    data: str,
    details: dict[str, Any] | None,
    error: tuple[str, str] | None,
    moves: list[Transition],
) -> None:
    body = pack_result(task_id, data, details=details, error=error, transitions=moves)
    read = unpack_result(body)
    assert (read.task_id, read.data, read.details) == (task_id, data, details)
    assert read.transitions == tuple(moves)
    assert (read.error_code, read.user_message) == (error or (None, None))
    assert read.is_error == (error is not None)


@given(ids, objects, st.dictionaries(ids, transitions, max_size=2))
def test_a_status_report_is_read_as_it_was_packed(
    endpoint_id: str, state: dict[str, Any], moves: dict[str, list[Transition]]
) -> None:
    state.pop("ep_status_report", None)
    read = unpack_status_report(pack_status_report(endpoint_id, state, moves))
    assert (read.endpoint_id, read.global_state) == (endpoint_id, state)
    assert read.task_statuses == {key: tuple(found) for key, found in moves.items()}


@given(st.lists(texts))
def test_packed_buffers_are_unpacked_and_can_be_joined(parts: list[str]) -> None:
    packed = buffers.pack_buffers(parts)
    assert buffers.unpack_buffers(packed) == parts
    assert buffers.unpack_buffers(packed + packed) == parts + parts
    # Each costs its length in digits and a newline.
    assert len(packed) == sum(len(one) + len(str(len(one))) + 1 for one in parts)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda raw: b"\x01" + raw))
def test_any_bytes_are_a_message_or_a_wire_error(raw: bytes) -> None:
    for unpack in UNPACKERS:
        try:
            unpack(raw)
        except WireError as error:
            assert len(str(error)) < 1000


@given(st.sampled_from(("task", "result", "ep_status_report", "other")), values | objects)
def test_any_json_is_a_message_or_a_wire_error(kind: str, data: Any) -> None:
    body = b"\x01" + json.dumps({"message_type": kind, "data": data}).encode()
    for unpack in UNPACKERS:
        try:
            unpack(body)
        except WireError as error:
            assert len(str(error)) < 1000


@given(ids, st.dictionaries(st.sampled_from(("data", "details", "task_buffer", "x")), values))
def test_the_task_of_a_broken_message_is_told_when_it_can_be_read(
    task_id: str, rest: dict[str, Any]
) -> None:
    spellings = (task_id, task_id.upper(), task_id.replace("-", ""))
    for kind, unpack in (("task", unpack_task), ("result", unpack_result)):
        for spelling in spellings:
            content = {"message_type": kind, "data": {**rest, "task_id": spelling}}
            body = b"\x01" + json.dumps(content).encode()
            try:
                assert unpack(body).task_id == task_id
            except WireError as error:
                assert error.task_id == task_id


header_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | texts
    | st.binary(max_size=20)
    | st.lists(texts | st.integers(), max_size=3)
    | objects
    | ids
)


@given(
    st.dictionaries(
        st.sampled_from(
            ("task_uuid", "function_uuid", "resource_specification", "result_serializers", "x")
        ),
        header_values,
    )
)
def test_any_headers_are_a_tasks_or_a_wire_error(headers: dict[str, Any]) -> None:
    try:
        read = parse_task_headers(headers)
    except WireError as error:
        assert error.task_id == envelope.read_uuid(headers.get("task_uuid"))
    else:
        assert str(uuid.UUID(read.task_id)) == read.task_id
        assert str(uuid.UUID(read.function_id)) == read.function_id


@pytest.mark.parametrize(
    "ending", ["", "\n", '"', "\\", "\t", "\x7f", "\x1f", "\r", "é", "\U0001f600", "\ud800"]
)
def test_a_large_text_is_written_as_a_small_one_is(ending: str) -> None:
    text = ("x" * 76 + "\n") * 1000 + ending
    body = pack_result(str(uuid.UUID(int=1)), text, details={"key": [text]}, error=(ending, text))
    message = json.loads(body[1:])
    encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    assert body[1:] == encode(message).encode()
    assert message["data"]["data"] == text.replace("\ud800", "?")


@given(ids, ids, st.dictionaries(texts, values, min_size=1), st.lists(texts))
def test_headers_are_read_as_a_service_writes_them(
    task_id: str, function_id: str, specification: dict[str, Any], serializers: list[str]
) -> None:
    text = json.dumps(specification)
    read = parse_task_headers(
        {
            "task_uuid": task_id,
            "function_uuid": function_id.upper(),
            "resource_specification": text,
            "result_serializers": serializers,
        }
    )
    assert read == TaskHeaders(task_id, function_id, text, tuple(serializers))


def test_half_of_a_surrogate_pair_becomes_a_question_mark() -> None:
    task_id = str(uuid.UUID(int=1))
    body = pack_result(task_id, "$1", details={"$2": ["$3"]})
    for mark, value in ((b"$1", b"a\\ud800b"), (b"$2", b"\\uDfff"), (b"$3", b"\\ud83d\\ude00")):
        body = body.replace(mark, value)
    read = unpack_result(body)
    assert (read.data, read.details) == ("a?b", {"?": ["\U0001f600"]})


def test_a_message_nested_beyond_measure_is_refused_at_any_depth() -> None:
    for depth in (envelope.DEEPEST + 1, 300, 900, 3000, 100_000):
        nested = b"[" * depth + b"]" * depth
        with pytest.raises(WireError):
            envelope.unpack(b'\x01{"message_type":"result","data":{"a":' + nested + b"}}")
    nested = b"[" * (envelope.DEEPEST - 2) + b"]" * (envelope.DEEPEST - 2)
    envelope.unpack(b'\x01{"message_type":"result","data":{"a":' + nested + b"}}")
    # Many that are next to each other are not deep; and a large message is judged as a small one.
    envelope.unpack(b'\x01{"message_type":"result","data":{"a":[' + b"[]," * 999 + b"[]]}}")
    text = b'"' + b"x" * 100_000 + b'",'
    with pytest.raises(WireError):
        deep = b"[" * envelope.DEEPEST + b"]" * envelope.DEEPEST
        envelope.unpack(b'\x01{"message_type":"result","data":{"a":[' + text + deep + b"]}}")


@pytest.mark.parametrize("where", ["key", "value", "inside"])
def test_half_of_a_surrogate_pair_is_found_in_a_large_message(where: str) -> None:
    half = "\\ud800"
    data = {
        "key": f'"{half}":1,"task_buffer":"{"x" * 100_000}"',
        "value": f'"task_buffer":"{"x" * 100_000}{half}"',
        "inside": f'"details":{{"a":["{half}"]}},"task_buffer":"{"x" * 100_000}"',
    }[where]
    _, read = envelope.unpack(b'\x01{"message_type":"task","data":{' + data.encode() + b"}}")
    assert "?" in json.dumps(read)
    assert "\\ud800" not in json.dumps(read)


def test_what_is_json_already_goes_into_a_message_as_it_is() -> None:
    value = {"a": [1, "ü", None], "b": {"c": True}}
    told = envelope.Encoded(envelope.encode(value))
    assert envelope.pack("result", {"details": told}) == envelope.pack("result", {"details": value})


@pytest.mark.parametrize("text", ['{"priority": NaN}', '{"a": Infinity}', "[" * 5000, "5"])
def test_a_resource_specification_beyond_json_is_refused(text: str) -> None:
    task_id = str(uuid.UUID(int=1))
    headers = {"task_uuid": task_id, "function_uuid": task_id, "resource_specification": text}
    with pytest.raises(WireError) as caught:
        parse_task_headers(headers)
    assert caught.value.task_id == task_id


def test_a_long_message_type_is_told_shortly() -> None:
    with pytest.raises(WireError) as caught:
        envelope.unpack(b'\x01{"message_type":"' + b"x" * 100_000 + b'"}')
    assert len(str(caught.value)) < 200
