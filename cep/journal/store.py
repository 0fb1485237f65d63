"""The statements of the journal: rows in, ranges out, and what is asked at start.

Owns no state; every function works on the connection it is given, on the agent's main thread, and
lets SQLite's errors through (the journal converts them). Inserts replace, so that a batch may be
written again by one who was interrupted and does not know whether it was.
"""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from cep.journal import crash
from cep.journal.bodies import FILE_THRESHOLD
from cep.model import Task

# Sequence numbers are promised to disk this many at a time, so that most commits need not write
# the counter; a crash skips at most as many.
SEQ_BLOCK = 4096
VACUUM_PAGES = 4096  # given back per call: 16 MiB, some 20 ms
SPARE_PAGES = 256  # free pages that are kept, 1 MiB: the next burst needs them

# Rows per statement, the largest first. SQLite takes 999 values before 3.32 (limits.html).
_TOGETHER = (64, 16, 4, 1)

_Range = tuple[int, int]
_NEVER_GIVEN = (0, False)
# Most tasks ask for nothing, and were never handed over or are handed over at once: what their rows
# have in common stands in the statement, since each value that is bound costs.
_PLAIN_TASKS = {
    _NEVER_GIVEN: "(?, ?, ?, NULL, NULL, 0, 0, ?, ?)",
    (1, True): "(?, ?, ?, NULL, NULL, 1, 1, ?, ?)",
}


def seq_limit(connection: sqlite3.Connection) -> int:
    """Return the number below which all sequence numbers may have been used."""
    return int(connection.execute("SELECT seq_limit FROM counter").fetchone()[0])


def keep_seq_limit(connection: sqlite3.Connection, limit: int) -> None:
    """Store the number below which all sequence numbers may have been used."""
    connection.execute("UPDATE counter SET seq_limit = ?", (limit,))


def write_counter(connection: sqlite3.Connection) -> None:
    """Write and flush a page that says the same as before: what a commit needs of the disk."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE counter SET seq_limit = seq_limit")
    connection.execute("COMMIT")


def owner(connection: sqlite3.Connection) -> str | None:
    """Return the id of the endpoint whose tasks these are, or None in a new journal."""
    row = connection.execute("SELECT endpoint_id FROM owner").fetchone()
    return None if row is None else str(row[0])


def set_owner(connection: sqlite3.Connection, endpoint_id: str) -> None:
    """Write whose tasks these are."""
    connection.execute("INSERT OR REPLACE INTO owner VALUES (1, ?)", (endpoint_id,))


def next_limit(next_seq: int, limit: int) -> int | None:
    """Return the limit to store before `next_seq` may be in use, or None when `limit` will do."""
    return next_seq + SEQ_BLOCK if next_seq > limit else None


def _insert(
    connection: sqlite3.Connection, table: str, row: str, rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows, which the text of one row says how to read; many with one statement.

    Each step of a statement lets go of the interpreter, and the threads of an engine then make
    this one wait for its turn again: one step for each row costs more than the rows do.
    """
    at = 0
    for many, statement in _statements(table, row):
        while len(rows) - at >= many:
            connection.execute(statement, tuple(chain.from_iterable(rows[at : at + many])))
            at += many


@functools.cache
def _statements(table: str, row: str) -> list[tuple[int, str]]:
    """(number of rows, statement), the largest first."""
    return [
        (many, f"INSERT OR REPLACE INTO {table} VALUES {', '.join([row] * many)}")
        for many in _TOGETHER
    ]


def insert_tasks(
    connection: sqlite3.Connection,
    tasks: Iterable[tuple[bytes, Task]],
    marks: Mapping[int, tuple[int, bool]],
) -> None:
    """Insert accepted tasks (id, task), with (attempts, given) of those handed over at once.

    The bodies above the threshold are in files already.
    """
    plain: dict[tuple[int, bool], list[tuple[Any, ...]]] = {mark: [] for mark in _PLAIN_TASKS}
    others: list[tuple[Any, ...]] = []
    for key, task in tasks:
        size = len(task.body)
        body = task.body if size <= FILE_THRESHOLD else None
        mark = marks.get(task.seq, _NEVER_GIVEN)
        wish, serializers = task.resource_specification, task.result_serializers
        if wish is None and not serializers and mark in plain:
            plain[mark].append((task.seq, key, task.function_id, size, body))
        else:
            names = json.dumps(serializers) if serializers else None
            others.append((task.seq, key, task.function_id, wish, names, *mark, size, body))
    for mark, rows in plain.items():
        _insert(connection, "tasks", _PLAIN_TASKS[mark], rows)
    _insert(connection, "tasks", "(?, ?, ?, ?, ?, ?, ?, ?, ?)", others)


def insert_marks(connection: sqlite3.Connection, marks: Mapping[int, tuple[int, bool]]) -> None:
    """Insert (attempts, given) of tasks; the newest mark of a task replaces its older one."""
    _insert(
        connection,
        "marks",
        "(?, ?, ?)",
        [(seq, attempts, given) for seq, (attempts, given) in marks.items()],
    )


def insert_results(
    connection: sqlite3.Connection, results: Mapping[int, tuple[bytes, bytes]]
) -> None:
    """Insert (id, result); the results above the threshold are in files already."""
    _insert(
        connection,
        "results",
        "(?, ?, ?, ?)",
        [
            (seq, key, len(result), result if len(result) <= FILE_THRESHOLD else None)
            for seq, (key, result) in results.items()
        ],
    )


def insert_tombstones(
    connection: sqlite3.Connection, tombstones: Mapping[int, tuple[bytes, int]]
) -> None:
    """Insert (id, moment) of answered tasks."""
    _insert(
        connection,
        "tombstones",
        "(?, ?, ?)",
        [(seq, key, moment) for seq, (key, moment) in tombstones.items()],
    )


def delete_tasks(connection: sqlite3.Connection, ranges: Sequence[_Range]) -> None:
    """Delete tasks and their marks."""
    connection.executemany("DELETE FROM tasks WHERE seq BETWEEN ? AND ?", ranges)
    connection.executemany("DELETE FROM marks WHERE seq BETWEEN ? AND ?", ranges)


def delete_results(connection: sqlite3.Connection, ranges: Sequence[_Range]) -> None:
    """Delete results."""
    connection.executemany("DELETE FROM results WHERE seq BETWEEN ? AND ?", ranges)


def delete_tombstones(connection: sqlite3.Connection, ranges: Sequence[_Range]) -> None:
    """Delete tombstones."""
    connection.executemany("DELETE FROM tombstones WHERE seq BETWEEN ? AND ?", ranges)


def read_task(connection: sqlite3.Connection, seq: int) -> Any:
    """Return (function id, resource specification, serializers, size, body), or None."""
    return connection.execute(
        "SELECT function_id, resource_specification, result_serializers, size, body"
        " FROM tasks WHERE seq = ?",
        (seq,),
    ).fetchone()


def read_result(connection: sqlite3.Connection, seq: int) -> Any:
    """Return (size, body), or None."""
    return connection.execute("SELECT size, body FROM results WHERE seq = ?", (seq,)).fetchone()


def all_tasks(connection: sqlite3.Connection) -> Iterator[Any]:
    """Yield (seq, id, size, is in a file, attempts, given), in order."""
    return connection.execute(
        "SELECT seq, task_id, size, body IS NULL,"
        " coalesce(marks.attempts, tasks.attempts), coalesce(marks.given, tasks.given)"
        " FROM tasks LEFT JOIN marks USING (seq) ORDER BY seq"
    )


def all_results(connection: sqlite3.Connection) -> Iterator[Any]:
    """Yield (seq, id, size, is in a file), in order."""
    return connection.execute("SELECT seq, task_id, size, body IS NULL FROM results ORDER BY seq")


def all_tombstones(connection: sqlite3.Connection) -> Iterator[Any]:
    """Yield (seq, id)."""
    return connection.execute("SELECT seq, task_id FROM tombstones")


def task_seqs(connection: sqlite3.Connection) -> set[int]:
    """Return the numbers of all tasks."""
    return {int(row[0]) for row in connection.execute("SELECT seq FROM tasks")}


def result_seqs(connection: sqlite3.Connection) -> set[int]:
    """Return the numbers of all results."""
    return {int(row[0]) for row in connection.execute("SELECT seq FROM results")}


def function_ids(connection: sqlite3.Connection) -> list[tuple[int, str]]:
    """Return (seq, function id) of all tasks."""
    return connection.execute("SELECT seq, function_id FROM tasks").fetchall()


def newest_tombstone(connection: sqlite3.Connection) -> int:
    """Return the moment of the newest tombstone, 0 without any."""
    row = connection.execute("SELECT max(settled_at) FROM tombstones").fetchone()
    return int(row[0] or 0)


def old_tombstones(connection: sqlite3.Connection, before: int) -> list[tuple[int, bytes]]:
    """Return (seq, id) of the tombstones made before a moment."""
    return connection.execute(
        "SELECT seq, task_id FROM tombstones WHERE settled_at < ?", (before,)
    ).fetchall()


def first_tombstones(connection: sqlite3.Connection, count: int) -> list[tuple[int, bytes]]:
    """Return (seq, id) of the tombstones of the tasks accepted first."""
    return connection.execute(
        "SELECT seq, task_id FROM tombstones ORDER BY seq LIMIT ?", (count,)
    ).fetchall()


def tombstone(connection: sqlite3.Connection, seq: int) -> bytes | None:
    """Return the id of one tombstone, or None."""
    row = connection.execute("SELECT task_id FROM tombstones WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else bytes(row[0])


def shrink(connection: sqlite3.Connection) -> bool:
    """Give free pages back to the file system and empty the write-ahead log.

    Returns:
        True when more free pages are left than one call gives back.
    """
    free = int(connection.execute("PRAGMA freelist_count").fetchone()[0]) - SPARE_PAGES
    if free > 0:
        # Each page given back is one step of the statement, and Python 3.11 takes only the first
        # step of a statement without columns, unless it is a script.
        connection.executescript(f"PRAGMA incremental_vacuum({min(free, VACUUM_PAGES)})")
    crash.reach("compact-vacuumed")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    crash.reach("compacted")
    return free > VACUUM_PAGES


def runs(seqs: Sequence[int], is_needed: Callable[[int], bool], gap: int = 16) -> list[_Range]:
    """Join numbers into closed ranges, over small holes in which nothing is needed.

    Args:
        seqs: Numbers in any order; one may come twice.
        is_needed: Whether a number in a hole must not be covered.
        gap: The widest hole looked into.
    """
    ranges: list[_Range] = []
    ordered = sorted(set(seqs))
    if not ordered:
        return ranges
    first = last = ordered[0]
    if ordered[-1] - first == len(ordered) - 1:  # without a hole, as nearly always
        return [(first, ordered[-1])]
    for seq in ordered[1:]:
        if seq - last > gap or any(is_needed(hole) for hole in range(last + 1, seq)):
            ranges.append((first, last))
            first = seq
        last = seq
    ranges.append((first, last))
    return ranges
