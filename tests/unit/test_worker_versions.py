"""Functions of another Python, and versions that do not fit: named before or in the failure."""

from __future__ import annotations

import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.engines import htex_report
from cep.engines.htex_report import Manager
from cep.wire.result import unpack_result
from cep.worker import versions
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
from tests.unit.task_payloads import as_source, dilled, message

# Bytecode of `def double(n): return 2*n`, a generator and a closure, by CPython 3.11.7 and 3.13.5.
RECORDED = {
    (3, 11): (
        "970064017c007a0500005300",
        "4b00010097007c0056009701010064005300",
        "8700970088006601640184087d017c015300",
    ),
    (3, 13): (
        "9500530155002d0500002400",
        "2300200095005500760095052000670037036601",
        "5e0095005500340153011a006a086e0155012400",
    ),
}
CONTEXT_END = (("Python", "3.99.1"), ("dill", "0.0.1"))


def double(n):  # type: ignore[no-untyped-def]
    return 2 * n


def with_code(hexadecimal: str) -> types.FunctionType:
    code = double.__code__.replace(co_code=bytes.fromhex(hexadecimal))
    return types.FunctionType(code, {}, "double")


def standard_library() -> Iterator[types.CodeType]:
    """Some hundred modules, compiled by this Python."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield compile(path.read_bytes(), str(path), "exec")


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what a task changes: the directory and the variables of the worker's process."""
    monkeypatch.chdir(Path.cwd())
    for name in ("GC_TASK_UUID", "GC_TASK_SANDBOX_DIR"):
        monkeypatch.setenv(name, "")  # so that the old state is restored
        monkeypatch.delenv(name)


def test_no_function_of_this_python_is_foreign() -> None:
    found = [code.co_filename for code in standard_library() if versions.is_foreign(code)]
    assert found == []


@pytest.mark.parametrize("recorded", list(RECORDED))
def test_recorded_bytecode_is_foreign_elsewhere(recorded: tuple[int, int]) -> None:
    if sys.version_info[:2] == (3, 12) and recorded == (3, 11):
        return  # 3.11 and 3.12 number RESUME alike: it is not told, as the module says
    foreign = recorded != sys.version_info[:2]
    for text in RECORDED[recorded]:
        assert versions.is_foreign(with_code(text).__code__) is foreign


def test_a_foreign_function_within_another_is_found() -> None:
    other = next(name for name in RECORDED if name != sys.version_info[:2])
    inner = with_code(RECORDED[other][0]).__code__
    outer = double.__code__.replace(co_consts=(None, 2, inner))
    assert versions.is_foreign(outer)


def test_a_foreign_function_is_refused_by_name(tmp_path: Path) -> None:
    other = next(name for name in RECORDED if name != sys.version_info[:2])
    text = failure(tmp_path, message(dilled(with_code(RECORDED[other][0])), 1))
    assert "ForeignFunction: The function double was made by another version of Python" in text
    assert f"Python {sys.version.split()[0]}" in text


def failure(tmp_path: Path, body: bytes) -> str:
    context = WorkerContext("e", str(tmp_path), False, 50_000, None, str(tmp_path), CONTEXT_END)
    opened = unpack_result(execute(body, "5b0c2e2e-1111-4222-8333-000000000001", context))
    assert opened.error_code
    return str(opened.data)


def test_a_task_that_cannot_be_unpacked_names_the_versions(tmp_path: Path) -> None:
    body = message(dilled(double).replace("gAS", "gAT"), 1)
    text = failure(tmp_path, body)
    assert f"The worker that could not unpack the task has Python {sys.version.split()[0]}" in text
    assert "The endpoint has Python 3.99.1, dill 0.0.1: they differ in Python, dill." in text
    assert "A task does not tell the versions of its client" in text


def test_a_failure_of_the_function_itself_says_nothing_of_versions(tmp_path: Path) -> None:
    def fails():  # type: ignore[no-untyped-def]
        raise ValueError("mine")

    text = failure(tmp_path, message(as_source(fails)))
    assert "mine" in text
    assert "could not unpack" not in text


def test_the_minor_version_of_python_counts_and_every_other_as_it_is() -> None:
    here = (("Python", "3.11.7"), ("dill", "0.3.9"), ("parsl", "1"))
    assert versions.differences(here, (("Python", "3.11.2"), ("dill", "0.3.9"))) == []
    assert versions.differences(here, (("Python", "3.12.7"), ("dill", "0.4"))) == ["Python", "dill"]


def test_a_lost_task_names_the_versions_of_workers_that_are_unlike_the_endpoint() -> None:
    facts = {
        "python_version": "3.13.5",
        "parsl_version": "2",
        "endpoint_version": None,
        "dill_version": "0.3.9",
    }
    own = (("Python", "3.11.7"), ("dill", "0.3.9"), ("parsl", "1"), ("cep-endpoint", "0.1.0"))
    managers = [Manager("0", 1, facts), Manager("1", 1, facts)]
    assert htex_report.unlike(managers, own) == (
        " Not as at the endpoint: Python 3.13.5 (endpoint 3.11.7), parsl 2 (endpoint 1)."
    )
    assert htex_report.unlike([Manager("0", 1, {"python_version": "3.11.9"})], own) == ""
