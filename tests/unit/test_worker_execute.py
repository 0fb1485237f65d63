"""A task's bytes become a result's bytes, whatever the user's code does."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk import MPIFunction, ShellFunction
from globus_compute_sdk.serialize import ComputeSerializer

from cep.wire import envelope, result
from cep.wire.result import ResultMessage, pack_result, unpack_result
from cep.worker import environ
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
from tests.unit import engine_tasks as tasks
from tests.unit.task_payloads import as_source, dilled, message, value_of

TASK_ID = "5b0c2e2e-1111-4222-8333-000000000001"


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerContext:
    """A worker in a directory of its own; directory and environment are put back afterwards."""
    monkeypatch.chdir(tmp_path)
    for name in ("GC_TASK_UUID", "GC_TASK_SANDBOX_DIR"):
        monkeypatch.setenv(name, "")  # so that the old state is restored
        monkeypatch.delenv(name)
    return WorkerContext(
        endpoint_id="1f0e9a52-1111-4222-8333-000000000002",
        working_dir=str(tmp_path / "work"),
        run_in_sandbox=False,
        result_size_limit=50_000,
        allowed_serializers=None,
        oversized_dir=str(tmp_path / "oversized"),
    )


def run(context: WorkerContext, function: Callable[..., Any] | str, *args: Any) -> ResultMessage:
    """Run a task and open its result."""
    opened = unpack_result(execute(message(function, *args), TASK_ID, context))
    assert opened.task_id == TASK_ID
    return opened


def fail(context: WorkerContext, function: Callable[..., Any] | str, *args: Any) -> ResultMessage:
    """Run a task that must fail in the user's code."""
    opened = run(context, function, *args)
    assert opened.error_code == result.REMOTE_EXECUTION_ERROR
    assert opened.user_message == result.EXECUTION_ERROR_MESSAGE
    return opened


def nested():
    def deeper():
        raise KeyError("lost")

    try:
        deeper()
    except KeyError as exc:
        raise RuntimeError("outer") from exc


def hostile_text():
    class Bad(Exception):
        def __str__(self):
            raise SystemExit("from __str__")

    raise Bad


def huge_text():
    raise ValueError("x" * 3_000_000)


def surrogate_text():
    raise OSError(2, "no such file", "bad-\udcff-name")


def hostile_class():
    class Meta(type):
        @property
        def __name__(cls):
            raise KeyboardInterrupt

        @property
        def __qualname__(cls):
            raise KeyboardInterrupt

        @property
        def __module__(cls):
            raise KeyboardInterrupt

    class Bad(Exception, metaclass=Meta):
        pass

    raise Bad("x")


def circle():
    found = []
    found.append(found)
    for _ in range(100_000):
        found = [found]
    return found


def infinite():
    return infinite_again()


def infinite_again():
    raise RecursionError


def test_the_traceback_begins_with_the_users_frames(context: WorkerContext) -> None:
    text = fail(context, nested).data
    assert text.startswith("Traceback (most recent call last):\n")
    assert text.index("in deeper") < text.index("The above exception was the direct cause")
    assert "KeyError: 'lost'" in text
    assert text.rstrip().endswith("RuntimeError: outer")
    assert os.sep + "cep" + os.sep not in text


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        (hostile_text, "Bad"),
        (surrogate_text, "no such file"),
        (hostile_class, ""),
        (tasks.unpicklable, "SystemExit"),
        (circle, "RecursionError"),
        (tasks.raise_system_exit, "SystemExit: 3"),
        (tasks.raise_keyboard_interrupt, "KeyboardInterrupt"),
    ],
)
def test_hostile_objects_become_error_results(
    context: WorkerContext, function: Callable[..., Any], shown: str
) -> None:
    assert shown in fail(context, function).data
    assert not run(context, tasks.add, 1, 1).is_error


def test_an_endless_error_text_is_shortened(context: WorkerContext) -> None:
    text = fail(context, huge_text).data
    assert len(text) < 1_100_000
    assert "characters left out" in text


def test_an_exception_in_the_arguments_is_an_error_result(context: WorkerContext) -> None:
    class Fails:
        def __reduce__(self) -> Any:
            return (exec, ("raise SystemExit('while reading')",))

    assert "while reading" in fail(context, tasks.add, Fails(), 1).data


@pytest.mark.parametrize(
    "body",
    [b"", b"\x01{}", b"\x02", os.urandom(50), envelope.pack("task", {"task_id": TASK_ID})],
)
def test_a_body_that_is_no_task_is_an_error_result(context: WorkerContext, body: bytes) -> None:
    opened = unpack_result(execute(body, TASK_ID, context))
    assert opened.error_code == result.REMOTE_EXECUTION_ERROR


def test_a_message_of_another_type_has_a_code_of_its_own(context: WorkerContext) -> None:
    opened = unpack_result(execute(pack_result(TASK_ID, "x"), TASK_ID, context))
    assert opened.error_code == result.COULD_NOT_EXECUTE
    assert opened.data.startswith("CouldNotExecuteUserTaskError(")
    assert opened.user_message is not None
    assert opened.user_message.startswith("remote error: ")


@pytest.mark.parametrize("payload", ["00\n!", "00\n\xe9", "01\n", "zz\nx", ""])
def test_truncated_payloads_are_error_results(context: WorkerContext, payload: str) -> None:
    fail(context, payload, 1)


def test_the_surroundings_of_a_task(context: WorkerContext, tmp_path: Path) -> None:
    seen = value_of(execute(message(tasks.surroundings), TASK_ID, context))
    assert seen["uuid"] == seen["child"] == TASK_ID
    assert seen["sandbox"] is None
    assert seen["cwd"] == str(tmp_path / "work")


def test_a_sandbox_is_made_and_named(context: WorkerContext, tmp_path: Path) -> None:
    from dataclasses import replace

    boxed = replace(context, run_in_sandbox=True)
    seen = value_of(execute(message(tasks.surroundings), TASK_ID, boxed))
    assert seen["sandbox"] == seen["cwd"] == str(tmp_path / "work" / TASK_ID)
    assert value_of(execute(message(tasks.surroundings), TASK_ID, context))["sandbox"] is None


def test_a_thread_without_a_directory_of_its_own_enters_none(
    context: WorkerContext, tmp_path: Path
) -> None:
    environ.install()
    try:
        packed = execute(message(tasks.surroundings), TASK_ID, context, in_thread=True)
    finally:
        environ.uninstall()
    seen = value_of(packed)
    assert seen["cwd"] == str(tmp_path)
    assert (tmp_path / "work").is_dir()
    assert seen["uuid"] == seen["child"] == TASK_ID
    assert "GC_TASK_UUID" not in os.environ


def test_a_working_directory_that_cannot_be_made_is_an_error_result(
    context: WorkerContext, tmp_path: Path
) -> None:
    (tmp_path / "work").write_text("a file")
    assert "NotADirectoryError" in fail(context, tasks.add, 1, 1).data


def test_a_timeout_is_raised_and_does_not_hit_the_next_task(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GC_TASK_TIMEOUT", "0.2")
    text = fail(context, tasks.spin, 20).data  # else it would return when its time is over
    assert "parsl.app.errors.AppTimeout" in text
    for _ in range(20):
        assert not run(context, tasks.add, 1, 1).is_error


def test_a_timeout_that_is_no_number_is_an_error_result(
    context: WorkerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GC_TASK_TIMEOUT", "soon")
    assert "could not convert" in fail(context, tasks.add, 1, 1).data


def test_fault_15_a_result_above_the_limit_is_kept_for_its_owner(
    context: WorkerContext, tmp_path: Path
) -> None:
    value = b"z" * 60_000
    opened = run(context, tasks.make_bytes, 60_000)
    assert opened.error_code == result.MAX_RESULT_SIZE
    written = ComputeSerializer().serialize(value.replace(b"z", b"x"))
    assert opened.data.startswith(f"MaxResultSizeExceeded({len(written)}, 50000)")
    assert opened.user_message == (
        f"remote error: Task result of {len(written)}B exceeded current limit of 50000B"
    )
    kept = tmp_path / "oversized" / TASK_ID
    assert str(kept) in opened.data
    assert kept.read_text() == written
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    run(context, tasks.make_bytes, 60_000)  # a second attempt of the same task
    assert [path.name for path in kept.parent.iterdir()] == [TASK_ID]


def test_a_result_above_the_limit_that_cannot_be_kept_still_gets_its_error(
    context: WorkerContext, tmp_path: Path
) -> None:
    (tmp_path / "oversized").write_text("a file")
    opened = run(context, tasks.make_bytes, 60_000)
    assert opened.error_code == result.MAX_RESULT_SIZE
    assert "could not be kept" in opened.data


def test_shell_functions_run(context: WorkerContext) -> None:
    shell = dilled(ShellFunction("echo hello {name}; exit 3"), "01\n")
    packed = execute(message(shell, name="you"), TASK_ID, context)
    value = value_of(packed)
    assert (value.returncode, value.stdout) == (3, "hello you\n")


def test_mpi_functions_run(context: WorkerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARSL_MPI_PREFIX", "env PREFIXED=1")
    shell = dilled(MPIFunction("sh -c 'echo $PREFIXED'"), "01\n")
    assert value_of(execute(message(shell), TASK_ID, context)).stdout == "1\n"


def test_state_of_a_function_does_not_leak_into_the_next_task(context: WorkerContext) -> None:
    source = as_source(counting)
    assert [value_of(execute(message(source), TASK_ID, context)) for _ in range(3)] == [1, 1, 1]


def counting(seen=[]):  # noqa: B006
    seen.append(1)
    return len(seen)


def test_the_sdk_accepts_our_results(context: WorkerContext) -> None:
    from globus_compute_common import messagepack

    for function in (tasks.add, nested):
        theirs = messagepack.unpack(execute(message(function, 1, 2), TASK_ID, context))
        assert theirs.task_id == uuid.UUID(TASK_ID)
        assert theirs.is_error is (function is nested)
        assert len(theirs.task_statuses) == 2
    assert ComputeSerializer().deserialize(run(context, tasks.add, 1, 2).data) == 3


def test_details_name_the_sdk_without_loading_it(context: WorkerContext) -> None:
    import platform

    import dill
    import globus_compute_sdk

    assert run(context, tasks.add, 1, 2).details == {
        "os": platform.platform(),
        "dill_version": dill.__version__,
        "python_version": platform.python_version(),
        "globus_compute_sdk_version": globus_compute_sdk.__version__,
        "endpoint_id": context.endpoint_id,
    }
