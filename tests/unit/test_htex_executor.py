"""What comes from workers is read without running anything, and commands are quoted."""

from __future__ import annotations

import pickle
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from parsl.app.errors import RemoteExceptionWrapper
from parsl.providers import LocalProvider
from parsl.serialize import serialize

from cep.engines import ahead
from cep.engines.containers import Container
from cep.engines.htex_executor import Executor, plain_loads, read_message


class Hostile:
    """Runs code in whoever unpickles it."""

    sprung: ClassVar[list[str]] = []

    def __reduce__(self) -> Any:
        return (Hostile.sprung.append, ("unpickled",))


class HostileError(Exception):
    """An exception that does the same, as its argument does."""

    def __reduce__(self) -> Any:
        return (Hostile.sprung.append, ("unpickled",))


@pytest.fixture(autouse=True)
def _trap() -> Any:
    Hostile.sprung.clear()
    yield
    assert not Hostile.sprung, "a user's payload was unpickled in the agent"


def wrapped(error: BaseException) -> bytes:
    return serialize(RemoteExceptionWrapper(type(error), error, None))


def test_bytes_of_a_worker_are_read() -> None:
    message = pickle.dumps({"type": "result", "task_id": 7, "result": serialize(b"frame")})
    received = read_message(message)
    assert (received.kind, received.task, received.frame) == ("done", 7, b"frame")


@pytest.mark.parametrize("value", [Hostile(), [Hostile()], {"a": Hostile()}, HostileError("x")])
def test_a_hostile_value_in_place_of_bytes_is_not_opened(value: object) -> None:
    body = b"02\n" + pickle.dumps(value)
    received = read_message(pickle.dumps({"type": "result", "task_id": 7, "result": body}))
    assert received.kind == "broken"
    assert received.task == 7


@pytest.mark.parametrize("error", [HostileError("x"), ValueError(Hostile()), ImportError("cep")])
def test_an_exception_of_a_worker_is_not_opened(error: Exception) -> None:
    message = pickle.dumps({"type": "result", "task_id": 7, "exception": wrapped(error)})
    received = read_message(message)
    assert received.kind == "broken"
    assert "could not begin" in received.reason


def test_a_hostile_message_is_refused_as_a_whole() -> None:
    with pytest.raises(pickle.UnpicklingError):
        read_message(pickle.dumps({"type": "result", "task_id": Hostile(), "result": b""}))


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"garbage", pickle.dumps(Hostile), b"cos\nsystem\n"]
)
def test_what_is_no_plain_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(pickle.UnpicklingError):
        plain_loads(data)


def test_a_text_as_answer_is_broken() -> None:
    message = {"type": "result", "task_id": 1, "result": serialize("text")}
    assert read_message(pickle.dumps(message)).kind == "broken"


def test_the_lost_worker_message_keeps_its_reason() -> None:
    message = {"type": "result", "task_id": 3, "cep_lost": "The worker died."}
    received = read_message(pickle.dumps(message))
    assert (received.kind, received.reason) == ("lost", "The worker died.")


def test_a_task_that_a_manager_hands_back_is_known() -> None:
    received = read_message(ahead.handed_back({"task_id": 4}))
    assert (received.kind, received.task) == ("back", 4)


class _NoProcess:
    life = -1

    def end(self, timeout_s: float) -> None:
        del timeout_s


def executor(
    tmp_path: Path, container: Container | None = None, local: bool = True, **arguments: Any
) -> Executor:
    made = Executor(
        process=_NoProcess(),  # type: ignore[arg-type]
        local=local,
        container=container,
        run_dir=tmp_path,
        label="engine",
        provider=LocalProvider(),
        address="127.0.0.1",
        **arguments,
    )
    made.cert_dir = f"{tmp_path}/certificates"
    made.logconf_path = None
    made.launch_cmd = made._compose_launch_command()
    made.initialize_scaling()
    return made


@pytest.mark.parametrize(
    "directory", ["plain", "with a space", "with'quote", "with{brace}", "$HOME"]
)
def test_paths_reach_the_pool_as_they_are(tmp_path: Path, directory: str) -> None:
    made = executor(tmp_path / directory)
    words = shlex.split(made._get_launch_command("12"))
    assert words[:3] == [sys.executable, "-m", "cep.engines.pool_main"]
    assert words[words.index("--cert_dir") + 1] == f"{tmp_path / directory}/certificates"
    assert f"--logdir={tmp_path / directory}/engine" in words
    assert "--block_id=12" in words
    made.end(1.0)


def test_arguments_reach_the_pools_command(tmp_path: Path) -> None:
    made = executor(
        tmp_path,
        max_workers_per_node=3,
        cores_per_worker=0.5,
        mem_per_worker=2.0,
        cpu_affinity="block",
        available_accelerators=2,
        drain_period=600,
        prefetch_capacity=4,
        address_probe_timeout=9,
    )
    words = made._get_launch_command("0")
    for part in (
        "--max_workers_per_node=3",
        "-c 0.5",
        "-m 2.0",
        "--cpu-affinity block",
        "--available-accelerators 0 1",
        "--drain_period=600",
        "-p 4",
        "--address_probe_timeout=9",
    ):
        assert part in words
    made.end(1.0)


def test_a_custom_launch_command_is_kept(tmp_path: Path) -> None:
    made = executor(tmp_path, launch_cmd="wrapper {debug} --block_id={{block_id}}")
    assert made._get_launch_command("5") == "wrapper  --block_id=5"
    made.end(1.0)


@pytest.mark.parametrize(
    ("what", "there"),
    [
        ({}, True),
        ({"launch_cmd": "process_worker_pool.py -a {addresses}"}, True),
        ({"launch_cmd": "wrapper -a {addresses}"}, False),
        ({"local": False}, False),
        ({"container": Container("docker", "image", "")}, False),
    ],
)
def test_there_is_a_door_for_the_endpoints_own_pool_on_this_host_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Mapping[str, Any], there: bool
) -> None:
    short = Path(tempfile.mkdtemp(dir="/tmp"))  # its name has no brackets
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    made = executor(tmp_path, **what)
    try:
        made._link.open()
        assert (made._link.door is not None) == there
    finally:
        made.end(1.0)
        shutil.rmtree(short)


def test_a_container_wraps_the_whole_command(tmp_path: Path) -> None:
    made = executor(
        tmp_path, Container("apptainer", "/images/x.sif", "--nv {literal}"), interpreter="python3"
    )
    command = made._get_launch_command("5")
    line = f"apptainer run --nv {{literal}} --bind {tmp_path} /images/x.sif python3 -m"
    script = f"/bin/sh {tmp_path}/container.sh - 5 /images/x.sif "
    assert command.startswith(script + line), "an image has its own Python"
    made.end(1.0)


def test_a_script_ends_the_container_with_the_block(tmp_path: Path) -> None:
    made = executor(
        tmp_path, Container("docker", "img", ""), endpoint_id="ID", interpreter="python3"
    )
    command = made._get_launch_command("5")
    line = f"docker run -v {tmp_path}:{tmp_path} -t img python3 -m cep.engines.pool_main"
    assert command.startswith(f"/bin/sh {tmp_path}/container.sh ID 5 img {line}")
    made.end(1.0)


@pytest.mark.parametrize(
    ("specification", "part"),
    [
        ({"num_nodes": 2}, "num_nodes"),
        ({"priority": True}, "must be a number"),
        ({"priority": "1"}, "must be a number"),
        ([1], "must be a mapping"),
    ],
)
def test_a_resource_specification_that_cannot_be_met_is_refused_by_name(
    tmp_path: Path, specification: Any, part: str
) -> None:
    made = executor(tmp_path)
    refusal = made.refusal(specification)
    assert refusal is not None
    assert part in refusal
    assert made.refusal({"priority": 1.5}) is None
    made.end(1.0)
