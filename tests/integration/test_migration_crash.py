"""Killed at every point of a migration, nothing is lost, and the next start goes on."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from cep.hub import migrations
from cep.journal import crash
from cep.journal.journal import Journal
from tests.integration.migration_child import NEWEST

CHILD = Path(__file__).with_name("migration_child.py")
ROOT = Path(__file__).resolve().parents[2]
FUNCTION = "99999999-2222-4333-8444-555555555555"
# The hub's database of version 1, as its tables were then.
HUB_1 = Path(__file__).with_name("hub_schema_1.sql")
CLIENT = "11111111-2222-4333-8444-555555555555"

ARRIVALS = [
    (point, n) for point in crash.MIGRATION_POINTS for n in (1, 2) if n == 1 or "step" in point
]


def run(kind: str, home: Path, point: str = "none", arrival: int = 0) -> int:
    child = subprocess.run(
        [sys.executable, str(CHILD), kind, str(home), point, str(arrival)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        timeout=200,
        check=False,
    )
    assert (child.stdout == b"open\n") == (child.returncode == 0)
    return child.returncode


def ask(db: Path, question: str) -> list[tuple]:  # type: ignore[type-arg]
    with closing(sqlite3.connect(f"file:{db}?mode=ro", uri=True)) as connection:
        return connection.execute(question).fetchall()


@pytest.fixture(scope="module")
def old_journal(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    home = tmp_path_factory.mktemp("journal")
    journal = Journal.open(home / "journal.db", home / "bodies")
    ids = [str(uuid4()) for _ in range(20)]
    seqs = [
        journal.accept(id_, FUNCTION, b"x" * (100_000 if n < 2 else 100))
        for n, id_ in enumerate(ids)
    ]
    journal.finish(seqs[-1], b"result")
    journal.commit()
    journal.finish(seqs[-2], b"gone")
    journal.commit()
    journal.settle([seqs[-2]])
    journal.close()
    return home, ids


@pytest.fixture(scope="module")
def old_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("hub")
    with closing(sqlite3.connect(home / "hub.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(HUB_1.read_text())
        connection.execute("INSERT INTO clients VALUES (?, 'me', 'digest', 1, 0, 1.0)", (CLIENT,))
        connection.execute(
            "INSERT INTO results VALUES ('t', x'00ff', 1)",
        )
        connection.commit()
    yield home


@pytest.mark.parametrize(("point", "arrival"), ARRIVALS)
def test_a_journals_migration_that_is_killed_goes_on_at_the_next_start(
    tmp_path: Path, old_journal: tuple[Path, list[str]], point: str, arrival: int
) -> None:
    home, ids = old_journal
    work = tmp_path / "work"
    shutil.copytree(home, work)
    assert run("journal", work, point, arrival) == -signal.SIGKILL
    # Whoever looks now finds the old journal whole, or the new one, or one in between.
    version = ask(work / "journal.db", "PRAGMA user_version")[0][0]
    assert version in (1, 2, NEWEST)
    if version > 1:
        assert ask(work / "journal.db.v1.bak", "PRAGMA user_version") == [(1,)]
        assert ask(work / "journal.db.v1.bak", "PRAGMA integrity_check") == [("ok",)]
    assert run("journal", work) == 0
    assert ask(work / "journal.db", "PRAGMA user_version") == [(NEWEST,)]
    assert ask(work / "journal.db", "SELECT why FROM tombstones") == [("answered",)]
    assert ask(work / "journal.db", "SELECT count(*) FROM notes") == [(18,)]
    assert not list(work.glob("*.part"))
    # The old program finds all its tasks in the copy.
    (work / "journal.db.v1.bak").rename(work / "journal.db")
    for companion in work.glob("journal.db-*"):
        companion.unlink()
    journal = Journal.open(work / "journal.db", work / "bodies")
    assert all(journal.knows(id_) for id_ in ids)
    assert len(journal.recover().unfinished) == 18
    assert journal.recover().damaged == []
    journal.close()


@pytest.mark.parametrize(("point", "arrival"), ARRIVALS)
def test_a_hubs_migration_that_is_killed_goes_on_at_the_next_start(
    tmp_path: Path, old_hub: Path, point: str, arrival: int
) -> None:
    assert migrations.POINTS == crash.MIGRATION_POINTS
    work = tmp_path / "work"
    shutil.copytree(old_hub, work)
    assert run("hub", work, point, arrival) == -signal.SIGKILL
    (version,) = ask(work / "hub.db", "SELECT value FROM meta WHERE name = 'schema'")[0]
    assert version in ("1", "2", str(NEWEST))
    if version != "1":
        copy = work / "hub.db.v1.bak"
        assert copy.stat().st_mode & 0o777 == 0o600
        assert ask(copy, "SELECT body FROM results") == [(b"\x00\xff",)]
        assert ask(copy, "PRAGMA integrity_check") == [("ok",)]
    assert run("hub", work) == 0
    assert ask(work / "hub.db", "SELECT value FROM meta WHERE name = 'schema'") == [(str(NEWEST),)]
    assert ask(work / "hub.db", "SELECT body, fetched_at FROM results") == [(b"\x00\xff", None)]
    assert ask(work / "hub.db", "SELECT name FROM notes") == [(CLIENT,)]
    assert not list(work.glob("*.part"))
