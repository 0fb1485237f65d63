"""The broker's durable half: topology and persistent messages in SQLite, committed in groups.

One batch is written at a time, by the store's own thread; whatever the event loop asks for
meanwhile makes up the next batch, so one fsync serves all publishes of that time. A message that
is acknowledged before its batch began is never written. Deletions are lazy: they travel with the
next batch, and a crash before it brings the message back, flagged as redelivered.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from cep.errors import CantCreate, DataError, Unavailable

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1
_LAZY_S = 0.2
_RETRY_S = 1.0

_SCHEMA = """
CREATE TABLE exchanges (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT UNIQUE NOT NULL,
    auto_delete INTEGER NOT NULL);
CREATE TABLE bindings (exchange TEXT, routing_key TEXT, queue INTEGER,
    PRIMARY KEY (exchange, routing_key, queue)) WITHOUT ROWID;
CREATE TABLE messages (seq INTEGER PRIMARY KEY, queue INTEGER NOT NULL, redelivered INTEGER
    NOT NULL, route BLOB NOT NULL, properties BLOB NOT NULL, body BLOB NOT NULL);
CREATE TABLE state (clean INTEGER NOT NULL);
INSERT INTO state VALUES (1);
"""


class Row(NamedTuple):
    """One message of one queue, as stored."""

    seq: int
    queue: int
    redelivered: bool
    route: bytes
    properties: bytes
    body: bytes


class StoredMessage(NamedTuple):
    """A recovered message; its body stays on disk until it is wanted."""

    seq: int
    queue: int
    redelivered: bool
    route: bytes
    properties: bytes
    size: int


class StoredQueue(NamedTuple):
    """A recovered queue."""

    id: int
    name: str
    auto_delete: bool


@dataclass(slots=True)
class Recovered:
    """What was found at the start: messages in the order in which they were published."""

    exchanges: list[str] = field(default_factory=list)
    queues: list[StoredQueue] = field(default_factory=list)
    bindings: list[tuple[str, str, int]] = field(default_factory=list)
    messages: list[StoredMessage] = field(default_factory=list)


Done = Callable[[bool], None]


@dataclass(slots=True)
class _Batch:
    changes: list[tuple[str, tuple[object, ...], Done | None]] = field(default_factory=list)
    puts: dict[int, tuple[Row, Done]] = field(default_factory=dict)
    deletes: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.changes or self.puts or self.deletes)


class Store:
    """The database of one broker; every method but the private ones runs on the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending = _Batch()
        self._writing = False
        self._timer: asyncio.Handle | None = None
        self._idle = asyncio.Event()
        self._failing = False

    async def open(self) -> Recovered:
        """Open or create the database and read what it holds.

        Raises:
            Unavailable: Another broker has it open.
            DataError: It is damaged, or of a newer version; it is left untouched.
            CantCreate: The directory or the file cannot be made.
        """
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="broker-store")
        self._idle.set()
        try:
            return await self._loop.run_in_executor(self._thread, self._open)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    def put(self, row: Row, done: Done) -> None:
        """Store a message; `done(True)` once it is durable, `done(False)` when that failed."""
        self._pending.puts[row.seq] = (row, done)
        self._soon()

    def forget(self, seqs: Iterable[int]) -> None:
        """Delete messages, soon; one that was not written yet counts as durably done."""
        for seq in seqs:
            waiting = self._pending.puts.pop(seq, None)
            if waiting is None:
                self._pending.deletes.append(seq)
            else:
                waiting[1](True)
        if self._timer is None and not self._writing and self._pending:
            self._timer = self._loop.call_later(_LAZY_S, self._flush)

    def save_exchange(self, name: str, done: Done) -> None:
        """Remember a durable exchange."""
        self._change("INSERT OR IGNORE INTO exchanges VALUES (?)", (name,), done)

    def save_queue(self, queue: StoredQueue, done: Done) -> None:
        """Remember a durable queue."""
        self._change("INSERT INTO queues VALUES (?, ?, ?)", tuple(queue), done)

    def delete_queue(self, queue: int, done: Done) -> None:
        """Forget a durable queue and its bindings (its messages: `forget`)."""
        self._change("DELETE FROM bindings WHERE queue = ?", (queue,), None)
        self._change("DELETE FROM queues WHERE id = ?", (queue,), done)

    def save_binding(self, exchange: str, routing_key: str, queue: int, done: Done) -> None:
        """Remember a binding between a durable exchange and a durable queue."""
        values = (exchange, routing_key, queue)
        self._change("INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)", values, done)

    def delete_binding(self, exchange: str, routing_key: str, queue: int, done: Done) -> None:
        """Forget a binding."""
        where = "DELETE FROM bindings WHERE exchange = ? AND routing_key = ? AND queue = ?"
        self._change(where, (exchange, routing_key, queue), done)

    def load(self, seqs: list[int], done: Callable[[Mapping[int, bytes] | None], None]) -> None:
        """Read bodies of durable messages; `done(None)` when the database cannot be read."""
        work = self._loop.run_in_executor(self._thread, self._load, seqs)

        def finish(future: asyncio.Future[dict[int, bytes] | None]) -> None:
            if not future.cancelled():
                done(future.result())

        work.add_done_callback(finish)

    async def close(self, delivered: list[int]) -> None:
        """Write what is pending, note the delivered messages as such, and close the database."""
        for seq in delivered:
            self._change("UPDATE messages SET redelivered = 1 WHERE seq = ?", (seq,), None)
        self._change("UPDATE state SET clean = 1", (), None)
        self._flush()
        await self._idle.wait()
        if self._timer is not None:
            self._timer.cancel()
        await self._loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    # -- the event loop's side of a batch ------------------------------------------------

    def _change(self, sql: str, values: tuple[object, ...], done: Done | None) -> None:
        self._pending.changes.append((sql, values, done))
        self._soon()

    def _soon(self) -> None:
        if self._writing or self._failing:
            return
        if self._timer is None or isinstance(self._timer, asyncio.TimerHandle):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._writing or not self._pending:
            return
        batch, self._pending = self._pending, _Batch()
        self._writing = True
        self._idle.clear()
        work = self._loop.run_in_executor(self._thread, self._write, batch)
        work.add_done_callback(lambda future: self._written(batch, future.result()))

    def _written(self, batch: _Batch, error: sqlite3.Error | None) -> None:
        self._writing = False
        if error is None:
            if self._failing:
                self._failing = False
                log.info("The broker can store again", extra={"event": "broker.store_recovered"})
        else:
            # Publishers are told (nack); what must not be lost is tried again.
            if not self._failing:
                log.error("The broker cannot store: %s", error, extra={"event": "broker.store"})
            self._failing = True
            retry = [(sql, values, None) for sql, values, _ in batch.changes]
            self._pending.changes[:0] = retry
            self._pending.deletes[:0] = batch.deletes
        for _row, done in batch.puts.values():
            done(error is None)
        for _sql, _values, changed in batch.changes:
            if changed is not None:
                changed(error is None)
        if self._failing:
            self._timer = self._loop.call_later(_RETRY_S, self._flush)
        elif self._pending.puts or self._pending.changes:
            self._flush()
        elif self._pending and self._timer is None:
            self._timer = self._loop.call_later(_LAZY_S, self._flush)
        if not self._writing:
            self._idle.set()

    # -- the store's thread -----------------------------------------------------------------

    def _open(self) -> Recovered:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, isolation_level=None, timeout=0)
            self._path.chmod(0o600)
        except (OSError, sqlite3.Error) as exc:
            raise CantCreate(
                f"The broker's database {self._path} cannot be made: {exc}. "
                "Choose another state directory."
            ) from exc
        try:
            return self._prepare(self._db)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, db: sqlite3.Connection) -> Recovered:
        try:
            # Exclusive: a second broker on the same directory is refused, not mixed in.
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise DataError(
                    f"The broker's database {self._path} has version {version}, and this "
                    f"cep knows only {SCHEMA_VERSION}. Start the newer cep that made it."
                )
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute(f"PRAGMA journal_size_limit = {64 << 20}")
            if version == 0:
                db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = 1; COMMIT")
            return self._recover(db)
        except sqlite3.OperationalError as exc:
            raise Unavailable(
                f"The broker's database {self._path} cannot be opened: {exc}. "
                "Is another hub running with this state directory?"
            ) from exc
        except sqlite3.DatabaseError as exc:
            raise DataError(f"The broker's database {self._path} is damaged: {exc}.") from exc

    def _recover(self, db: sqlite3.Connection) -> Recovered:
        db.execute("BEGIN IMMEDIATE")
        clean = db.execute("SELECT clean FROM state").fetchone()[0]
        db.execute("DELETE FROM messages WHERE queue NOT IN (SELECT id FROM queues)")
        db.execute("UPDATE state SET clean = 0")
        if not clean:
            # Which ones had been delivered is not known: say redelivered of all.
            db.execute("UPDATE messages SET redelivered = 1 WHERE redelivered = 0")
        db.execute("COMMIT")
        select = "SELECT seq, queue, redelivered, route, properties, length(body) FROM messages"
        return Recovered(
            exchanges=[name for (name,) in db.execute("SELECT name FROM exchanges")],
            queues=[
                StoredQueue(number, name, bool(auto_delete))
                for number, name, auto_delete in db.execute("SELECT * FROM queues")
            ],
            bindings=list(db.execute("SELECT * FROM bindings")),
            messages=[
                StoredMessage(seq, queue, bool(redelivered), route, properties, size)
                for seq, queue, redelivered, route, properties, size in db.execute(
                    select + " ORDER BY seq"
                )
            ],
        )

    def _write(self, batch: _Batch) -> sqlite3.Error | None:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            for sql, values, _done in batch.changes:
                db.execute(sql, values)
            insert = "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)"
            db.executemany(insert, (row for row, _done in batch.puts.values()))
            delete = "DELETE FROM messages WHERE seq = ?"
            db.executemany(delete, ((seq,) for seq in batch.deletes))
            db.execute("COMMIT")
        except sqlite3.Error as exc:
            if db.in_transaction:
                db.execute("ROLLBACK")
            return exc
        return None

    def _load(self, seqs: list[int]) -> dict[int, bytes] | None:
        select = "SELECT body FROM messages WHERE seq = ?"
        try:
            rows = ((seq, self._db.execute(select, (seq,)).fetchone()) for seq in seqs)
            return {seq: row[0] for seq, row in rows if row is not None}
        except sqlite3.Error as exc:
            log.error("The broker cannot read: %s", exc, extra={"event": "broker.store"})
            return None

    def _close(self) -> None:
        self._db.execute("PRAGMA incremental_vacuum")
        self._db.close()
