"""How the journal's database is made, refused and migrated."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from uuid import uuid4

import pytest

from cep.errors import CepError, DiskUnfit, JournalError
from cep.journal import faults, schema
from cep.journal.journal import Journal

FUNCTION = "99999999-2222-4333-8444-555555555555"


def opened(home: Path) -> Journal:
    return Journal.open(home / "journal.db", home / "bodies")


def filled(home: Path, tasks: int = 50) -> Path:
    journal = opened(home)
    for _ in range(tasks):
        journal.accept(str(uuid4()), FUNCTION, os.urandom(500))
    journal.close()
    return home / "journal.db"


def test_a_new_journal_carries_its_mark_and_version_in_its_first_bytes(tmp_path: Path) -> None:
    db = filled(tmp_path)
    header = db.read_bytes()[:100]
    assert header[68:72] == b"cepj"
    assert int.from_bytes(header[60:64], "big") == schema.VERSION
    assert not (tmp_path / "journal.db.new").exists()


def test_no_shared_memory_file_is_needed(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.accept(str(uuid4()), FUNCTION, b"")
    journal.commit()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bodies", "journal.db", "journal.db-wal"]
    journal.close()


def test_a_half_made_journal_of_an_earlier_start_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "journal.db.new").write_bytes(b"half")
    (tmp_path / "journal.db-wal").write_bytes(b"of a journal that is gone")
    opened(tmp_path).close()
    assert not (tmp_path / "journal.db.new").exists()


def _not_sqlite(db: Path) -> None:
    db.write_bytes(b"hello" * 1000)


def _empty(db: Path) -> None:
    db.write_bytes(b"")


def _of_another_program(db: Path) -> None:
    connection = sqlite3.connect(db)
    connection.execute("CREATE TABLE tasks (seq)")
    connection.close()


def _newer(db: Path) -> None:
    filled(db.parent)
    connection = sqlite3.connect(db)
    connection.execute(f"PRAGMA user_version={schema.VERSION + 1}")
    connection.close()


def _damaged(db: Path) -> None:
    filled(db.parent)
    data = bytearray(db.read_bytes())
    data[4096 * 2 : 4096 * 6] = os.urandom(4096 * 4)
    db.write_bytes(data)


def _cut(db: Path) -> None:
    filled(db.parent)
    os.truncate(db, db.stat().st_size // 2)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (_not_sqlite, "not a journal of cep"),
        (_empty, "not a journal of cep"),
        (_of_another_program, "another program"),
        (_newer, "newer cep"),
        (_damaged, "corrupt|cannot be used"),
        (_cut, "corrupt|cannot be used"),
    ],
)
def test_what_is_not_a_sound_journal_is_refused_and_left_as_it_was(
    tmp_path: Path, make: object, word: str
) -> None:
    db = tmp_path / "journal.db"
    assert callable(make)
    make(db)
    before = db.read_bytes()
    with pytest.raises(JournalError, match=word) as refused:
        opened(tmp_path)
    assert refused.value.exit_code == 65
    assert str(db) in str(refused.value)
    assert db.read_bytes() == before


def test_a_link_or_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    db = tmp_path / "journal.db"
    db.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(JournalError, match="not a regular file"):
        opened(tmp_path)
    db.unlink()
    db.mkdir()
    with pytest.raises(JournalError, match="not a regular file"):
        opened(tmp_path)


def test_an_older_journal_is_migrated_after_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = filled(tmp_path, tasks=3)

    def add_a_column(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE tombstones ADD COLUMN why TEXT")

    monkeypatch.setattr(schema, "VERSION", 2)
    monkeypatch.setattr(schema, "MIGRATIONS", {1: add_a_column})
    journal = opened(tmp_path)
    assert len(journal.recover().unfinished) == 3
    journal.close()
    assert int.from_bytes(db.read_bytes()[60:64], "big") == 2
    backup = tmp_path / "journal.db.v1.bak"
    assert backup.stat().st_mode & 0o777 == 0o600
    connection = sqlite3.connect(backup)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (3,)
    connection.close()


def test_a_migration_that_fails_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, tasks=3)

    def fail_half_way(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM tasks")
        connection.execute("SELECT nonsense")

    with monkeypatch.context() as patched:
        patched.setattr(schema, "VERSION", 2)
        patched.setattr(schema, "MIGRATIONS", {1: fail_half_way})
        with pytest.raises(JournalError):
            opened(tmp_path)
    journal = opened(tmp_path)
    assert len(journal.recover().unfinished) == 3
    journal.close()


def test_a_version_without_a_way_up_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    monkeypatch.setattr(schema, "VERSION", 3)
    with pytest.raises(JournalError, match="cannot bring to 3"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("database or disk is full", DiskUnfit),
        ("disk I/O error", DiskUnfit),
        ("attempt to write a readonly database", DiskUnfit),
        ("database disk image is malformed", JournalError),
        ("file is not a database", JournalError),
    ],
)
def test_complaints_of_sqlite_become_errors_of_the_house(text: str, kind: type[CepError]) -> None:
    assert type(faults.from_sqlite(sqlite3.OperationalError(text), Path("/j"))) is kind
