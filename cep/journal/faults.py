"""Turn what SQLite and the file system complain about into errors of the house.

Owns no state; called by the rest of the room on the agent's main thread.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from cep.errors import AlreadyRunning, CepError, DiskUnfit, JournalError

# Beginnings of SQLite's own messages (sqlite3.c, sqlite3ErrStr). Python 3.10 gives no error code.
_DISK = (
    "database or disk is full",
    "disk i/o error",
    "attempt to write a readonly database",
    "unable to open database file",
    "large file support is disabled",
)
_FULL = ("database or disk is full",)
_CORRUPT = ("database disk image is malformed", "malformed database schema", "file is not a")
_LOCKED = ("database is locked", "locking protocol", "database table is locked")

BODIES = "journal-bodies"  # the directory beside the database (cep.paths)


def move_away(db: Path) -> str:
    """Return the hint how to go on without a journal that cannot be used, and what that costs."""
    aside = db.with_name("damaged-journal")
    return (
        f"To start with an empty journal, set this one aside: mkdir {aside} && "
        f"mv {db}* {db.parent / BODIES} {aside}/\n"
        "Tasks and results in it are then not answered: who submitted them has to do it again."
    )


def from_sqlite(exc: sqlite3.Error, db: Path) -> CepError:
    """Return the error of the house for a complaint of SQLite about the journal at `db`."""
    text = str(exc).lower()
    if text.startswith(_DISK):
        return DiskUnfit(
            f"The journal {db} cannot be written: {exc}. Free some space on its file system or "
            "check its quota; nothing that was committed is lost."
        )
    if text.startswith(_LOCKED):
        return AlreadyRunning(
            f"The journal {db} is locked by another process: another agent of this endpoint, or "
            "of one with the same state_dir, runs on this host or did not end yet."
        )
    what = "is corrupt" if text.startswith(_CORRUPT) else "cannot be used"
    return JournalError(f"The journal {db} {what}: {exc}.", hint=move_away(db))


def leaves_doubt(exc: sqlite3.Error) -> bool:
    """Whether the open database is in doubt after this, so that it has to be opened anew.

    A file handle of a network file system can be stale for ever, and after a failed write or flush
    what SQLite and the kernel hold of it may be wrong. A full disk harms neither.
    """
    text = str(exc).lower()
    return text.startswith(_DISK) and not text.startswith(_FULL)


def from_os(exc: OSError, path: Path) -> DiskUnfit:
    """Return the error for a file that could not be written or read."""
    return DiskUnfit(
        f"{path} cannot be used: {exc.strerror or exc}. Check the space, the quota and the "
        "permissions there; nothing that was committed is lost."
    )
