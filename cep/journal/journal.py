"""The journal: what the endpoint has promised, durable until the broker has confirmed.

A task is accepted (`tasks`), given to an engine (`marks`), finished (its row in `tasks` makes room
for one in `results`), and settled (only a tombstone of its id is left, and not even that once the
broker has surely processed the ack). Every change is first buffered; `commit` writes all that is
buffered in one transaction and flushes it. Everything here runs on one thread, the agent's main
thread, and blocks for the disk only in `open`, `commit`, `compact`, `close`, and in `load` and
`result` for bodies that are not in memory.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cep.errors import CepError, DataError, SoftwareError
from cep.journal import crash, faults, schema, store
from cep.journal.batch import Batch
from cep.journal.bodies import FILE_THRESHOLD, RESULT, TASK, BodyFiles
from cep.journal.cache import CACHE_BYTES, BodyCache, Budget
from cep.journal.report import JournalCounts, Recovered, Unfinished
from cep.journal.tombstones import (
    KEEP_S,
    LIMIT,
    SWEEP_PERIOD_S,
    AckLedger,
    SettledClock,
    boot_seconds,
)
from cep.model import Task

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


@dataclass(slots=True)
class _Live:
    """A task that is unfinished or unsent."""

    key: bytes
    size: int  # of the task's body, and from `finish` on of the result
    committed: bool = False  # a row stands on disk, in whichever state
    attempts: int = 0
    given: bool = False
    finished: bool = False
    ack_on_its_way: bool = False
    ack_proven: bool = False
    damaged: bool = False


class Journal:
    """Accepted tasks and unsent results of one endpoint. Build with `open`; close with `close`."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        db: Path,
        bodies: BodyFiles,
        *,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = boot_seconds,
        cache_bytes: int = CACHE_BYTES,
        tombstone_limit: int = LIMIT,
    ) -> None:
        self._connection = connection
        self._db = db
        self._bodies = bodies
        self._tombstone_limit = tombstone_limit
        self._ids: dict[bytes, int] = {}  # of everything known, tombstones included
        self._live: dict[int, _Live] = {}
        self._young: dict[int, bytes] = {}  # tombstones whose channel still stands
        self._acks = AckLedger()
        self._batch = Batch()
        budget = Budget(cache_bytes)
        self._tasks: BodyCache[Task] = BodyCache(budget)
        self._results: BodyCache[bytes] = BodyCache(budget)
        self._unfinished = 0
        self._unfinished_bytes = 0
        self._uncompacted = True
        self._clock = SettledClock(store.newest_tombstone(connection), wall, elapsed)
        self._next_sweep = self._clock.now()
        self._next_seq = store.seq_limit(connection)
        self._seq_limit = self._next_seq

    @classmethod
    def open(
        cls,
        db: Path,
        bodies: Path,
        *,
        wall: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = boot_seconds,
        cache_bytes: int = CACHE_BYTES,
        tombstone_limit: int = LIMIT,
    ) -> Journal:
        """Open the journal, or make a new one; remove body files that no row names.

        Args:
            db: The database file.
            bodies: The directory for large bodies.
            wall: Seconds since 1970; a test's clock.
            elapsed: Seconds on a clock that nobody sets; a test's clock.
            cache_bytes: The most memory that bodies may take between commit and use.
            tombstone_limit: The most tombstones that are kept.

        Raises:
            JournalError: It is corrupt, foreign or of a newer version; it was left as it was.
            AlreadyRunning: Another process has it open.
            DiskUnfit: The disk is full, read-only or broken.
        """
        files = BodyFiles(bodies)
        connection = schema.open_database(db)
        try:
            files.prepare()
            journal = cls(
                connection,
                db,
                files,
                wall=wall,
                elapsed=elapsed,
                cache_bytes=cache_bytes,
                tombstone_limit=tombstone_limit,
            )
            journal._read_all()
        except sqlite3.Error as exc:
            connection.close()
            raise faults.from_sqlite(exc, db) from exc
        except CepError:
            connection.close()
            raise
        return journal

    # --- what is in it --------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Return what an earlier life left; call it once, before anything is accepted.

        Raises:
            JournalError: The database cannot be read.
        """
        functions = dict(self._ask(store.function_ids))
        unfinished = []
        unsent = []
        damaged = []
        for seq, live in self._live.items():
            if live.damaged:
                damaged.append((seq, _text(live.key)))
            elif live.finished:
                unsent.append((seq, live.size))
            else:
                unfinished.append(
                    Unfinished(
                        seq=seq,
                        task_id=_text(live.key),
                        function_id=functions[seq],
                        size=live.size,
                        attempts=live.attempts,
                        given=live.given,
                    )
                )
        unfinished.sort(key=lambda task: task.seq)
        unsent.sort()
        return Recovered(unfinished, unsent, self._tombstone_count(), damaged)

    def knows(self, task_id: str) -> bool:
        """Whether this task is unfinished, unsent, or answered and still remembered."""
        return self.seq_of(task_id) is not None

    def seq_of(self, task_id: str) -> int | None:
        """Return the sequence number of a known task, or None.

        A delivery of a known task is acked and not run; `ack_sent` with this number lets its
        tombstone go when that second ack is proven.
        """
        key = _key(task_id)
        return None if key is None else self._ids.get(key)

    def counts(self) -> JournalCounts:
        """Return how much is in the journal; costs two `stat` calls."""
        file_bytes = self._bodies.total_bytes
        for file in (self._db, self._db.with_name(self._db.name + "-wal")):
            with suppress(OSError):
                file_bytes += file.stat().st_size
        return JournalCounts(
            unfinished=self._unfinished,
            unsent=len(self._live) - self._unfinished,
            tombstones=self._tombstone_count(),
            unfinished_bytes=self._unfinished_bytes,
            file_bytes=file_bytes,
        )

    def load(self, seqs: Sequence[int]) -> list[Task]:
        """Return tasks with their bodies, in the order asked for.

        Raises:
            SoftwareError: One of them is not an unfinished task.
            JournalError: A body cannot be read.
            DiskUnfit: The disk is broken.
        """
        return [self._load_one(seq) for seq in seqs]

    def result(self, seq: int) -> bytes:
        """Return an unsent result.

        Raises:
            SoftwareError: There is none of this number.
            JournalError: It cannot be read.
            DiskUnfit: The disk is broken.
        """
        result = self._results.take(seq)
        if result is not None:
            return result
        buffered = self._batch.results.get(seq)
        if buffered is not None:
            return buffered[1]
        row = self._ask(lambda connection: store.read_result(connection, seq))
        if row is None:
            raise SoftwareError(f"The journal has no unsent result of number {seq}.")
        size, body = row
        return self._bodies.read(seq, RESULT, size) if body is None else body

    # --- changes, buffered until `commit` -------------------------------------------------------

    def accept(
        self,
        task_id: str,
        function_id: str,
        body: bytes,
        resource_specification: str | None = None,
        result_serializers: Sequence[str] = (),
    ) -> int:
        """Take a task in and return its sequence number; `knows` it at once.

        Raises:
            DataError: The task id is not a UUID.
            SoftwareError: The task is known already.
        """
        seq, live = self._enter(task_id, len(body))
        self._unfinished += 1
        self._unfinished_bytes += live.size
        self._batch.accepted[seq] = Task(
            seq=seq,
            task_id=task_id,
            function_id=function_id,
            body=body,
            resource_specification=resource_specification,
            result_serializers=tuple(result_serializers),
        )
        return seq

    def accept_finished(self, task_id: str, result: bytes) -> int:
        """Take in a task that was refused at intake: all there is of it is its error result.

        Raises:
            DataError: The task id is not a UUID.
            SoftwareError: The task is known already.
        """
        seq, live = self._enter(task_id, len(result))
        live.finished = True
        self._batch.results[seq] = (live.key, result)
        return seq

    def give(self, seqs: Iterable[int]) -> None:
        """Mark tasks as handed to an engine; commit before they really are.

        Raises:
            SoftwareError: One of them is not an unfinished task.
        """
        for seq in seqs:
            live = self._unfinished_of(seq)
            live.attempts += 1
            live.given = True
            self._batch.marks[seq] = (live.attempts, True)

    def ungive(self, seqs: Iterable[int]) -> None:
        """Mark tasks as handed back untouched: this attempt does not count.

        Raises:
            SoftwareError: One of them is not an unfinished task.
        """
        for seq in seqs:
            live = self._unfinished_of(seq)
            live.attempts = max(0, live.attempts - 1)
            live.given = False
            self._batch.marks[seq] = (live.attempts, False)

    def finish(self, seq: int, result: bytes) -> None:
        """Put a task's result in its place. Commit before the result is published.

        A second result of the same task is dropped: each task has exactly one answer.

        Raises:
            SoftwareError: The journal knows no task of this number.
        """
        live = self._live.get(seq)
        if live is None or (live.finished and not live.damaged):
            if live is None and seq >= self._next_seq:
                raise SoftwareError(f"The journal never had a task of number {seq}.")
            log.warning(
                "Dropped a second result of task number %s",
                seq,
                extra={"event": "journal.second_result"},
            )
            return
        if live.finished:
            self._batch.settled.append(seq)  # the row of a damaged result makes room
        else:
            self._unfinished -= 1
            self._unfinished_bytes -= live.size
            if self._batch.accepted.pop(seq, None) is None:
                self._batch.finished.append(seq)
        self._batch.marks.pop(seq, None)
        self._tasks.take(seq)
        live.finished = True
        live.damaged = False
        live.size = len(result)
        self._batch.results[seq] = (live.key, result)

    def settle(self, seqs: Iterable[int]) -> None:
        """The broker has confirmed these results: their bodies go, a tombstone may stay.

        Numbers that are settled already are ignored.

        Raises:
            SoftwareError: One of them has no result yet.
        """
        now = self._clock.now()
        for seq in seqs:
            live = self._live.get(seq)
            if live is None:
                continue
            if not live.finished:
                raise SoftwareError(f"Task number {seq} was settled before it had a result.")
            del self._live[seq]
            self._results.take(seq)
            if self._batch.results.pop(seq, None) is None:
                self._batch.settled.append(seq)
            if live.ack_proven:
                del self._ids[live.key]
            else:
                self._batch.tombstones[seq] = (live.key, now)
                if live.ack_on_its_way:
                    self._young[seq] = live.key

    def discard(self, seqs: Iterable[int]) -> None:
        """Forget tasks that were accepted and not committed; they go back to the broker.

        Numbers that are committed, or unknown, are left alone.
        """
        for seq in seqs:
            live = self._live.get(seq)
            if live is None or live.committed:
                continue
            if not live.finished:
                self._unfinished -= 1
                self._unfinished_bytes -= live.size
            del self._live[seq]
            del self._ids[live.key]
            self._batch.accepted.pop(seq, None)
            self._batch.marks.pop(seq, None)
            self._batch.results.pop(seq, None)

    # --- acks and tombstones --------------------------------------------------------------------

    def ack_sent(self, seqs: Sequence[int], epoch: int, mark: int) -> None:
        """The deliveries of these tasks were acked on channel `epoch`, before probe `mark`."""
        self._acks.sent(seqs, epoch, mark)
        for seq in seqs:
            live = self._live.get(seq)
            if live is not None:
                live.ack_on_its_way = True

    def acks_processed(self, epoch: int, mark: int) -> None:
        """The broker answered probe `mark` on channel `epoch`: the acks before it are proven.

        Raises:
            JournalError: The database cannot be read.
        """
        for seq in self._acks.processed(epoch, mark):
            live = self._live.get(seq)
            if live is not None:
                live.ack_proven = True
            else:
                self._drop_tombstone(seq)

    def channel_lost(self, epoch: int) -> None:
        """Channel `epoch` is gone: the acks on it that are not proven never will be."""
        for seq in self._acks.lost(epoch):
            self._young.pop(seq, None)
            live = self._live.get(seq)
            if live is not None:
                live.ack_on_its_way = False

    # --- the disk -------------------------------------------------------------------------------

    def commit(self) -> bool:
        """Write everything that is buffered in one transaction and flush it.

        Returns:
            False when nothing was buffered.

        Raises:
            DiskUnfit: The disk is full, read-only or broken. Everything stays buffered: call
                again later, or `discard` the tasks that can go back to the broker.
            JournalError: The database is corrupt.
        """
        self._remove_old_tombstones()
        batch = self._batch
        kinds = batch.kinds()
        if not kinds:
            return False
        for kind in kinds:
            crash.reach(f"{kind}-before-commit")
        written: list[tuple[int, str]] = []
        try:
            self._write_bodies(batch, written)
            self._write_rows(batch)
        except OSError as exc:
            self._take_back(written)
            raise faults.from_os(exc, self._db) from exc
        except sqlite3.Error as exc:
            self._take_back(written)
            raise faults.from_sqlite(exc, self._db) from exc
        self._batch = Batch()
        self._uncompacted = True
        for kind in kinds:
            crash.reach(f"{kind}-committed")
        self._remember(batch)
        self._remove_bodies(batch, written)
        return True

    def compact(self) -> None:
        """Give free space back to the file system; call it when idle. Does nothing twice.

        Raises:
            DiskUnfit: The disk is broken.
            JournalError: The database is corrupt.
        """
        if not self._uncompacted:
            return
        self._uncompacted = self._ask(store.shrink)

    def close(self) -> None:
        """Commit what is buffered, if the disk allows, and close the files."""
        try:
            self.commit()
            with suppress(sqlite3.Error):
                store.keep_seq_limit(self._connection, self._next_seq)
            self.compact()
        finally:
            with suppress(sqlite3.Error):
                self._connection.close()

    # --- inner parts ----------------------------------------------------------------------------

    def _read_all(self) -> None:
        """Fill the memory from the database."""
        named: dict[tuple[int, str], int] = {}
        for seq, key, size, filed, attempts, given in store.all_tasks(self._connection):
            self._ids[key] = seq
            self._live[seq] = _Live(
                key, size, committed=True, attempts=attempts or 0, given=bool(given)
            )
            self._unfinished += 1
            self._unfinished_bytes += size
            if filed:
                named[seq, TASK] = size
        for seq, key, size, filed in store.all_results(self._connection):
            self._ids[key] = seq
            self._live[seq] = _Live(key, size, committed=True, finished=True)
            if filed:
                named[seq, RESULT] = size
        for seq, key in store.all_tombstones(self._connection):
            self._ids[key] = seq
        for seq, _ in self._bodies.sweep(named):
            self._live[seq].damaged = True
            log.error(
                "The body of task number %s is gone from disk",
                seq,
                extra={"event": "journal.body_lost"},
            )

    def _enter(self, task_id: str, size: int) -> tuple[int, _Live]:
        key = _key(task_id)
        if key is None:
            raise DataError(f"The task id {task_id!r} is not a UUID.")
        if key in self._ids:
            raise SoftwareError(f"Task {task_id} is in the journal already.")
        seq = self._next_seq
        self._next_seq = seq + 1
        live = _Live(key, size)
        self._ids[key] = seq
        self._live[seq] = live
        return seq, live

    def _unfinished_of(self, seq: int) -> _Live:
        live = self._live.get(seq)
        if live is None or live.finished:
            raise SoftwareError(f"The journal has no unfinished task of number {seq}.")
        return live

    def _load_one(self, seq: int) -> Task:
        task = self._tasks.take(seq) or self._batch.accepted.get(seq)
        if task is not None:
            return task
        live = self._unfinished_of(seq)
        row = self._ask(lambda connection: store.read_task(connection, seq))
        if row is None:
            raise SoftwareError(f"The journal has no unfinished task of number {seq}.")
        function_id, specification, serializers, size, body = row
        return Task(
            seq=seq,
            task_id=_text(live.key),
            function_id=function_id,
            body=self._bodies.read(seq, TASK, size) if body is None else body,
            resource_specification=specification,
            result_serializers=() if serializers is None else tuple(json.loads(serializers)),
        )

    def _tombstone_count(self) -> int:
        return len(self._ids) - len(self._live)

    def _drop_tombstone(self, seq: int) -> None:
        """Forget an answered task, its ack being proven."""
        buffered = self._batch.tombstones.pop(seq, None)
        key = self._young.pop(seq, None)
        if buffered is not None:
            key = buffered[0]
        else:
            if key is None:  # from an earlier life or channel, acked a second time
                key = self._ask(lambda connection: store.tombstone(connection, seq))
            if key is None:
                return
            self._batch.dropped.append(seq)
        self._ids.pop(key, None)

    def _remove_old_tombstones(self) -> None:
        """Buffer the end of tombstones that are too old or too many."""
        now = self._clock.now()
        gone: list[tuple[int, bytes]] = []
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_PERIOD_S
            old = self._ask(lambda connection: store.old_tombstones(connection, now - KEEP_S))
            gone = [row for row in old if row[0] not in self._young]
        excess = self._tombstone_count() - self._tombstone_limit - len(gone)
        if excess > 0:  # some more than must go, so that the next commit need not look again
            count = len(gone) + excess + self._tombstone_limit // 100
            gone += self._ask(lambda connection: store.first_tombstones(connection, count))
        for seq, key in gone:
            if self._ids.get(key) == seq:
                del self._ids[key]
                self._young.pop(seq, None)
                self._batch.dropped.append(seq)

    def _write_bodies(self, batch: Batch, written: list[tuple[int, str]]) -> None:
        """Write the large bodies; `written` also names one that failed half-way."""
        for seq, task in batch.accepted.items():
            if len(task.body) > FILE_THRESHOLD:
                written.append((seq, TASK))
                self._bodies.write(seq, TASK, task.body)
        for seq, (_, result) in batch.results.items():
            if len(result) > FILE_THRESHOLD:
                written.append((seq, RESULT))
                self._bodies.write(seq, RESULT, result)
        if written:
            self._bodies.sync()
            crash.reach("bodies-written")

    def _write_rows(self, batch: Batch) -> None:
        connection = self._connection
        live = self._live

        def unfinished(seq: int) -> bool:
            entry = live.get(seq)
            return entry is not None and not entry.finished

        def unsent(seq: int) -> bool:
            entry = live.get(seq)
            return entry is not None and entry.finished

        limit = store.next_limit(self._next_seq, self._seq_limit)
        connection.execute("BEGIN IMMEDIATE")
        if limit is not None:
            store.keep_seq_limit(connection, limit)
        # Rows that go first: a damaged result is replaced under its own number.
        store.delete_results(connection, store.runs(batch.settled, unsent))
        store.delete_tasks(connection, store.runs(batch.finished, unfinished))
        store.delete_tombstones(connection, store.runs(batch.dropped, unsent, gap=1))
        store.insert_tasks(connection, batch.accepted.values())
        store.insert_marks(connection, batch.marks)
        store.insert_results(connection, batch.results)
        store.insert_tombstones(connection, batch.tombstones)
        crash.reach("rows-written")
        connection.execute("COMMIT")
        if limit is not None:
            self._seq_limit = limit

    def _take_back(self, written: Iterable[tuple[int, str]]) -> None:
        """After a failed commit: the disk as before, the buffers as they are."""
        if self._connection.in_transaction:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
        for seq, kind in written:
            self._bodies.remove(seq, kind)

    def _remember(self, batch: Batch) -> None:
        """Keep small bodies for their first use, and note what is on disk now."""
        for seq, task in batch.accepted.items():
            self._live[seq].committed = True
            if len(task.body) <= FILE_THRESHOLD:
                self._tasks.put(seq, task, len(task.body))
        for seq, (_, result) in batch.results.items():
            self._live[seq].committed = True
            if len(result) <= FILE_THRESHOLD:
                self._results.put(seq, result, len(result))

    def _remove_bodies(self, batch: Batch, written: Iterable[tuple[int, str]]) -> None:
        fresh = set(written)
        gone = [(seq, TASK) for seq in batch.finished]
        gone += [(seq, RESULT) for seq in batch.settled]
        removed = False
        for seq, kind in gone:
            if (seq, kind) not in fresh and self._bodies.holds(seq, kind):
                self._bodies.remove(seq, kind)
                removed = True
        if removed:
            crash.reach("bodies-removed")

    def _ask(self, question: Callable[[sqlite3.Connection], _Answer]) -> _Answer:
        try:
            return question(self._connection)
        except sqlite3.Error as exc:
            raise faults.from_sqlite(exc, self._db) from exc


def _key(task_id: str) -> bytes | None:
    """Return the 16 bytes of a UUID, or None when the text is not one."""
    try:
        key = bytes.fromhex(task_id.replace("-", ""))
    except ValueError:
        return None
    return key if len(key) == 16 else None


def _text(key: bytes) -> str:
    """Return the canonical text of 16 bytes: the opposite of `_key`."""
    digits = key.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
