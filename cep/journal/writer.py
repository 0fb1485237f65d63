"""Put a batch on disk: body files first, then all rows in one transaction, then old files away.

Owns the connection and the body files; runs on the agent's main thread. Whatever fails, the disk
is as it was before, and the batch can be written again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cep.errors import CepError, DiskUnfit
from cep.journal import crash, faults, schema, store
from cep.journal.batch import Batch
from cep.journal.bodies import FILE_THRESHOLD, RESULT, TASK, BodyFiles
from cep.journal.memory import Memory

Answer = TypeVar("Answer")


class Writer:
    """The disk side of one journal.

    Args:
        connection: The opened database.
        db: Its path.
        bodies: The large bodies.
    """

    def __init__(self, connection: sqlite3.Connection, db: Path, bodies: BodyFiles) -> None:
        self._connection = connection
        self.in_doubt = False  # a failed write was seen: the open database is used no more
        self.db = db
        self.bodies = bodies
        self._seq_limit = self.ask(store.seq_limit)

    @property
    def seq_limit(self) -> int:
        """No task of this number or above is on disk."""
        return self._seq_limit

    def write(self, batch: Batch, memory: Memory) -> None:
        """Write and flush a batch.

        Raises:
            DiskUnfit: The disk is full, read-only or broken.
            JournalError: The database is corrupt.
        """
        self._refuse_doubt()
        kinds = batch.kinds()
        for kind in kinds:
            crash.reach(f"{kind}-before-commit")
        written: list[tuple[int, str]] = []
        try:
            self._write_bodies(batch, written)
            self._write_rows(batch, memory)
        except OSError as exc:
            self._take_back(written)
            raise faults.from_os(exc, self.db) from exc
        except sqlite3.Error as exc:
            self._take_back(written)
            raise self._complaint(exc) from exc
        except BaseException:  # a stop signal: perhaps after COMMIT, so the files must stay
            self._take_back(())
            raise
        for kind in kinds:
            crash.reach(f"{kind}-committed")
        self._remove_bodies(batch, written)

    def ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Ask the database something.

        Raises:
            DiskUnfit: The disk is broken.
            JournalError: The database is corrupt.
        """
        self._refuse_doubt()
        try:
            return question(self._connection)
        except sqlite3.Error as exc:
            raise self._complaint(exc) from exc

    def trial(self, body_bytes: int) -> bool:
        """See whether the disk does again what a commit needs; after an error in doubt, reopen.

        Args:
            body_bytes: The size of a body that there must be room for.

        Returns:
            Whether the database was opened anew: then its rows are to be compared with memory.

        Raises:
            DiskUnfit: The disk is still full, read-only or broken.
            AlreadyRunning: Another process has the journal open now.
            JournalError: The database is corrupt.
        """
        self.bodies.trial(body_bytes)
        reopened = self.in_doubt
        if reopened:
            self.abandon()
            self._connection = schema.open_database(self.db)
            self.in_doubt = False
            self._seq_limit = self.ask(store.seq_limit)
        try:
            self.ask(store.write_counter)
        except CepError:
            self._roll_back()
            raise
        return reopened

    def file_bytes(self) -> int:
        """Return what the journal takes on disk."""
        total = self.bodies.total_bytes
        for file in (self.db, self.db.with_name(self.db.name + "-wal")):
            with suppress(OSError):
                total += file.stat().st_size
        return total

    def close(self, next_seq: int) -> None:
        """Note where the numbers go on, and close the database."""
        with suppress(sqlite3.Error):
            if next_seq < self._seq_limit:
                store.keep_seq_limit(self._connection, next_seq)
        self.bodies.close()
        self.abandon()

    def abandon(self) -> None:
        """Close the database and nothing else."""
        with suppress(sqlite3.Error):
            self._connection.close()

    def _write_bodies(self, batch: Batch, written: list[tuple[int, str]]) -> None:
        """Write the large bodies; `written` names them before, for one may fail half-way."""
        large = [
            (seq, TASK, task.body)
            for seq, task in batch.accepted.items()
            if len(task.body) > FILE_THRESHOLD
        ]
        large += [
            (seq, RESULT, result)
            for seq, (_, result) in batch.results.items()
            if len(result) > FILE_THRESHOLD
        ]
        written += [(seq, kind) for seq, kind, _ in large]
        self.bodies.write(large)
        if written:
            self.bodies.sync()
            crash.reach("bodies-written")

    def _write_rows(self, batch: Batch, memory: Memory) -> None:
        connection = self._connection
        limit = store.next_limit(memory.next_seq, self._seq_limit)
        connection.execute("BEGIN IMMEDIATE")
        if limit is not None:
            store.keep_seq_limit(connection, limit)
        # What goes, goes first: the damaged result of a task is replaced under the same number.
        if batch.settled:
            store.delete_results(connection, store.runs(batch.settled, memory.is_unsent))
        if batch.finished:
            store.delete_tasks(connection, store.runs(batch.finished, memory.is_unfinished))
        if batch.dropped:
            store.delete_tombstones(connection, store.runs(batch.dropped, memory.is_unsent, gap=1))
        if batch.accepted:
            live = memory.live
            tasks = [(live[seq].key, task) for seq, task in batch.accepted.items()]
            store.insert_tasks(connection, tasks, batch.marks)
        marks = {seq: mark for seq, mark in batch.marks.items() if seq not in batch.accepted}
        if marks:
            store.insert_marks(connection, marks)
        if batch.results:
            store.insert_results(connection, batch.results)
        if batch.tombstones:
            store.insert_tombstones(connection, batch.tombstones)
        crash.reach("rows-written")
        connection.execute("COMMIT")
        if limit is not None:
            self._seq_limit = limit

    def _take_back(self, written: Iterable[tuple[int, str]]) -> None:
        """After a failure: the disk as before."""
        self._roll_back()
        for seq, kind in written:
            self.bodies.remove(seq, kind)

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _complaint(self, exc: sqlite3.Error) -> CepError:
        self.in_doubt = self.in_doubt or faults.leaves_doubt(exc)
        return faults.from_sqlite(exc, self.db)

    def _refuse_doubt(self) -> None:
        """After a failed write an open database may call a sound file malformed: use it no more."""
        if self.in_doubt:
            raise DiskUnfit(
                f"The journal {self.db} could not be written, and waits to be opened again."
            )

    def _remove_bodies(self, batch: Batch, written: list[tuple[int, str]]) -> None:
        if not self.bodies.total_bytes:
            return
        gone = [(seq, TASK) for seq in batch.finished]
        gone += [(seq, RESULT) for seq in batch.settled]
        gone = [one for one in gone if self.bodies.holds(*one) and one not in written]
        if gone:
            self.bodies.remove_soon(gone)
            crash.reach("bodies-removed")
