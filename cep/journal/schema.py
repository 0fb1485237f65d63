"""The journal's database: its tables, how it is made, opened, checked and migrated.

Three tables hold each task id at most once: `tasks` (unfinished), `results` (unsent) and
`tombstones` (answered, but the broker may still deliver the task again). Rows are only ever
inserted, and deleted in ranges of the integer key; so what happens to a task in an engine's hands
after its own row was written is a row in `marks`. Owns no state; runs on the agent's main thread.
"""

from __future__ import annotations

import ctypes
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cep.errors import CepError, JournalError
from cep.journal import crash, faults
from cep.journal.bodies import sync_directory, sync_file

APPLICATION_ID = 0x6365706A  # "cepj", in the file's header at offset 68 (sqlite.org/fileformat)
VERSION = 1  # of the tables below, in the file's header at offset 60 (user_version)

# Pages of the write-ahead log before SQLite copies them into the database: 16 MiB of 4 KiB pages,
# so that a burst pays few of the two extra flushes a checkpoint costs.
CHECKPOINT_PAGES = 4096

_TABLES = """
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY,
    task_id BLOB NOT NULL,
    function_id TEXT NOT NULL,
    resource_specification TEXT,
    result_serializers TEXT,
    attempts INTEGER NOT NULL,
    given INTEGER NOT NULL,
    size INTEGER NOT NULL,
    body BLOB
);
CREATE TABLE marks (seq INTEGER PRIMARY KEY, attempts INTEGER NOT NULL, given INTEGER NOT NULL);
CREATE TABLE results (
    seq INTEGER PRIMARY KEY, task_id BLOB NOT NULL, size INTEGER NOT NULL, body BLOB
);
CREATE TABLE tombstones (
    seq INTEGER PRIMARY KEY, task_id BLOB NOT NULL, settled_at INTEGER NOT NULL
);
CREATE TABLE counter (id INTEGER PRIMARY KEY CHECK (id = 1), seq_limit INTEGER NOT NULL);
INSERT INTO counter VALUES (1, 1);
CREATE TABLE owner (id INTEGER PRIMARY KEY CHECK (id = 1), endpoint_id TEXT NOT NULL);
"""

# From version N (the key) to N + 1, each inside one transaction. Nothing yet: this is version 1.
MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {}


def open_database(db: Path) -> sqlite3.Connection:
    """Open the database, after making it if it is not there and migrating it if it is older.

    Raises:
        JournalError: It is corrupt, foreign or of a newer version; it was left as it was.
        AlreadyRunning: Another process has it open.
        DiskUnfit: The disk is full, read-only or broken.
    """
    try:
        if not os.path.lexists(db):
            _create(db)
        _check_header(db)
        _make_private(db)
    except OSError as exc:
        raise faults.from_os(exc, db) from exc
    connection = sqlite3.connect(db, timeout=0, isolation_level=None)
    try:
        _lock(connection)
        _check_inside(connection, db)
    except (sqlite3.Error, JournalError) as exc:
        error = faults.from_sqlite(exc, db) if isinstance(exc, sqlite3.Error) else exc
        if isinstance(error, JournalError):
            _leave(connection)
        else:  # the disk, or another process: it will be opened again
            _close_quietly(connection)
        raise error from None if error is exc else exc
    try:
        _migrate(connection, db)
    except sqlite3.Error as exc:
        _close_quietly(connection)
        raise faults.from_sqlite(exc, db) from exc
    except CepError:
        _close_quietly(connection)
        raise
    return connection


def _lock(connection: sqlite3.Connection) -> None:
    """Set the connection up and take the journal's lock for this process."""
    # Exclusive before the first read: then the write-ahead log needs no shared-memory file, which
    # network file systems cannot hold, and no second process can come in between.
    for pragma in (
        "locking_mode=EXCLUSIVE",
        "synchronous=FULL",
        "temp_store=MEMORY",
        "secure_delete=FAST",  # zero what costs no extra page: Debian's SQLite does more by default
        "cache_size=-16384",
        f"wal_autocheckpoint={CHECKPOINT_PAGES}",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    # Take the lock now, not at the first commit. It is a POSIX lock: this process must not open and
    # close the file a second time, which would let it go (fcntl(2)).
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("COMMIT")


def _create(db: Path) -> None:
    """Write an empty journal beside its place and move it there: it is whole or not there."""
    db.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = db.with_name(db.name + ".new")
    for leftover in (new, *_companions(new), *_companions(db)):
        leftover.unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    new.chmod(0o600)
    try:
        connection = sqlite3.connect(new, timeout=0, isolation_level=None)
        try:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            # Nobody opens it before it is in its place: one flush at the end instead of forty.
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("PRAGMA journal_mode=MEMORY").fetchall()
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.executescript(f"BEGIN;{_TABLES}PRAGMA user_version={VERSION};COMMIT;")
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
        finally:
            connection.close()
        sync_file(new)
        crash.reach("journal-created")
        new.rename(db)
        sync_directory(db.parent)
    except (sqlite3.Error, OSError) as exc:
        for leftover in (new, *_companions(new)):
            with suppress(OSError):
                leftover.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise
        raise faults.from_sqlite(exc, db) from exc


def _check_header(db: Path) -> None:
    """Judge the file by its first 100 bytes, before SQLite may touch it."""
    if db.is_symlink() or not db.is_file():
        raise JournalError(f"The journal {db} is not a regular file.", hint=faults.move_away(db))
    with db.open("rb") as file:
        header = file.read(100)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise JournalError(
            f"The journal {db} is not a journal of cep, or is damaged at its beginning.",
            hint=faults.move_away(db),
        )
    if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise JournalError(
            f"The database {db} belongs to another program, and is not a journal of cep.",
            hint=faults.move_away(db),
        )
    _refuse_newer(int.from_bytes(header[60:64], "big"), db)


def _check_inside(connection: sqlite3.Connection, db: Path) -> None:
    _refuse_newer(_version(connection), db)
    complaint = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if complaint != "ok":
        raise JournalError(f"The journal {db} is corrupt: {complaint}.", hint=faults.move_away(db))


def _refuse_newer(version: int, db: Path) -> None:
    if version > VERSION:
        raise JournalError(
            f"The journal {db} has schema version {version}, and this cep knows versions up to "
            f"{VERSION}. It was written by a newer cep; start the endpoint with that one."
        )


def _migrate(connection: sqlite3.Connection, db: Path) -> None:
    version = _version(connection)
    if version == VERSION:
        return
    if any(step not in MIGRATIONS for step in range(version, VERSION)):
        raise JournalError(
            f"The journal {db} has schema version {version}, which cep cannot bring to {VERSION}.",
            hint=faults.move_away(db),
        )
    _back_up(connection, db.with_name(f"{db.name}.v{version}.bak"))
    for step in range(version, VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            MIGRATIONS[step](connection)
            connection.execute(f"PRAGMA user_version={step + 1}")
            crash.reach("step-before-commit")
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        crash.reach("step-committed")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    crash.reach("migrated")


def _back_up(connection: sqlite3.Connection, target: Path) -> None:
    """Copy the journal under another name: the whole of it is there, or nothing."""
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            copy = sqlite3.connect(part)
            try:
                connection.backup(copy)  # flushed with its commit
            finally:
                copy.close()
            crash.reach("copy-written")
            part.rename(target)
        except (OSError, sqlite3.Error):
            part.unlink(missing_ok=True)
            raise
        sync_directory(target.parent)
    except OSError as exc:
        raise faults.from_os(exc, target) from exc
    crash.reach("copied")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _make_private(db: Path) -> None:
    for file in (db, *_companions(db)):
        if file.exists():
            file.chmod(0o600)


def _companions(db: Path) -> tuple[Path, ...]:
    """The files SQLite keeps beside a database."""
    return tuple(db.with_name(db.name + suffix) for suffix in ("-wal", "-journal", "-shm"))


def _close_quietly(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        connection.close()


def _leave(connection: sqlite3.Connection) -> None:
    """Let go of a database that was refused, without a change to its files.

    An ordinary close copies the write-ahead log into the database and removes it, even when both
    were just found corrupt, and whoever wants to rescue something would find less.
    """
    if sys.version_info >= (3, 12):
        with suppress(sqlite3.Error):
            connection.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, True)
            connection.close()
    else:  # nothing but the end of the process leaves the files alone
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
