"""Messages from outside are read strictly: garbage is a WireError that names the task if it can."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cep.errors import WireError
from cep.wire import buffers, envelope, result, task
from cep.wire.headers import parse_task_headers
from cep.wire.result import error_result, pack_result, unpack_result
from cep.wire.status import unpack_status_report
from cep.wire.task import pack_task, unpack_task

TASK_ID = "5b0c2e2e-1111-4222-8333-000000000001"
FUNCTION_ID = "77777777-1111-4222-8333-000000000003"
READERS = [envelope.unpack, unpack_task, unpack_result, unpack_status_report]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def body(data: Any, message_type: Any = "task") -> bytes:
    return b"\x01" + json.dumps({"message_type": message_type, "data": data}).encode()


@pytest.mark.parametrize("read", READERS)
@given(garbage=st.binary(max_size=60))
def test_random_bytes_are_a_wire_error(read: Any, garbage: bytes) -> None:
    for message in (garbage, b"\x01" + garbage, b'\x01{"message_type":"task","data":' + garbage):
        with pytest.raises(WireError):
            read(message)


@pytest.mark.parametrize("read", READERS[1:])
@given(data=JSON_VALUES)
def test_any_json_in_the_place_of_data_is_a_wire_error(read: Any, data: Any) -> None:
    for message_type in ("task", "result", "ep_status_report"):
        with pytest.raises(WireError):
            read(body(data, message_type))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x02{}",
        b"\x00" + pack_task(TASK_ID, "x")[1:],
        b'{"message_type":"task","data":{}}',
        b"\x01\xff\xfe",
        b"\x01[]",
        b"\x01null",
        b"\x01" + b"[" * 100_000,
        b'\x01{"message_type":"task","data":{"n":' + b"9" * 5000 + b"}}",
        b'\x01{"message_type":1,"data":{}}',
        b'\x01{"message_type":"task"}',
        pack_task(TASK_ID, "x")[:-3],
        b"\x01" + '{"message_type":"task","data":{}}'.encode("utf-16"),
    ],
)
def test_malformed_envelopes_are_refused(read: Any, message: bytes) -> None:
    with pytest.raises(WireError) as caught:
        read(message)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("data", "known"),
    [
        ({"task_id": TASK_ID}, True),
        ({"task_id": TASK_ID, "task_buffer": 7}, True),
        ({"task_id": TASK_ID, "task_buffer": "x", "container_id": "no"}, True),
        ({"task_id": TASK_ID, "task_buffer": "x", "container": []}, True),
        ({"task_id": "5b0c", "task_buffer": "x"}, False),
        ({"task_id": None, "task_buffer": "x"}, False),
        ({"task_buffer": "x"}, False),
    ],
)
def test_a_wrong_field_names_the_task_when_it_can(data: Any, known: bool) -> None:
    with pytest.raises(WireError) as caught:
        unpack_task(body(data))
    assert caught.value.task_id == (TASK_ID if known else None)


def test_a_message_of_another_type_names_the_task() -> None:
    with pytest.raises(WireError) as caught:
        unpack_task(pack_result(TASK_ID, "x"))
    assert caught.value.task_id == TASK_ID
    assert "'result'" in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"data": None},
        {"details": []},
        {"error_details": "no"},
        {"error_details": {"code": "X"}},
        {"error_details": {"code": 1, "user_message": "x"}},
        {"task_statuses": {}},
        {"task_statuses": [1]},
        {"task_statuses": [{"timestamp": True, "state": "running", "actor": "worker"}]},
        {"task_statuses": [{"timestamp": 1, "state": "flying", "actor": "worker"}]},
        {"task_statuses": [{"timestamp": 1, "state": "running", "actor": ["worker"]}]},
    ],
)
def test_nested_fields_of_a_result_are_checked(change: dict[str, Any]) -> None:
    data = {"task_id": TASK_ID, "data": "x", **change}
    with pytest.raises(WireError) as caught:
        unpack_result(body(data, "result"))
    assert caught.value.task_id == TASK_ID


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint_id": 1},
        {"global_state": []},
        {"task_statuses": None},
        {"task_statuses": {"x": 1}},
    ],
)
def test_fields_of_a_status_report_are_checked(change: dict[str, Any]) -> None:
    data = {"endpoint_id": TASK_ID, "global_state": {}, "task_statuses": {}}
    unpack_status_report(body(data, "ep_status_report"))
    with pytest.raises(WireError):
        unpack_status_report(body({**data, **change}, "ep_status_report"))


def test_unknown_fields_are_ignored() -> None:
    data = {"task_id": TASK_ID, "task_buffer": "x", "new": {"field": [1]}}
    message = {"message_type": "task", "data": data, "also": "new"}
    assert unpack_task(b"\x01" + json.dumps(message).encode()).task_buffer == "x"


@pytest.mark.parametrize("text", [TASK_ID.upper(), TASK_ID.replace("-", "")])
def test_task_ids_become_canonical(text: str) -> None:
    assert unpack_task(body({"task_id": text, "task_buffer": ""})).task_id == TASK_ID


def test_lone_surrogates_do_not_reach_the_wire() -> None:
    packed = pack_result(TASK_ID, "a file named \udcff")
    assert unpack_result(packed).data == "a file named ?"


def test_what_json_cannot_say_is_refused() -> None:
    with pytest.raises(WireError):
        envelope.pack("result", {"x": object()})
    with pytest.raises(WireError):
        envelope.pack("result", {"x": float("nan")})


def test_an_error_result_is_one() -> None:
    opened = unpack_result(error_result(TASK_ID, result.WORKER_LOST, "The worker died."))
    assert (opened.error_code, opened.user_message) == ("WORKER_LOST", "The worker died.")
    assert [one.actor for one in opened.transitions] == ["interchange"]
    published = unpack_result(error_result(TASK_ID, result.REMOTE_EXECUTION_ERROR, "Trace"))
    assert published.user_message == result.EXECUTION_ERROR_MESSAGE


# -- headers -----------------------------------------------------------------------------------


def headers(**change: object) -> dict[str, object]:
    return {"task_uuid": TASK_ID, "function_uuid": FUNCTION_ID, **change}


def test_headers_are_read() -> None:
    read = parse_task_headers(
        headers(
            resource_specification='{"num_nodes": 2}', result_serializers=["a.B"], foreign=b"\xff"
        )
    )
    assert (read.task_id, read.function_id) == (TASK_ID, FUNCTION_ID)
    assert read.resource_specification == '{"num_nodes": 2}'
    assert read.result_serializers == ("a.B",)


@pytest.mark.parametrize("nothing", [None, "", "null", " null ", "{}"])
def test_an_empty_resource_specification_is_none(nothing: object) -> None:
    assert (
        parse_task_headers(headers(resource_specification=nothing)).resource_specification is None
    )


@pytest.mark.parametrize(
    "change",
    [
        {"function_uuid": None},
        {"function_uuid": "no"},
        {"function_uuid": b"x"},
        {"resource_specification": "{"},
        {"resource_specification": "[1]"},
        {"resource_specification": 5},
        {"resource_specification": {"num_nodes": 2}},
        {"resource_specification": "[" * 100_000},
        {"result_serializers": "a.B"},
        {"result_serializers": ["a.B", 1]},
        {"result_serializers": {}},
    ],
)
def test_wrong_headers_name_the_task(change: dict[str, object]) -> None:
    with pytest.raises(WireError) as caught:
        parse_task_headers(headers(**change))
    assert caught.value.task_id == TASK_ID


@pytest.mark.parametrize("missing", [None, "", 5, b"x", [TASK_ID]])
def test_headers_without_a_task_name_none(missing: object) -> None:
    with pytest.raises(WireError) as caught:
        parse_task_headers(headers(task_uuid=missing))
    assert caught.value.task_id is None
    with pytest.raises(WireError):
        parse_task_headers(None)  # type: ignore[arg-type]


@given(st.dictionaries(st.sampled_from([*headers(), "result_serializers"]), JSON_VALUES))
def test_any_headers_are_read_or_refused(given_headers: dict[str, object]) -> None:
    try:
        read = parse_task_headers(given_headers)
    except WireError:
        return
    assert uuid.UUID(read.task_id)


# -- buffers -----------------------------------------------------------------------------------


@given(st.lists(st.text()), st.lists(st.text()))
def test_packed_buffers_come_back_and_can_be_joined(some: list[str], more: list[str]) -> None:
    joined = buffers.pack_buffers(some) + buffers.pack_buffers(more)
    assert buffers.unpack_buffers(joined) == some + more


@given(st.text())
def test_any_text_is_unpacked_or_refused(text: str) -> None:
    try:
        found = buffers.unpack_buffers(text)
    except WireError:
        return
    assert sum(map(len, found)) < max(1, len(text))


@pytest.mark.parametrize("text", ["5", "5\nabc", "-1\nx", "+1\nx", "1_0\n", " 1\nx", "²\nx", "\nx"])
def test_wrong_lengths_are_refused(text: str) -> None:
    with pytest.raises(WireError):
        buffers.unpack_buffers(text)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_number_that_json_has_no_word_for_becomes_null(word: str) -> None:
    message = b'\x01{"message_type":"x","data":{"odd":%s,"even":2.5}}' % word.encode()
    assert envelope.unpack(message) == ("x", {"odd": None, "even": 2.5})


def read_alike(message: bytes) -> None:
    """What is read of a task as it is packed is what is read of it as JSON."""
    found = task._as_packed(message)
    if found is not None:
        assert found == task._as_json(message)


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('"\\\n\x00u'))


@given(TEXTS, st.uuids().map(str) | TEXTS)
def test_a_packed_task_is_read_as_any_json_would_be(buffer: str, task_id: str) -> None:
    message = pack_task(task_id, buffer)
    read_alike(message)
    read_alike(message[:-3] + buffer.encode() + message[-3:])  # perhaps no JSON any more


def test_a_packed_task_is_not_read_as_json() -> None:
    """An id in other letters, and what JSON writes for half of a surrogate pair, are rarer."""
    assert task._as_packed(pack_task(TASK_ID, 'a "text"\n')) == (TASK_ID, 'a "text"\n', None)
    assert task._as_packed(pack_task(TASK_ID.upper(), "x")) is None
    assert task._as_packed(pack_task(TASK_ID, "x").replace(b'"x"', b'"\\ud800"')) is None


def test_a_packed_task_with_any_damaged_byte_is_read_as_any_json_would_be() -> None:
    message = pack_task(TASK_ID, 'buffer "\n')
    for where in range(len(message)):
        for value in {0, 0x20, 0x22, 0x5C, 0x61, 0x7D, 0xC3, message[where] + 1} - {message[where]}:
            read_alike(message[:where] + bytes((value,)) + message[where + 1 :])


@given(
    TEXTS,
    TEXTS,
    JSON_VALUES,
    st.none() | st.tuples(TEXTS, TEXTS),
    st.none() | st.lists(st.builds(result.Transition, st.integers(), TEXTS, TEXTS), max_size=3),
)
def test_a_packed_result_is_what_any_json_would_be(
    task_id: str,
    data: str,
    details: Any,
    error: tuple[str, str] | None,
    transitions: list[result.Transition] | None,
) -> None:
    fields = {
        "task_id": task_id,
        "data": data,
        "details": details,
        "error_details": error and {"code": error[0], "user_message": error[1]},
        "task_statuses": None
        if transitions is None
        else [result.transition_data(one) for one in transitions],
    }
    try:
        wanted = envelope.pack("result", fields)
    except WireError:  # JSON has no word for some number
        with pytest.raises(WireError):
            pack_result(task_id, data, details=details, error=error, transitions=transitions)
        return
    packed = pack_result(task_id, data, details=details, error=error, transitions=transitions)
    assert packed == wanted
