"""The small codec reads and writes what the SDK's serializer does, and leaves the rest to it."""

from __future__ import annotations

import base64
import codecs
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dill
import pytest
from globus_compute_sdk.serialize import (
    AllCodeStrategies,
    AllDataStrategies,
    CombinedCode,
    ComputeSerializer,
    DillCode,
    DillCodeSource,
    DillCodeTextInspect,
    PureSourceDill,
    PureSourceTextInspect,
)
from hypothesis import given
from hypothesis import strategies as st

from cep.wire import buffers
from cep.worker import codec
from tests.unit.engine_tasks import add
from tests.unit.task_payloads import dumped, message

CODE = [
    DillCode,
    DillCodeTextInspect,
    DillCodeSource,
    PureSourceTextInspect,
    PureSourceDill,
    AllCodeStrategies,
    CombinedCode,
]
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=20,
)


class Odd:
    """A value that only dill's way round can carry."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


@given(PLAIN)
def test_plain_values_are_written_as_the_sdk_writes_them(value: Any) -> None:
    written = dumped(value)
    assert written == ComputeSerializer().serialize(value)
    assert codec.load(written) == value


@pytest.mark.parametrize("value", [Odd(3), [Odd(1), {"x": Odd(2)}], (1, range(4)), {1 + 2j}])
def test_other_values_are_written_as_the_sdk_writes_them(value: Any) -> None:
    written = dumped(value)
    assert written == ComputeSerializer().serialize(value)
    assert codec.load(written) == value == ComputeSerializer().deserialize(written)


@pytest.mark.parametrize("value", [(), {}])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_arguments_are_fresh_ones_each_time(value: Any, protocol: int) -> None:
    packed = base64.encodebytes(pickle.dumps(value, protocol)).decode()
    first, second = (codec.load(buffers.DILL_DATA + packed) for _ in range(2))
    assert first == second == value
    assert type(first) is type(value)
    if isinstance(first, dict):
        first["mine"] = 1
        assert second == codec.load(buffers.DILL_DATA + packed) == {}


@pytest.mark.parametrize(
    "broken", ["A", "AAAAA", "gA==QpLg==", "gAQ!!pLg==\n", "é", "====", "", "gARLBS4"]
)
def test_a_broken_payload_is_judged_as_by_the_sdk(broken: str) -> None:
    def judged(read: Callable[[str], Any]) -> Any:
        try:
            return read(buffers.DILL_DATA + broken)
        except Exception as exc:
            return type(exc), str(exc)

    def sdk(buffer: str) -> Any:
        return dill.loads(codecs.decode(buffer[3:].encode(), "base64"))

    ours, theirs = judged(codec.load), judged(sdk)
    if theirs and "decoding with" in theirs[1]:  # what `codecs` adds
        assert ours[0] is theirs[0]
    else:
        assert ours == theirs


def test_without_the_fast_base64_everything_works_the_same() -> None:
    code = (
        "import sys; sys.modules['pybase64'] = None\n"
        "from cep.worker import codec\n"
        "value = bytes(range(256)) * 50\n"
        "written = str(codec.dump(value))\n"
        "assert codec.base64.__name__ == 'base64'\n"
        "assert codec.load(written) == value\n"
        "print(written, end='')"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == dumped(bytes(range(256)) * 50)


def test_a_returned_function_is_code() -> None:
    written = dumped(lambda number: number + 1)
    assert written.startswith(buffers.DILL_CODE)
    assert ComputeSerializer().deserialize(written)(1) == 2


@pytest.mark.parametrize("strategy", CODE)
def test_functions_of_every_strategy_are_read(strategy: type) -> None:
    buffer = ComputeSerializer(strategy_code=strategy).serialize(add)
    assert codec.load(buffer)(2, 3) == 5


def test_combined_data_is_read() -> None:
    serializer = ComputeSerializer(strategy_data=AllDataStrategies)
    assert codec.load(serializer.serialize({"a": [1]})) == {"a": [1]}


def test_legacy_pickled_code_is_read() -> None:
    buffer = buffers.PICKLE_CODE + base64.encodebytes(pickle.dumps(len)).decode()
    assert codec.load(buffer) is len


def test_an_unknown_identifier_gets_the_error_of_the_sdk() -> None:
    from globus_compute_sdk.errors import DeserializationError

    with pytest.raises(DeserializationError, match="Invalid header"):
        codec.load("zz\npayload")
    with pytest.raises(DeserializationError):
        codec.load(buffers.ALL_CODE + buffers.pack_buffers(["01\n!!", "zz\nx"]))


@pytest.mark.parametrize(
    ("allowed", "read", "refused"),
    [
        (
            ("globus_compute_sdk.*Code", "globus_compute_sdk.serialize.JSONData"),
            "11\n1",
            "00\nSwEu",
        ),
        (("globus_compute_sdk.serialize.DillCode", "globus_compute_sdk.*Data"), "11\n1", "st\nf:x"),
        (
            (
                "globus_compute_sdk.serialize.concretes.DillCode",
                "globus_compute_sdk.serialize.concretes.JSONData",
            ),
            "11\n1",
            "00\nSwEu",
        ),
    ],
)
def test_an_allow_list_lets_only_its_strategies_through(
    allowed: tuple[str, ...], read: str, refused: str
) -> None:
    from globus_compute_sdk.errors import DeserializationError

    assert codec.load(read, allowed) == 1
    with pytest.raises(DeserializationError, match="disabled by current"):
        codec.load(refused, allowed)


@pytest.mark.parametrize(
    "allowed",
    [
        ("globus_compute_sdk.serialize.JSONData",),
        ("no.such.Class", "globus_compute_sdk.*Code"),
        ("globus_compute_sdk.*Data", "globus_compute_sdk.serialize.JSONData"),
    ],
)
def test_an_allow_list_that_makes_no_sense_lets_nothing_through(allowed: tuple[str, ...]) -> None:
    from globus_compute_sdk.errors import SerdeError

    with pytest.raises(SerdeError):
        codec.load("11\n1", allowed)


def test_the_first_strategy_that_can_writes_the_result() -> None:
    names = [
        "globus_compute_sdk.serialize.DillCode",
        "globus_compute_sdk.serialize.JSONData",
        "globus_compute_sdk.serialize.DillDataBase64",
    ]
    assert dumped([1, 2], names) == "11\n[1, 2]"
    assert dumped({1, 2}, names).startswith(buffers.DILL_DATA)
    assert dumped([1], ["globus_compute_sdk.serialize.AllDataStrategies"]).startswith("13\n")


def test_a_result_nobody_can_write_is_an_error_with_its_cause() -> None:
    with pytest.raises(codec.SerializationError) as caught:
        dumped({1}, ["globus_compute_sdk.serialize.JSONData"])
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(codec.SerializationError):
        dumped(1, ["globus_compute_sdk.serialize.DillCode"])


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_task_has_three_buffers(count: int) -> None:
    with pytest.raises(ValueError, match="three"):
        codec.load_task(buffers.pack_buffers(["11\n1"] * count), None)


def test_large_values_keep_the_line_length_of_the_sdk() -> None:
    value = b"\xff" * 1_000_000
    assert dumped(value) == ComputeSerializer().serialize(value)


PLAIN_TASK = """
import sys
from cep.wire.result import unpack_result
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
body, place = bytes.fromhex(sys.argv[1]), sys.argv[2]
packed = execute(body, "5b0c2e2e-1111-4222-8333-000000000001",
                 WorkerContext("e", place, False, 10**6, None, place))
assert unpack_result(packed).data == "00\\ngARLAy4=\\n", packed
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_a_worker_that_ran_a_plain_task_has_loaded_nothing_of_the_sdk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_TASK, message(add, 1, 2).hex(), str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "dill" in loaded
    forbidden = {"globus_compute_sdk", "globus_sdk", "parsl", "pika", "click", "psutil", "requests"}
    assert not loaded & forbidden


@pytest.mark.parametrize("size", [1, 56, 57, 58, 29_183, 29_184, 29_185, 100_000])
def test_base64_is_cut_into_lines_as_the_sdk_cuts_it(size: int) -> None:
    data = bytes(range(251)) * (size // 251) + bytes(range(size % 251))
    assert codec._base64(data) == codecs.encode(data, "base64").decode("ascii")
    assert codec.load(dumped(data)) == data
