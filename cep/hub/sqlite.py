"""The hub's database as a SQLite file: the default, for one hub on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, insert, select
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from cep.errors import CantCreate, CepError, DataError
from cep.hub import migrations, schema

_LOG_KEPT_BYTES = 64 * 1024 * 1024  # of the write-ahead log, after a large transaction
_BUSY_TIMEOUT_MS = 10_000  # a `hub client` command may write while no hub serves


class SqliteDatabase:
    """A SQLite file in WAL mode, for one thread.

    Args:
        path: The file; made (0600) when missing.
    """

    threads = 1
    repeats = 0
    key: bytes | None = None
    hub_number: int | None = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> Engine:
        """Open or create the file.

        Raises:
            DataError: The file is damaged, is not ours, or has a newer schema; it is untouched.
            CantCreate: The file cannot be made.
        """
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600, exist_ok=True)
            new = self._path.stat().st_size == 0
        except OSError as exc:
            raise CantCreate(f"The hub's database {self._path} cannot be made: {exc}.") from exc
        migrations.migrate_file(self._path)
        # Errors end up in the log, and parameters are users' payloads.
        engine = create_engine(f"sqlite:///{self._path}", hide_parameters=True)
        event.listen(engine, "connect", _set_up_connection)
        try:
            with engine.begin() as connection:
                _check_schema(connection, self._path)
        except (DatabaseError, DataError) as exc:
            engine.dispose()
            if isinstance(exc, DataError):
                raise
            raise DataError(f"The hub's database {self._path} is damaged: {exc.orig}.") from exc
        if new:
            migrations.mark_version(self._path)
        return engine

    def close(self) -> None:
        """Nothing beside the engine was taken."""

    def confirm_presence(self) -> None:
        """There are no other hubs."""

    def explain(self, error: Exception) -> CepError | None:
        """None: every error here is a surprise."""
        del error
        return None

    def gave_up(self, error: Exception) -> bool:
        """Never: there is one thread."""
        del error
        return False


def _set_up_connection(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")  # counts for a new file only
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute(f"PRAGMA journal_size_limit={_LOG_KEPT_BYTES}")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _check_schema(connection: Connection, path: Path) -> None:
    names = {
        row[0]
        for row in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type='table'")
    }
    if not names:
        schema.metadata.create_all(connection)
        connection.execute(
            insert(schema.meta).values(name="schema", value=str(schema.SCHEMA_VERSION))
        )
        return
    found = None
    if "meta" in names:
        try:
            found = connection.execute(
                select(schema.meta.c.value).where(schema.meta.c.name == "schema")
            ).scalar_one_or_none()
        except SQLAlchemyError:
            found = None
    if found is None or not found.isdigit():
        raise DataError(f"The file {path} is a database, but not one of a hub of cep.")
    migrations.refuse_newer(int(found), f"The hub's database {path}")
