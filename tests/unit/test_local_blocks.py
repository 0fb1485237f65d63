"""Blocks of this host: when the end of one is told, nothing of it runs any more."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cep.engines.local_blocks import LocalBlocks
from tests.unit.engine_rig import wait_until

DEADLINE_S = 60.0


@pytest.fixture
def blocks(tmp_path: Path) -> Iterator[LocalBlocks]:
    made = LocalBlocks(mark={}, run_dir=tmp_path, workers_note=True)
    made.script_dir = str(tmp_path)
    yield made
    made.close()


def left_by(pid_file: Path) -> psutil.Process:
    """The process that wrote its number there."""
    wait_until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    return psutil.Process(int(pid_file.read_text()))


def is_over(process: psutil.Process) -> bool:
    """Whether it is gone, or only waits to be collected."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def test_what_a_script_leaves_is_ended_before_its_end_is_told(
    blocks: LocalBlocks, tmp_path: Path
) -> None:
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    blocks.ended = ended.put
    leaves = "(trap '' TERM; echo $BASHPID > left; exec sleep 600) &"
    job = blocks.submit(f"{leaves} until [ -s left ]; do sleep 0.01; done; exit 3", 1)
    assert ended.get(timeout=DEADLINE_S) == job
    with contextlib.suppress(psutil.NoSuchProcess):
        assert is_over(psutil.Process(int((tmp_path / "left").read_text())))
    (status,) = blocks.status([job])
    assert status.exit_code == 3


def test_the_workers_of_a_running_script_are_ended_and_the_script_goes_on(
    blocks: LocalBlocks, tmp_path: Path
) -> None:
    blocks.worker_init = "(echo $BASHPID > worker; exec sleep 600)\ntouch after\nsleep 600"
    job = blocks.submit("true", 1)
    worker = left_by(tmp_path / "worker")
    blocks.end_workers(job)
    assert is_over(worker)
    wait_until((tmp_path / "after").exists)


def test_a_cancelled_block_has_time_to_end_by_itself(blocks: LocalBlocks, tmp_path: Path) -> None:
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    blocks.ended = ended.put
    ends = "trap 'sleep 0.5; touch cleaned; exit' TERM; touch ready; while :; do sleep 0.01; done"
    job = blocks.submit(f"({ends}) & wait", 1)
    wait_until((tmp_path / "ready").exists)
    blocks.cancel([job])
    assert ended.get(timeout=DEADLINE_S) == job
    assert (tmp_path / "cleaned").exists()


def test_what_cleans_up_after_a_container_is_left_alone(tmp_path: Path) -> None:
    blocks = LocalBlocks(mark={}, run_dir=tmp_path)
    blocks.script_dir = str(tmp_path)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    blocks.ended = ended.put
    job = blocks.submit("(touch ready; sleep 0.5; touch cleaned) & exit 0", 1)
    assert ended.get(timeout=DEADLINE_S) == job
    wait_until((tmp_path / "cleaned").exists)
    blocks.close()


def test_workers_of_a_script_that_is_over_are_no_matter(blocks: LocalBlocks) -> None:
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    blocks.ended = ended.put
    job = blocks.submit("exit 0", 1)
    assert ended.get(timeout=DEADLINE_S) == job
    blocks.end_workers(job)
    blocks.forget(job)
    blocks.end_workers(job)
