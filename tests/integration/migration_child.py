"""A process that migrates a journal or a hub's database through synthetic versions, and dies.

Run as `python migration_child.py journal|hub PATH POINT ARRIVAL`; it kills itself at the Nth
arrival at a point, and says `open` once the database is open.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

NEWEST = 3  # above the program's own version, with steps that exist in tests only


def die_at(point: str, arrival: int) -> Callable[[str], None]:
    """Return a `reach` that kills this process at the Nth arrival."""
    seen = 0

    def reach(name: str) -> None:
        nonlocal seen
        seen += name == point
        if name == point and seen == arrival:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


def add_reason(connection: sqlite3.Connection) -> None:
    """From 1 to 2: a column, and something in it."""
    connection.execute("ALTER TABLE tombstones ADD COLUMN why TEXT")
    connection.execute("UPDATE tombstones SET why = 'answered'")


def add_notes(connection: sqlite3.Connection) -> None:
    """From 2 to 3: a table."""
    connection.execute("CREATE TABLE notes (seq INTEGER PRIMARY KEY, note TEXT NOT NULL)")
    connection.execute("INSERT INTO notes SELECT seq, task_id FROM tasks")


def open_journal(home: Path, reach: Callable[[str], None]) -> None:
    """Open the journal in this directory, as a newer program would."""
    from cep.journal import crash, schema
    from cep.journal.journal import Journal

    crash.reach = reach
    schema.VERSION = NEWEST
    schema.MIGRATIONS = {1: add_reason, 2: add_notes}
    Journal.open(home / "journal.db", home / "bodies").close()


def open_hub(home: Path, reach: Callable[[str], None]) -> None:
    """Open the hub's database in this directory, as a newer program would."""
    from cep.hub import migrations, schema
    from cep.hub.store import Store

    migrations.reach = reach
    schema.SCHEMA_VERSION = NEWEST
    migrations.STEPS = {
        **migrations.STEPS,
        2: (
            "CREATE TABLE notes (name VARCHAR NOT NULL PRIMARY KEY)",
            "INSERT INTO notes SELECT client_id FROM clients",
        ),
    }
    store = Store(home / "hub.db")
    store.open()
    store.close()


if __name__ == "__main__":
    kind, place, point, arrival = sys.argv[1:]
    {"journal": open_journal, "hub": open_hub}[kind](Path(place), die_at(point, int(arrival)))
    print("open", flush=True)
