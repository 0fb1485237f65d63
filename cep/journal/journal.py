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
from pathlib import Path

from cep.errors import CepError, DiskUnfit, JournalError, SoftwareError
from cep.journal import faults, schema, store
from cep.journal.batch import Batch
from cep.journal.bodies import FILE_THRESHOLD, RESULT, TASK, BodyFiles
from cep.journal.cache import CACHE_BYTES, BodyCache, Budget
from cep.journal.memory import Live, Memory, key_of, text_of
from cep.journal.reopening import compare
from cep.journal.report import JournalCounts, Recovered, Unfinished
from cep.journal.tombstones import LIMIT, SettledClock, Tombstones, boot_seconds
from cep.journal.writer import Writer
from cep.model import Task

log = logging.getLogger(__name__)


class Journal:
    """Accepted tasks and unsent results of one endpoint. Build with `open`; close with `close`."""

    def __init__(
        self, writer: Writer, clock: SettledClock, *, cache_bytes: int, tombstone_limit: int
    ) -> None:
        budget = Budget(cache_bytes)
        self._writer = writer
        self._memory = Memory(writer.seq_limit)
        self._tombstones = Tombstones(self._memory, writer, clock, tombstone_limit)
        self._batch = Batch()
        self._tasks: BodyCache[Task] = BodyCache(budget)  # committed, with their bodies
        self._results: BodyCache[bytes] = BodyCache(budget)
        self._compactable = True

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
        connection = schema.open_database(db)
        try:
            files = BodyFiles(bodies)
            files.prepare()
            newest = store.newest_tombstone(connection)
            journal = cls(
                Writer(connection, db, files),
                SettledClock(newest, wall, elapsed),
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

    def claim(self, endpoint_id: str) -> None:
        """Make sure that the tasks in it are this endpoint's; an empty journal becomes its own.

        Raises:
            JournalError: It holds tasks or results of another endpoint.
            DiskUnfit: The disk is full, read-only or broken.
        """
        owner = self._writer.ask(store.owner)
        if owner == endpoint_id:
            return
        counts = self.counts()
        if owner is not None and counts.unfinished + counts.unsent:
            raise JournalError(
                f"The journal {self._writer.db} holds {counts.unfinished} tasks and "
                f"{counts.unsent} results of endpoint {owner}, and this is endpoint {endpoint_id}.",
                hint="Give each endpoint a state_dir of its own, or start that one to finish them.",
            )
        self._writer.ask(lambda connection: store.set_owner(connection, endpoint_id))

    # --- what is in it --------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Return what an earlier life left; call it once, before anything is accepted.

        Raises:
            JournalError: The database cannot be read.
        """
        functions = dict(self._writer.ask(store.function_ids))
        unfinished = []
        unsent = []
        damaged = []
        for seq, live in self._memory.live.items():
            if live.damaged:
                damaged.append((seq, text_of(live.key)))
            elif live.finished:
                unsent.append((seq, live.size))
            else:
                unfinished.append(
                    Unfinished(
                        seq=seq,
                        task_id=text_of(live.key),
                        function_id=functions[seq],
                        size=live.size,
                        attempts=live.attempts,
                        given=live.given,
                    )
                )
        unfinished.sort(key=lambda task: task.seq)
        unsent.sort()
        return Recovered(unfinished, unsent, self._memory.tombstones, damaged)

    def knows(self, task_id: str) -> bool:
        """Whether this task is unfinished, unsent, or answered and still remembered."""
        return self.knows_key(key_of(task_id))

    def knows_key(self, key: bytes | None) -> bool:
        """The same for the 16 bytes of an id (`cep.journal.memory.key_of`)."""
        return key in self._memory.ids

    def seq_of(self, task_id: str) -> int | None:
        """Return the sequence number of a known task, or None.

        A delivery of a known task is acked and not run; `ack_sent` with this number lets its
        tombstone go when that second ack is proven.
        """
        key = key_of(task_id)
        return None if key is None else self._memory.ids.get(key)

    def live_keys(self) -> frozenset[bytes]:
        """The 16 bytes of the id of each task that is unfinished or unsent."""
        return frozenset(live.key for live in self._memory.live.values())

    def counts(self) -> JournalCounts:
        """Return how much is in the journal; costs two `stat` calls."""
        memory = self._memory
        return JournalCounts(
            unfinished=memory.unfinished,
            unsent=len(memory.live) - memory.unfinished,
            tombstones=memory.tombstones,
            unfinished_bytes=memory.unfinished_bytes,
            file_bytes=self._writer.file_bytes(),
        )

    def load(self, seq: int) -> Task:
        """Return a task with its body.

        Raises:
            SoftwareError: It is not an unfinished task.
            BodyLost: The body's file is gone or cut.
            DiskUnfit: The disk is broken.
        """
        task = self._tasks.take(seq) or self._batch.accepted.get(seq)
        return self._read_task(seq) if task is None else task

    def result(self, seq: int) -> bytes:
        """Return an unsent result.

        Raises:
            SoftwareError: There is none of this number.
            BodyLost: Its file is gone or cut.
            DiskUnfit: The disk is broken.
        """
        result = self._results.take(seq)
        if result is not None:
            return result
        buffered = self._batch.results.get(seq)
        if buffered is not None:
            return buffered[1]
        row = self._writer.ask(lambda db: store.read_result(db, seq))
        if row is None:
            raise SoftwareError(f"The journal has no unsent result of number {seq}.")
        size, body = row
        return self._writer.bodies.read(seq, RESULT, size) if body is None else body

    # --- changes, buffered until `commit` -------------------------------------------------------

    def accept(
        self,
        task_id: str,
        function_id: str,
        body: bytes,
        resource_specification: str | None = None,
        result_serializers: Sequence[str] = (),
        *,
        key: bytes | None = None,
    ) -> int:
        """Take a task in and return its sequence number; `knows` it at once.

        Args:
            task_id: UUID text.
            function_id: UUID text.
            body: The message.
            resource_specification: See `cep.model.Task`.
            result_serializers: See `cep.model.Task`.
            key: The 16 bytes of the task's id, from who has them already.

        Raises:
            DataError: The task id is not a UUID.
            SoftwareError: The task is known already.
        """
        seq, _ = self._memory.enter(task_id, len(body), finished=False, key=key)
        self._batch.accepted[seq] = Task(
            seq, task_id, function_id, body, resource_specification, tuple(result_serializers)
        )
        return seq

    def accept_finished(self, task_id: str, result: bytes) -> int:
        """Take in a task that was refused at intake: all there is of it is its error result.

        Raises:
            DataError: The task id is not a UUID.
            SoftwareError: The task is known already.
        """
        seq, live = self._memory.enter(task_id, len(result), finished=True)
        self._batch.results[seq] = (live.key, result)
        return seq

    def give(self, seqs: Iterable[int]) -> None:
        """Mark tasks as handed to an engine; commit before they really are.

        Raises:
            SoftwareError: One of them is not an unfinished task.
        """
        for seq in seqs:
            live = self._memory.unfinished_task(seq)
            live.attempts += 1
            live.given = True
            self._batch.marks[seq] = (live.attempts, True)

    def ungive(self, seqs: Iterable[int]) -> None:
        """Mark tasks as handed back untouched: this attempt does not count.

        Raises:
            SoftwareError: One of them is not an unfinished task.
        """
        for seq in seqs:
            live = self._memory.unfinished_task(seq)
            live.attempts = max(0, live.attempts - 1)
            live.given = False
            self._batch.marks[seq] = (live.attempts, False)

    def finish(self, seq: int, result: bytes) -> None:
        """Put a task's result in its place. Commit before the result is published.

        A second result of the same task is dropped: each task has exactly one answer.

        Raises:
            SoftwareError: The journal knows no task of this number.
        """
        live = self._memory.live.get(seq)
        if live is None and seq >= self._memory.next_seq:
            raise SoftwareError(f"The journal never had a task of number {seq}.")
        if live is None or (live.finished and not live.damaged):
            log.warning(
                "dropped a second result of task number %s",
                seq,
                extra={"event": "journal.second_result"},
            )
            return
        batch = self._batch
        if live.finished:
            batch.settled.append(seq)  # the row of the damaged result makes room
        elif batch.accepted.pop(seq, None) is None:
            batch.finished.append(seq)
        batch.marks.pop(seq, None)
        self._tasks.take(seq)
        self._memory.finish(live, len(result))
        batch.results[seq] = (live.key, result)

    def damage(self, seq: int) -> str:
        """Note that the body of this unsent result is lost: `finish` may then give another one.

        Returns:
            The task's id.
        """
        live = self._memory.live[seq]
        live.damaged = True
        return text_of(live.key)

    def settle(self, seqs: Iterable[int]) -> None:
        """The broker has confirmed these results: their bodies go, a tombstone may stay.

        Numbers that are settled already are ignored.

        Raises:
            SoftwareError: One of them has no result yet.
        """
        done: list[int] = []
        lives: list[Live] = []
        for seq in seqs:
            live = self._memory.live.get(seq)
            if live is None:
                continue
            if not live.finished:
                raise SoftwareError(f"Task number {seq} was settled before it had a result.")
            del self._memory.live[seq]
            self._results.take(seq)
            if self._batch.results.pop(seq, None) is None:
                self._batch.settled.append(seq)
            done.append(seq)
            lives.append(live)
        self._tombstones.settle(done, lives, self._batch)

    def discard(self, seqs: Iterable[int]) -> None:
        """Forget tasks that were accepted and not committed; they go back to the broker.

        Numbers that are committed, or unknown, are left alone.
        """
        for seq in seqs:
            live = self._memory.live.get(seq)
            if live is None or live.committed:
                continue
            self._memory.forget(seq, live)
            self._batch.accepted.pop(seq, None)
            self._batch.marks.pop(seq, None)
            self._batch.results.pop(seq, None)

    # --- acks and tombstones --------------------------------------------------------------------

    def ack_sent(self, seqs: Sequence[int], epoch: int, mark: int) -> None:
        """The deliveries of these tasks were acked on channel `epoch`, before probe `mark`."""
        self._tombstones.ack_sent(seqs, epoch, mark)

    def acks_processed(self, epoch: int, mark: int) -> None:
        """The broker answered probe `mark` on channel `epoch`: the acks before it are proven.

        Raises:
            JournalError: The database cannot be read.
        """
        self._tombstones.acks_processed(epoch, mark, self._batch)

    def channel_lost(self, epoch: int) -> None:
        """Channel `epoch` is gone: the acks on it that are not proven never will be."""
        self._tombstones.channel_lost(epoch)

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
        self._tombstones.sweep(self._batch)
        batch = self._batch
        if not batch.kinds():
            return False
        self._writer.write(batch, self._memory)
        self._batch = Batch()
        self._compactable = True
        self._remember(batch)
        return True

    def diagnose(self) -> DiskUnfit | None:
        """Ask the disk what is wrong, since SQLite tells a quota from a broken disk by no word."""
        try:
            self._writer.bodies.trial(FILE_THRESHOLD)
        except DiskUnfit as error:
            return error
        return None

    def trial(self, body_bytes: int) -> None:
        """After a `DiskUnfit`: see whether the disk is fit again; open the files anew if need be.

        Args:
            body_bytes: The size of a body that there must be room for.

        Raises:
            DiskUnfit: Not yet.
            AlreadyRunning: Another process has the journal open now.
            JournalError: The database is corrupt, or is not the one it was.
        """
        if self._writer.trial(body_bytes):
            ask = self._writer.ask
            compare(ask(store.task_seqs), ask(store.result_seqs), self._memory, self._batch)

    def compact(self) -> None:
        """Give free space back to the file system; call it when idle. Does nothing twice.

        Raises:
            DiskUnfit: The disk is broken.
            JournalError: The database is corrupt.
        """
        if self._compactable:
            self._compactable = self._writer.ask(store.shrink)

    def close(self) -> None:
        """Commit what is buffered, if the disk allows, and close the files."""
        try:
            if self._writer.in_doubt:  # the disk may be well again by now
                self.trial(FILE_THRESHOLD)
            self.commit()
            self.compact()
        finally:
            self._writer.close(self._memory.next_seq)

    # --- inner parts ----------------------------------------------------------------------------

    def _read_all(self) -> None:
        """Fill the memory from the database."""
        named: dict[tuple[int, str], int] = {}
        ask = self._writer.ask
        for seq, key, size, filed, attempts, given in ask(store.all_tasks):
            live = Live(key, size, committed=True, attempts=attempts, given=bool(given))
            self._memory.restore(seq, live)
            if filed:
                named[seq, TASK] = size
        for seq, key, size, filed in ask(store.all_results):
            self._memory.restore(seq, Live(key, size, committed=True, finished=True))
            if filed:
                named[seq, RESULT] = size
        for seq, key in ask(store.all_tombstones):
            self._memory.ids[key] = seq
        for seq, _ in self._writer.bodies.sweep(named):
            self._memory.live[seq].damaged = True
            log.error(
                "the body of task number %s is gone from disk",
                seq,
                extra={"event": "journal.body_lost"},
            )

    def _read_task(self, seq: int) -> Task:
        live = self._memory.unfinished_task(seq)
        row = self._writer.ask(lambda db: store.read_task(db, seq))
        if row is None:
            raise SoftwareError(f"The journal has no unfinished task of number {seq}.")
        function_id, specification, serializers, size, body = row
        return Task(
            seq=seq,
            task_id=text_of(live.key),
            function_id=function_id,
            body=self._writer.bodies.read(seq, TASK, size) if body is None else body,
            resource_specification=specification,
            result_serializers=() if serializers is None else tuple(json.loads(serializers)),
        )

    def _remember(self, batch: Batch) -> None:
        """Keep bodies for their first use, and note what is on disk now."""
        live = self._memory.live
        for seq, task in batch.accepted.items():
            live[seq].committed = True
            self._tasks.put(seq, task, len(task.body))
        for seq, (_, result) in batch.results.items():
            live[seq].committed = True
            self._results.put(seq, result, len(result))
