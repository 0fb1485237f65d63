"""Faults 15 and 17 on a real agent: a result above the limit, a function that prints and prints."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cep.wire.result import MAX_RESULT_SIZE
from cep.worker import codec
from tests.integration.agent_rig import Bench, bench
from tests.integration.rabbitmq import RabbitMq

pytestmark = pytest.mark.docker
MIB = 1024 * 1024
PRINTED = 40 * MIB
ENGINES = {
    "processes": "engine: {type: ProcessPoolEngine, max_workers: 1}\n",
    "htex": "engine: {type: GlobusComputeEngine, max_workers_per_node: 1}\n",
}


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        yield made


def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    """Look again and again, with the pause of a file system's call."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline


def print_much(_executed: str, _label: str, size: int) -> int:
    import os

    for number in range(size // 65536):
        os.write(1 + number % 2, b"the same line again\n" * 3276 + b"x" * 16)
    return size


def many_bytes(_executed: str, _label: str, size: int) -> str:
    return "r" * size


def size_of(root: Path) -> int:
    size = 0
    for file in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a log that is just being turned over
            size += file.lstat().st_size if file.is_file() else 0
    return size


@pytest.mark.parametrize("engine", ENGINES)
def test_fault_17_a_function_that_prints_without_end_does_not_fill_the_disk(
    scene: Bench, engine: str
) -> None:
    log = "log: {max_bytes: 1048576, backups: 1}\nheartbeat_period: 5\n"
    scene.configure(ENGINES[engine] + log)
    agent = scene.start()
    scene.submit(print_much, ["loop"], PRINTED)
    (answer,) = scene.collect(1).answers.values()
    assert answer.error_code is None, f"{answer.data}\n{scene.log()}"
    # Two files of 1 MiB for the agent; two of 5 MiB for a node's workers.
    until(lambda: size_of(scene.root) <= 13 * MIB)
    assert scene.stop(agent) == 0


def test_fault_15_a_result_above_the_limit_is_kept_for_its_owner_and_for_its_time(
    scene: Bench,
) -> None:
    engine = "engine: {type: ProcessPoolEngine, max_workers: 1, result_size_limit: 5000}\n"
    scene.configure(engine)
    agent = scene.start()
    ids = scene.submit(many_bytes, ["fits"], 1000) + scene.submit(many_bytes, ["not"], 100_000)
    answers = scene.collect(2).answers
    assert answers[ids[0]].error_code is None
    assert answers[ids[1]].error_code == MAX_RESULT_SIZE
    assert "result_size_limit" in answers[ids[1]].data
    named = re.search(r"kept on the endpoint's host in (\S+)\.", answers[ids[1]].data)
    assert named is not None
    kept = Path(named[1])
    assert kept.stat().st_mode & 0o777 == 0o600
    assert codec.load(kept.read_text()) == "r" * 100_000
    assert scene.stop(agent) == 0

    scene.configure(engine + "retention: {oversized_results: {max_age: 0.001}}\n")
    agent = scene.start()
    until(lambda: "removed 1 old oversized results" in scene.log())
    assert not kept.exists()
    assert scene.stop(agent) == 0
