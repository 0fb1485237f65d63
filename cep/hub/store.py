"""The hub's store: SQLAlchemy Core, one transaction per call, in threads of its own.

Owns the database's connections and the threads that use them; the event loop hands functions to
them with `call` and waits without blocking. On SQLite (`sqlite`) there is one thread, and calls run
in the order in which they were made; so they do on a PostgreSQL (`postgres`) that one hub uses
alone. Several hubs on one PostgreSQL have a few threads each. Queries live in `records` and
`ledger`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import Connection, Engine

from cep.errors import CepError, DataError
from cep.hub.sqlite import SqliteDatabase

P = ParamSpec("P")
T = TypeVar("T")


class Database(Protocol):
    """One kind of database: how it is opened, and what its errors mean."""

    @property
    def threads(self) -> int:
        """How many transactions may run at a time."""

    @property
    def repeats(self) -> int:
        """How often a transaction is tried again that the database gave up for another one."""

    @property
    def key(self) -> bytes | None:
        """The key that all hubs of the database share; None leaves it to the state directory."""

    @property
    def hub_number(self) -> int | None:
        """The number under which other hubs see this process; None when it is alone."""

    def open(self) -> Engine:
        """Open or create it, with the present schema; blocking.

        Raises:
            DataError: It is damaged, is not ours, or has a newer schema; it is untouched.
            CepError: It cannot be had, each reason with its own class.
        """

    def close(self) -> None:
        """Let go of what `open` took beside the engine."""

    def confirm_presence(self) -> None:
        """Make sure that other hubs see this one; blocking."""

    def explain(self, error: Exception) -> CepError | None:
        """Return what an error of a transaction means to a client; None for a surprise."""

    def gave_up(self, error: Exception) -> bool:
        """Whether the transaction was given up for another one and may be tried again."""


class Store:
    """The database of a hub.

    Args:
        database: The SQLite file (made, 0600, when missing), or another kind of database.
    """

    def __init__(self, database: Path | Database) -> None:
        self._database = SqliteDatabase(database) if isinstance(database, Path) else database
        self._engine: Engine | None = None
        self._thread = ThreadPoolExecutor(
            max_workers=self._database.threads, thread_name_prefix="hub-store"
        )

    @property
    def key(self) -> bytes | None:
        """The key that all hubs of this database share; None leaves it to the state directory."""
        return self._database.key

    @property
    def hub_number(self) -> int | None:
        """The number under which other hubs see this process; None when this hub is alone."""
        return self._database.hub_number

    def open(self) -> None:
        """Open or create the database; blocking.

        Raises:
            DataError: It is damaged, is not ours, or has a newer schema; it is untouched.
            CepError: It cannot be had.
        """
        self._engine = self._database.open()

    async def confirm_presence(self) -> None:
        """Make sure that the other hubs on the database see this one, where there can be any.

        Raises:
            TemporaryFailure: The database does not answer.
        """
        if self.hub_number is not None:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._database.confirm_presence)

    def close(self) -> None:
        """Finish what was handed over and close; blocking, idempotent."""
        self._thread.shutdown(wait=True)
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        self._database.close()

    def call_now(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(connection, ...)` in one transaction, in the calling thread.

        `work` may run more than once; only its last run counts.
        """
        if self._engine is None:
            raise DataError("The hub's database is not open.")
        left = self._database.repeats
        while True:
            try:
                with self._engine.begin() as connection:
                    return work(connection, *args, **kwargs)
            except CepError:
                raise
            except Exception as exc:
                if left > 0 and self._database.gave_up(exc):
                    left -= 1
                    continue
                known = self._database.explain(exc)
                if known is None:
                    raise
                raise known from exc

    async def call(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run `work(connection, ...)` in one transaction, in a thread of the store.

        When `work` raises, nothing of it stays.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._thread, lambda: self.call_now(work, *args, **kwargs)
        )
