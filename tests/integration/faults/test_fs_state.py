"""A state directory that fails while the agent works: quota, full, read-only, broken, stale.

The file system is a real mount that answers with the error from one moment on. Each run: one task
is running, the disk fails, more tasks come and wait at the broker, the running one ends, the disk
is well again, and everything is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cep.agent.intake import HOLD_DISK
from tests.integration.agent_rig import Account, Bench, bench, note
from tests.integration.faults.broken_fs import BrokenFs, need, why_not
from tests.integration.faults.fs_rig import (
    THREADS,
    enter_account,
    gated,
    wait_for_trace,
    wait_until,
)
from tests.integration.rabbitmq import RabbitMq
from tests.integration.scene import until

WORDS = {
    "EDQUOT": "quota",
    "ENOSPC": "No space left",
    "EROFS": "Read-only file system",
    "EIO": "Input/output error",
    "ESTALE": "Stale file handle",
}


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        made.configure(f"{THREADS}state_dir: {tmp_path / 'state'}\n")
        yield made


@pytest.fixture
def disk(tmp_path: Path, scene: Bench) -> Iterator[BrokenFs]:
    del scene
    need(why_not())
    with BrokenFs(tmp_path / "below", tmp_path / "state") as made:
        yield made


def trouble(scene: Bench, disk: BrokenFs, name: str, break_it: Callable[[], object]) -> Account:
    """One run; returns the account of its tasks."""
    gate = scene.directory / f"gate-{name}"
    scene.submit(gated, [f"{name}-running"], str(gate))
    wait_for_trace(scene, f"{name}-running")
    break_it()
    scene.submit(note, [f"{name}-{n}" for n in range(20)])
    seen = wait_until(scene, lambda seen: HOLD_DISK in seen["holds"])
    assert seen["disk"] and "no new tasks" in seen["summary"]
    gate.touch()  # its result has to wait for the disk, in memory
    wait_until(scene, lambda seen: seen["tasks"]["running"] == 0)
    until(
        lambda: scene.queued() == 20,
        within_s=60,
        what="tasks that cannot be written are back at the broker",
    )
    disk.heal()
    began = time.monotonic()
    account = scene.collect(1, onto=Account(scene.labels))
    recovered = time.monotonic() - began
    scene.collect(21, onto=account)
    wait_until(scene, lambda seen: seen["disk"] is None)
    enter_account(f"state directory: {name}", account, 21, recovery_s=recovered)
    assert account.errors == []
    return account


def test_a_state_directory_that_fails_stops_intake_and_is_used_again_by_itself(
    scene: Bench, disk: BrokenFs
) -> None:
    agent = scene.start()
    for code, words in WORDS.items():
        told = len(scene.log())
        trouble(scene, disk, code, lambda code=code: disk.fail(code))  # type: ignore[misc]
        complaints = [line for line in scene.log()[told:].splitlines() if " ERROR " in line]
        assert len(complaints) == 1, complaints
        assert words in complaints[0]

    def forget_and_fail() -> None:
        disk.forget_open_files()
        disk.fail("ESTALE")  # until `heal`, so that it is not opened anew before all have looked

    trouble(scene, disk, "open-files-stale-for-ever", forget_and_fail)
    assert scene.stop(agent) == 0
