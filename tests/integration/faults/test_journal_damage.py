"""A journal that is corrupt, cut, foreign or newer; a cut write-ahead log; bodies that are gone.

What can be told to be damaged is refused with 65 and left as it is, byte for byte. What cannot be
told (a write-ahead log that ends early looks like a power cut) costs at most what stood in the
missing part, and runs nothing twice. A body that is gone costs its own task an error answer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cep.journal.cache import CACHE_BYTES
from cep.paths import EndpointPaths
from tests.integration.agent_rig import Account, Bench, bench, note
from tests.integration.faults.fs_rig import (
    THREADS,
    enter_account,
    gated,
    long_only,
    status,
    wait_for_trace,
    wait_until,
)
from tests.integration.rabbitmq import RabbitMq

LARGE = 100_000  # bytes; a body in a file of its own


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        made.configure(THREADS)
        yield made


def kill_with_a_full_journal(scene: Bench, filling: bytes = b"") -> None:
    """Leave a journal as kill -9 does, with 2 tasks begun and 40 waiting."""
    agent = scene.start()
    scene.submit(gated, ["gate-1", "gate-2"], str(scene.directory / "gate"))
    for label in ("gate-1", "gate-2"):
        wait_for_trace(scene, label)
    scene.submit(note, [f"task-{n}" for n in range(40)], filling)
    wait_until(scene, lambda seen: seen["tasks"]["received"] == 42)
    status(scene)  # a second answer comes in a later turn: the first one's is committed
    scene.kill(agent)
    (scene.directory / "gate").touch()  # the shells that outlive it end


def sums(directory: Path) -> dict[str, str]:
    """What the journal's files hold; an empty one beside them, as SQLite makes, holds nothing."""
    files = [*directory.glob("journal.db*"), *directory.glob("journal-bodies/*")]
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.stat().st_size
    }


def corrupt(db: Path) -> None:
    with db.open("r+b") as file:  # the pages after the first: the tables' roots
        file.seek(4096)
        file.write(os.urandom(4096 * 6))


def cut(db: Path) -> None:
    db.with_name("journal.db-wal").unlink()
    os.truncate(db, 4096 * 3)


def foreign(db: Path) -> None:
    for file in db.parent.glob("journal.db*"):
        file.unlink()
    connection = sqlite3.connect(db)
    connection.execute("CREATE TABLE addresses (name)")
    connection.close()


def text(db: Path) -> None:
    for file in db.parent.glob("journal.db*"):
        file.unlink()
    db.write_text("dear diary\n" * 100)


def newer(db: Path) -> None:
    with db.open("r+b") as file:
        file.seek(60)
        file.write((99).to_bytes(4, "big"))


DAMAGES: dict[Callable[[Path], None], str] = {
    corrupt: "corrupt",
    cut: "corrupt",
    foreign: "belongs to another program",
    text: "is not a journal of cep",
    newer: "schema version 99",
}


def test_a_damaged_journal_is_refused_and_left_byte_for_byte(scene: Bench, tmp_path: Path) -> None:
    paths = EndpointPaths.of(scene.root)
    kill_with_a_full_journal(scene)
    sound = tmp_path / "sound"
    shutil.copytree(scene.root, sound)
    for damage, words in DAMAGES.items():
        damage(paths.journal)
        before = sums(paths.state)
        agent = scene.start(crash="none:1")
        assert agent.wait(60) == 65
        (word,) = [word for word in scene.words if "error" in word]
        assert words in word["error"]
        assert str(paths.journal) in word["error"]
        assert sums(paths.state) == before, damage
        if damage is newer:
            assert "start the endpoint with that one" in word["error"]
        else:
            assert "set this one aside: mkdir" in word["hint"]
            assert "not answered" in word["hint"]
        for file in paths.state.glob("journal.db*"):
            file.unlink()
        for file in sound.glob("journal.db*"):
            shutil.copy(file, paths.state)
    agent = scene.start()
    account = scene.collect(42)
    enter_account("damaged journal refused, then restored", account, 42, bound=4)
    assert scene.stop(agent) == 0


@long_only
def test_the_way_out_of_a_damaged_journal_works(scene: Bench) -> None:
    paths = EndpointPaths.of(scene.root)
    kill_with_a_full_journal(scene, b"x" * LARGE)
    corrupt(paths.journal)
    agent = scene.start(crash="none:1")
    assert agent.wait(60) == 65
    (word,) = [word for word in scene.words if "error" in word]
    command = word["hint"].splitlines()[0].partition("aside: ")[2]
    assert os.system(command) == 0
    agent = scene.start()
    scene.submit(note, ["later"])
    assert len(scene.collect(1).answers) == 1
    assert scene.stop(agent) == 0


def test_a_write_ahead_log_that_was_cut_runs_nothing_twice(scene: Bench) -> None:
    paths = EndpointPaths.of(scene.root)
    kill_with_a_full_journal(scene)
    log = paths.journal.with_name("journal.db-wal")
    os.truncate(log, log.stat().st_size * 2 // 3)
    agent = scene.start()
    (later,) = scene.submit(note, ["later"])
    account = Account(scene.labels)
    while later not in account.answers:
        answered = len(account.answers)
        scene.collect(answered + 1, onto=account)
        assert len(account.answers) > answered, scene.log()
    wait_until(scene, lambda seen: not busy(seen))
    scene.collect_rest(account)
    labels = {account.labels[id_] for id_ in account.answers}
    # What was cut is lost, and nobody can tell it from what never reached the disk; what is left
    # is answered once. No row in the table: this is the owner's disk, not a run of ours.
    assert "later" in labels
    assert labels >= {"gate-1", "gate-2"}
    assert account.run_twice == []
    assert set(account.errors) <= {"ENDPOINT_RESTARTED"}
    assert account.results_without_a_trace == []
    assert scene.stop(agent) == 0


def busy(seen: dict[str, Any]) -> bool:
    """Whether the agent has anything left to do."""
    tasks = seen["tasks"]
    return bool(tasks["waiting"] + tasks["running"] + tasks["unsent"])


def test_bodies_that_are_gone_or_cut_cost_their_tasks_alone(scene: Bench) -> None:
    paths = EndpointPaths.of(scene.root)
    kill_with_a_full_journal(scene, b"x" * LARGE)
    bodies = sorted(paths.journal_bodies.iterdir(), key=lambda file: int(file.stem))
    bodies[10].unlink()
    os.truncate(bodies[11], 10)
    agent = scene.start()
    account = scene.collect(42)
    assert len(account.errors) >= 2
    lost = [answer for answer in account.answers.values() if "lost the body" in str(answer)]
    assert len(lost) == 2
    enter_account("journal bodies gone and cut", account, 42, bound=2 + 4)
    assert scene.stop(agent) == 0


def test_a_body_that_goes_while_the_agent_runs_costs_its_task_alone(scene: Bench) -> None:
    paths = EndpointPaths.of(scene.root)
    gate = scene.directory / "gate"
    agent = scene.start()
    scene.submit(gated, ["gate-1", "gate-2"], str(gate))
    # More than the journal keeps in memory: the newest is in its file only.
    scene.submit(note, [f"task-{n}" for n in range(10)], b"x" * (CACHE_BYTES // 9))
    wait_until(scene, lambda seen: seen["tasks"]["received"] == 12)
    status(scene)  # a second answer comes in a later turn: by then all bodies are in their files
    newest = max(paths.journal_bodies.iterdir(), key=lambda file: int(file.stem))
    newest.unlink()
    gate.touch()
    account = scene.collect(12)
    assert len(account.errors) == 1
    enter_account("journal body gone while running", account, 12, bound=1)
    assert scene.stop(agent) == 0
