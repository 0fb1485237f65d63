"""An older database of the hub is migrated after a copy; a newer one is left as it is."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, select

from cep.errors import CantCreate, ConfigError, DataError
from cep.hub import migrations, schema
from cep.hub.store import Store

VERSION_1 = Path(__file__).parents[1] / "integration" / "hub_schema_1.sql"


def old_database(directory: Path, version: str = "1") -> Path:
    path = directory / "hub.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(VERSION_1.read_text())
        connection.execute("UPDATE meta SET value = ?", (version,))
        connection.commit()
    return path


def picture(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


def columns(path: Path) -> dict[str, list[str]]:
    engine = create_engine(f"sqlite:///{path}")
    try:
        found = inspect(engine)
        return {
            table: sorted(column["name"] for column in found.get_columns(table))
            for table in found.get_table_names()
        }
    finally:
        engine.dispose()


def opened(path: Path) -> None:
    store = Store(path)
    try:
        store.open()
    finally:
        store.close()


def test_a_migrated_database_has_the_tables_of_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "new").mkdir()
    old, new = old_database(tmp_path / "old"), tmp_path / "new" / "hub.db"
    opened(old)
    opened(new)
    assert columns(old) == columns(new)
    assert (old.parent / "hub.db.v1.bak").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in new.parent.iterdir()) == ["hub.db"]
    opened(old)  # and again, with nothing to do


@pytest.mark.parametrize("made_by_us", [True, False])
def test_a_newer_database_is_refused_and_left_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_by_us: bool
) -> None:
    if made_by_us:
        with monkeypatch.context() as newer:
            newer.setattr(schema, "SCHEMA_VERSION", schema.SCHEMA_VERSION + 1)
            opened(tmp_path / "hub.db")
    else:
        old_database(tmp_path, str(schema.SCHEMA_VERSION + 1))
    before = picture(tmp_path)
    with pytest.raises(DataError, match="newer cep") as refused:
        opened(tmp_path / "hub.db")
    assert refused.value.exit_code == 65
    after = picture(tmp_path)
    assert after["hub.db"] == before["hub.db"]
    if made_by_us:  # its header tells, so it was not even opened
        assert after == before


def test_a_version_without_a_step_is_refused(tmp_path: Path) -> None:
    path = old_database(tmp_path, "0")
    before = path.read_bytes()
    with pytest.raises(DataError, match="cannot bring"):
        opened(path)
    assert path.read_bytes() == before


def test_without_a_copy_nothing_is_changed(tmp_path: Path) -> None:
    path = old_database(tmp_path)
    (tmp_path / "hub.db.v1.bak.part").mkdir()  # where the copy would be written
    before = path.read_bytes()
    with pytest.raises(CantCreate, match="Nothing is lost"):
        opened(path)
    assert path.read_bytes() == before


def test_a_database_server_is_migrated_only_when_somebody_has_taken_a_dump(tmp_path: Path) -> None:
    """The real PostgreSQL runs in the integration tests; the rule is the same for any engine."""
    engine = create_engine(f"sqlite:///{old_database(tmp_path)}")
    version = select(schema.meta.c.value).where(schema.meta.c.name == "schema")
    try:
        with engine.begin() as connection:
            with pytest.raises(ConfigError, match="schema 1") as refused:
                migrations.migrate_server(connection, 1, "The database x", allowed=False)
            assert refused.value.hint is not None
            assert "--migrate-database" in refused.value.hint
            assert connection.execute(version).scalar_one() == "1"
            with pytest.raises(DataError, match="newer cep"):
                migrations.migrate_server(connection, 99, "The database x", allowed=True)
            migrations.migrate_server(connection, 1, "The database x", allowed=True)
            assert connection.execute(version).scalar_one() == str(schema.SCHEMA_VERSION)
            migrations.migrate_server(
                connection, schema.SCHEMA_VERSION, "The database x", allowed=False
            )
            assert connection.execute(select(schema.results.c.fetched_at)).all() == []
    finally:
        engine.dispose()
