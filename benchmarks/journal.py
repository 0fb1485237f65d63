"""What one task costs in the journal, beside the obvious scheme, in one run.

    python benchmarks/journal.py [--tasks N]

The obvious scheme is one table with the task's UUID as text key and a state column that is
updated, bodies of every size inside. Both go through the same turns, as the agent's loop takes them
under load: a new batch is accepted and given, the one before is finished, the one before that is
settled, and one commit writes it all. Both use WAL, synchronous=FULL and the same sizes. CPU is
that of the process, kernel time included; the commits are real, so the wall time is mostly that of
the disk's flush.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from cep.journal.journal import Journal

FUNCTION = str(uuid4())
BODY = os.urandom(1200)
RESULT = os.urandom(400)
LARGE = os.urandom(1_350_000)

Cost = tuple[float, float]  # seconds of CPU, seconds of wall time


def through_the_journal(home: Path, ids: list[str], batch: int, body: bytes) -> Cost:
    """Run tasks through the journal in batches."""
    journal = Journal.open(home / "journal.db", home / "bodies")
    cpu, wall = time.process_time(), time.perf_counter()
    given: list[int] = []
    finished: list[int] = []
    for mark, first in enumerate(range(0, len(ids) + 2 * batch, batch)):
        fresh = [journal.accept(task_id, FUNCTION, body) for task_id in ids[first : first + batch]]
        journal.give(fresh)
        for seq in given:
            journal.finish(seq, RESULT)
        journal.settle(finished)
        journal.commit()
        journal.ack_sent(fresh, 1, mark)
        journal.acks_processed(1, mark - 10)
        for seq in given:
            journal.result(seq)
        for seq in fresh:
            journal.load(seq)
        given, finished = fresh, given
    cost = time.process_time() - cpu, time.perf_counter() - wall
    journal.close()
    return cost


def through_one_table(home: Path, ids: list[str], batch: int, body: bytes) -> Cost:
    """Run tasks through the obvious scheme in batches."""
    database = sqlite3.connect(home / "obvious.db", isolation_level=None)
    for pragma in ("journal_mode=WAL", "locking_mode=EXCLUSIVE", "synchronous=FULL"):
        database.execute(f"PRAGMA {pragma}").fetchall()
    database.execute(
        "CREATE TABLE tasks"
        " (id TEXT PRIMARY KEY, function TEXT, state TEXT, body BLOB, result BLOB)"
    )

    cpu, wall = time.process_time(), time.perf_counter()
    given: list[str] = []
    finished: list[str] = []
    for first in range(0, len(ids) + 2 * batch, batch):
        fresh = ids[first : first + batch]
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO tasks VALUES (?, ?, 'accepted', ?, NULL)",
            [(task_id, FUNCTION, body) for task_id in fresh],
        )
        database.executemany(
            "UPDATE tasks SET state = 'given' WHERE id = ?", [(task_id,) for task_id in fresh]
        )
        database.executemany(
            "UPDATE tasks SET state = 'finished', result = ? WHERE id = ?",
            [(RESULT, task_id) for task_id in given],
        )
        database.executemany(
            "UPDATE tasks SET state = 'settled', body = NULL, result = NULL WHERE id = ?",
            [(task_id,) for task_id in finished],
        )
        database.execute("COMMIT")
        for task_id in given:
            database.execute("SELECT result FROM tasks WHERE id = ?", (task_id,)).fetchone()
        for task_id in fresh:
            database.execute("SELECT body FROM tasks WHERE id = ?", (task_id,)).fetchone()
        given, finished = fresh, given
    cost = time.process_time() - cpu, time.perf_counter() - wall
    database.close()
    return cost


def measure(
    way: Callable[[Path, list[str], int, bytes], Cost], tasks: int, batch: int, body: bytes
) -> Cost:
    """Return the best of three runs, per task, in seconds."""
    costs = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as directory:
            cpu, wall = way(Path(directory), [str(uuid4()) for _ in range(tasks)], batch, body)
            costs.append((cpu / tasks, wall / tasks))
    return min(costs)


def main() -> None:
    """Print one line per batch size."""
    parser = argparse.ArgumentParser(description="CPU per task in the journal")
    parser.add_argument("--tasks", type=int, default=20_000)
    tasks = parser.parse_args().tasks
    print(f"{'batch':>6} {'body':>9}   {'journal':>19}   {'uuid key, UPDATE':>19}   ratio of CPU")
    for batch, body in ((50, BODY), (250, BODY), (5, LARGE)):
        count = tasks if body is BODY else max(20, tasks // 200)
        ours = measure(through_the_journal, count, batch, body)
        obvious = measure(through_one_table, count, batch, body)
        print(
            f"{batch:>6} {len(body):>9}   "
            + "   ".join(
                f"{cpu * 1e6:7.1f} us ({wall * 1e6:7.1f})" for cpu, wall in (ours, obvious)
            )
            + f"   {obvious[0] / ours[0]:.1f}"
        )


if __name__ == "__main__":
    main()
