"""What we write is, byte for byte, what the official packages write."""

from __future__ import annotations

import json

import pytest

from cep.wire import buffers
from cep.wire.result import Transition, pack_result, unpack_result
from cep.wire.status import pack_status_report, unpack_status_report
from cep.wire.task import pack_task, unpack_task
from cep.worker import codec
from tests.unit.golden import make
from tests.unit.task_payloads import dumped

VECTORS = json.loads(make.FILE.read_text(encoding="ascii"))
WIRE = {name: [bytes.fromhex(one) for one in some] for name, some in VECTORS["wire"].items()}
TRANSITIONS = tuple(Transition(*one) for one in make.TRANSITIONS)
DETAILS = {"os": "Linux ÄÖ", "dill_version": "0.3.9", "endpoint_id": make.ENDPOINT_ID}


def test_the_committed_vectors_are_what_the_official_packages_make_today() -> None:
    assert make.vectors() == VECTORS


@pytest.mark.parametrize("number", range(len(make.TEXTS)))
def test_messages_equal_the_official_ones(number: int) -> None:
    text = make.TEXTS[number]
    state = {"total_mem": 23.5, "active": True, "text": text, "nothing": None}
    assert pack_task(make.TASK_ID, text) == WIRE["task"][number]
    assert pack_result(make.TASK_ID, text, transitions=None) == WIRE["result"][number]
    assert (
        pack_result(make.TASK_ID, text, details=DETAILS, transitions=TRANSITIONS)
        == WIRE["result_full"][number]
    )
    assert (
        pack_result(make.TASK_ID, text, details=DETAILS, error=("RemoteExecutionError", text))
        == WIRE["result_error"][number]
    )
    assert (
        pack_status_report(make.ENDPOINT_ID, state, {make.TASK_ID: TRANSITIONS})
        == WIRE["status"][number]
    )


@pytest.mark.parametrize("number", range(len(make.TEXTS)))
def test_official_messages_are_understood(number: int) -> None:
    text = make.TEXTS[number]
    assert unpack_task(WIRE["task"][number]).task_buffer == text
    plain = unpack_result(WIRE["result"][number])
    assert (plain.data, plain.details, plain.is_error, plain.transitions) == (text, None, False, ())
    full = unpack_result(WIRE["result_full"][number])
    assert (full.details, full.transitions) == (DETAILS, TRANSITIONS)
    error = unpack_result(WIRE["result_error"][number])
    assert (error.error_code, error.user_message) == ("RemoteExecutionError", text)
    report = unpack_status_report(WIRE["status"][number])
    assert report.global_state["text"] == text
    assert report.task_statuses == {make.TASK_ID: TRANSITIONS}


def test_results_are_serialized_as_the_sdk_does() -> None:
    assert [dumped(value) for value in make.VALUES] == VECTORS["serialized"]["dill"]
    as_json = ("globus_compute_sdk.serialize.concretes.JSONData",)
    assert [dumped(value, as_json) for value in make.VALUES if make._is_json(value)] == VECTORS[
        "serialized"
    ]["json"]


def test_values_of_the_sdk_are_read_back() -> None:
    assert [codec.load(one) for one in VECTORS["serialized"]["dill"]] == make.VALUES


def test_buffers_are_packed_as_the_sdk_does() -> None:
    first, second = VECTORS["serialized"]["packed"]
    assert buffers.pack_buffers(make.TEXTS) == first
    assert buffers.unpack_buffers(first) == make.TEXTS
    assert [codec.load(one) for one in buffers.unpack_buffers(second)] == [(1,), {"b": 41}]
    assert buffers.unpack_buffers(first + second) == make.TEXTS + buffers.unpack_buffers(second)
