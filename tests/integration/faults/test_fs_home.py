"""A shared home that hangs, turns read-only, fails or goes stale under a running agent.

The endpoint's directory (configuration, lease, log) lies on a file system that can be broken; the
journal lies on a local disk as `state_dir` says, or in the same home in the tests that say so.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from cep.agent import lease
from cep.agent.control import socket_path
from cep.agent.disk import check_disk
from cep.errors import DiskUnfit
from cep.paths import EndpointPaths
from tests.integration.agent_rig import Account, Bench, bench, note
from tests.integration.faults.broken_fs import BrokenFs, need, why_not
from tests.integration.faults.fs_rig import LONG, THREADS, enter_account
from tests.integration.rabbitmq import RabbitMq

HEARTBEAT_S = 5
HANG_S = 60.0 if LONG else 0.5  # at least, and until a renewal of the lease falls into it


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    need(why_not())
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        yield made


@pytest.fixture
def home(scene: Bench, tmp_path: Path) -> Iterator[BrokenFs]:
    with BrokenFs(tmp_path / "home", scene.root) as made:
        scene.configure(apart(tmp_path))
        yield made


def apart(directory: Path) -> str:
    """A configuration that needs the home for configuration, lease and log only."""
    return (
        f"engine: {{type: ThreadPoolEngine, max_workers: 2, working_dir: {directory / 'work'}}}\n"
        f"heartbeat_period: {HEARTBEAT_S}\nstate_dir: {directory / 'state'}\n"
    )


def ask_past_the_home(scene: Bench) -> dict[str, Any]:
    """The agent's picture, without a look into its directory."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(str(socket_path(EndpointPaths.of(scene.root))))
        client.sendall(b'{"do": "status"}\n')
        with client.makefile() as answer:
            picture: dict[str, Any] = json.loads(answer.readline())
    return picture


def wait_for_renewal(scene: Bench, after: datetime) -> None:
    """Wait until the lease says that it was renewed after this moment."""
    deadline = time.monotonic() + 60
    while True:
        found = lease.read(EndpointPaths.of(scene.root))
        if found is not None and found.renewed > after:
            return
        assert time.monotonic() < deadline, scene.log()


def test_a_home_that_hangs_stops_no_task_when_the_journal_is_on_a_local_disk(
    scene: Bench, home: BrokenFs
) -> None:
    agent = scene.start()
    began = time.monotonic()
    home.hang()
    account = Account(scene.labels)
    submitted = 0
    touched = False
    while not touched or time.monotonic() - began < HANG_S:  # until somebody waits for the home
        touched = home.seen()["waiting"] > 0
        scene.submit(note, [f"{submitted + n}" for n in range(20)])
        submitted += 20
        scene.collect(submitted, onto=account)
        assert len(account.answers) == submitted, "a task waits for the home"
    assert ask_past_the_home(scene)["links"] == {"tasks": True, "results": True}
    home.heal()
    wait_for_renewal(scene, datetime.now(timezone.utc))
    enter_account("home hangs, journal local", account, submitted)
    assert account.errors == []
    assert scene.stop(agent) == 0
    assert "answers again" in scene.log()
    assert "is down" not in scene.log()


def test_a_home_that_hangs_with_the_journal_in_it_delays_tasks_and_loses_none(
    scene: Bench, home: BrokenFs
) -> None:
    scene.configure(THREADS)
    agent = scene.start()
    scene.submit(note, ["before"])
    account = scene.collect(1)
    home.hang()
    scene.submit(note, [f"task-{n}" for n in range(50)])
    scene.collect(51, within_s=max(HANG_S, 2.0), onto=account)
    assert len(account.answers) == 1
    home.heal()
    began = time.monotonic()
    scene.collect(2, onto=account)
    recovered = time.monotonic() - began
    scene.collect(51, onto=account)
    enter_account("home hangs, journal in it", account, 51, recovery_s=recovered)
    assert account.errors == []
    assert scene.stop(agent) == 0
    assert "is down" not in scene.log()


def test_a_home_that_fails_stops_no_task_and_costs_no_lease(scene: Bench, home: BrokenFs) -> None:
    agent = scene.start()
    for code in ("EROFS", "ESTALE", "EDQUOT") if LONG else ("ESTALE",):
        home.fail(code, "everything" if code == "ESTALE" else "changes")
        since = home.seen()["failures"]
        scene.submit(note, [f"{code}-{n}" for n in range(20)])
        account = scene.collect(20)
        while home.seen()["failures"] == since:  # until the heartbeat has met the trouble
            ask_past_the_home(scene)
        assert agent.poll() is None
        home.forget_open_files()  # the lease and the log have to be opened anew, too
        home.heal()
        wait_for_renewal(scene, datetime.now(timezone.utc))
        enter_account(f"home: {code}, then stale handles", account, 20)
        assert account.errors == []
    assert scene.stop(agent) == 0
    log = scene.log()
    assert re.search(r"\d+ lines are missing here", log)


@pytest.mark.parametrize(
    ("locks", "words"),
    [("refused", "refuses locks"), ("granted", "grants the same lock twice")][: 2 if LONG else 1],
)
def test_a_home_without_working_locks_is_refused_at_start_with_the_way_out(
    scene: Bench, tmp_path: Path, locks: str, words: str
) -> None:
    with BrokenFs(tmp_path / "home", scene.root, locks=locks):
        scene.configure(THREADS)
        agent = scene.start(crash="none:1")
        assert agent.wait(60) == 73
        (word,) = [word for word in scene.words if "error" in word]
        assert words in word["error"]
        assert "state_dir: " in word["hint"]
        # The way out works: nothing but the journal needs locks.
        scene.configure(f"{THREADS}state_dir: {tmp_path / 'state'}\n")
        agent = scene.start()
        scene.submit(note, ["one"])
        assert len(scene.collect(1).answers) == 1
        assert scene.stop(agent) == 0


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE"])
def test_a_directory_that_cannot_be_written_is_refused_at_start(tmp_path: Path, code: str) -> None:
    need(why_not())
    with BrokenFs(tmp_path / "below", tmp_path / "state") as disk:
        paths = EndpointPaths.of(tmp_path / "ep", state_dir=str(tmp_path / "state"))
        disk.fail(code)
        with pytest.raises(DiskUnfit, match=r"cannot be (written|made or read)") as refused:
            check_disk(paths)
        assert "state_dir: " in str(refused.value)
        disk.heal()
        check_disk(paths)
