"""INSERT ... ON CONFLICT, which SQLite and PostgreSQL have and SQLAlchemy spells per dialect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_new(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """Insert a row unless one with its primary key is there; return whether it was inserted."""
    if connection.dialect.name == "postgresql":
        done = connection.execute(
            postgresql.insert(table).values(**values).on_conflict_do_nothing()
        )
    else:
        done = connection.execute(sqlite.insert(table).values(**values).on_conflict_do_nothing())
    return done.rowcount == 1
