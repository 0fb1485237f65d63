"""From an older schema of the hub's database to the present one, step by step.

Each step is SQL that every kind of database understands, and brings version N to N + 1 in one
transaction. A file is copied first (`hub.db.vN.bak` beside it), so that what dies in between loses
nothing: the next start begins where this one stopped. A database server's content is not ours to
copy: there the hub refuses until it is told that a dump was taken.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy import Connection, text

from cep.errors import CantCreate, ConfigError, DataError
from cep.hub import schema

#: From version N (the key) to N + 1.
STEPS: Mapping[int, Sequence[str]] = {
    1: (
        "ALTER TABLE results ADD COLUMN fetched_at FLOAT",
        "ALTER TABLE functions ADD COLUMN used_at FLOAT",
    ),
}

_BUSY_TIMEOUT_S = 10.0


def _nothing(name: str) -> None:
    """Do nothing: what `reach` is outside tests."""


#: Named moments at which a test may kill the process, in their order.
POINTS = ("copy-written", "copied", "step-before-commit", "step-committed", "migrated")
reach: Callable[[str], None] = _nothing


def refuse_newer(version: int, where: str) -> None:
    """Refuse a database that only a newer program understands.

    Raises:
        DataError: It is one.
    """
    if version > schema.SCHEMA_VERSION:
        raise DataError(
            f"{where} has schema {version}; this cep knows {schema.SCHEMA_VERSION} at most.",
            hint="Run the newer cep that made it.",
        )


def migrate_file(path: Path) -> None:
    """Bring a hub's SQLite file to the present schema; what is not one is left to the store.

    Nothing but this process may use it. Blocking.

    Raises:
        DataError: It has a newer schema (and is untouched), or one too old, or is damaged.
        CantCreate: There is no room for the copy, or for the change; it is as it was.
    """
    where = f"The hub's database {path}"
    with suppress(FileNotFoundError), path.open("rb") as file:
        header = file.read(100)
        if header.startswith(b"SQLite format 3\0"):
            # user_version (sqlite.org/fileformat), before SQLite opens the file.
            refuse_newer(int.from_bytes(header[60:64], "big"), where)
    version = _version_in(path)
    if version is None or version >= schema.SCHEMA_VERSION:
        return
    _check_steps(version, where)
    try:
        with closing(_connect(path)) as connection:
            _copy(connection, path.with_name(f"{path.name}.v{version}.bak"))
            for step in range(version, schema.SCHEMA_VERSION):
                _take_step(connection, step)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        reach("migrated")
    except (OSError, sqlite3.OperationalError) as exc:
        raise CantCreate(
            f"{where} has schema {version} and could not be brought to {schema.SCHEMA_VERSION}: "
            f"{exc}. Nothing is lost; free some space and start the hub again."
        ) from exc
    except sqlite3.Error as exc:
        raise DataError(f"{where} is damaged: {exc}.") from exc


def mark_version(path: Path) -> None:
    """Write the version into the header of a new file, where any later program looks first."""
    with closing(_connect(path)) as connection:
        connection.execute(f"PRAGMA user_version={schema.SCHEMA_VERSION}")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def migrate_server(connection: Connection, version: int, where: str, *, allowed: bool) -> None:
    """Bring a database server's tables to the present schema, in the transaction at hand.

    Args:
        connection: Inside a transaction that holds off other hubs.
        version: The schema's version there.
        where: The database, as the beginning of a sentence.
        allowed: The administrator has said `--migrate-database`.

    Raises:
        DataError: The schema is newer, or too old for any step.
        ConfigError: It is older, and nobody has allowed to change it.
    """
    refuse_newer(version, where)
    if version == schema.SCHEMA_VERSION:
        return
    _check_steps(version, where)
    if not allowed:
        raise ConfigError(
            f"{where} has schema {version}, and this cep works with {schema.SCHEMA_VERSION}. A hub "
            "cannot copy a database server's content before it changes it.",
            hint="Stop the other hubs, take a dump (pg_dump), and start one hub with "
            "--migrate-database.",
        )
    for step in range(version, schema.SCHEMA_VERSION):
        for statement in STEPS[step]:
            connection.execute(text(statement))
    connection.execute(
        schema.meta.update()
        .where(schema.meta.c.name == "schema")
        .values(value=str(schema.SCHEMA_VERSION))
    )


def _check_steps(version: int, where: str) -> None:
    if any(step not in STEPS for step in range(version, schema.SCHEMA_VERSION)):
        raise DataError(
            f"{where} has schema {version}, which this cep cannot bring to "
            f"{schema.SCHEMA_VERSION}.",
            hint="Run a cep of the time between once, or begin with another state directory.",
        )


def _version_in(path: Path) -> int | None:
    """Return the version that the file states; None for a new file or one that is not a hub's."""
    if not path.is_file() or path.stat().st_size == 0:
        return None
    with suppress(sqlite3.Error), closing(_connect(path)) as connection:
        row = connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone()
        if row is not None and str(row[0]).isdigit():
            return int(row[0])
    return None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:  # it is no database
        connection.close()
        raise
    return connection


def _copy(connection: sqlite3.Connection, target: Path) -> None:
    """Copy the database under another name: the whole of it is there, or nothing."""
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(sqlite3.connect(part)) as copy:
            connection.backup(copy)
        _flush(part, os.O_RDONLY)
        reach("copy-written")
        part.replace(target)
        _flush(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, sqlite3.Error):
        part.unlink(missing_ok=True)
        raise
    reach("copied")


def _take_step(connection: sqlite3.Connection, step: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in STEPS[step]:
            connection.execute(statement)
        connection.execute("UPDATE meta SET value = ? WHERE name = 'schema'", (str(step + 1),))
        connection.execute(f"PRAGMA user_version={step + 1}")
        reach("step-before-commit")
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    reach("step-committed")


def _flush(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
