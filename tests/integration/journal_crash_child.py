"""A process that works on a journal and dies: run as `python journal_crash_child.py ...`.

It writes an account of what it did to its standard output, one unbuffered line per fact, *after*
the fact is on disk (what an agent would tell the world then), and of what it is about to do before.
It kills itself at the Nth arrival at a crash point. Only this test module arms crash points.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from cep.journal import crash
from cep.journal.journal import Journal

FUNCTION = "99999999-2222-4333-8444-555555555555"
ROUNDS = 12
TASKS = 8


def body_of(task_id: str) -> bytes:
    """The body every task of this id has: some tiny, some above the size for files."""
    return _bytes_of(task_id, "body")


def result_of(task_id: str) -> bytes:
    """The result every task of this id gets."""
    return _bytes_of(task_id, "result")


def _bytes_of(task_id: str, what: str) -> bytes:
    digest = hashlib.sha256(f"{what} {task_id}".encode()).digest()
    sizes = (0, 32, 5_000, 66_000, 150_000)
    return (digest * 5000)[: sizes[digest[0] % len(sizes)]]


def die_at(point: str, arrival: int) -> Callable[[str], None]:
    """Return a `reach` that kills this process at the Nth arrival; `any` counts all points."""
    seen = 0

    def reach(name: str) -> None:
        nonlocal seen
        if point in (name, "any"):
            seen += 1
            if seen == arrival:
                os.kill(os.getpid(), signal.SIGKILL)

    return reach


def tell(word: str, facts: list[tuple[int, str]]) -> None:
    """Write lines to the account; they outlive us, since a killed process loses no pipe."""
    os.write(1, "".join(f"{word} {seq} {task_id}\n" for seq, task_id in facts).encode())


def work(home: Path, seed: int) -> None:
    """Accept, give, hand back, finish, settle and discard, with several things per commit."""
    chance = random.Random(seed)
    journal = Journal.open(home / "journal.db", home / "bodies")
    waiting: list[tuple[int, str]] = []
    given: list[tuple[int, str]] = []
    unsent: list[tuple[int, str]] = []
    for number in range(ROUNDS):
        fresh = []
        for _ in range(TASKS):
            task_id = f"{chance.getrandbits(128):032x}"
            task_id = "-".join(
                (task_id[:8], task_id[8:12], task_id[12:16], task_id[16:20], task_id[20:])
            )
            fresh.append((journal.accept(task_id, FUNCTION, body_of(task_id)), task_id))
        tell("accepting", fresh)
        discarded = [fresh.pop()] if number % 3 == 0 else []
        journal.discard([seq for seq, _ in discarded])
        tell("discarded", discarded)
        if number % 2:  # the agent's way: accepted and given in one commit
            journal.commit()
            tell("acked", fresh)
        waiting += fresh
        chosen = [task for task in waiting if chance.random() < 0.7]
        journal.give([seq for seq, _ in chosen])
        tell("giving", chosen)
        done = [task for task in given if chance.random() < 0.7]
        for seq, task_id in done:
            journal.finish(seq, result_of(task_id))
        tell("finishing", done)
        confirmed = [task for task in unsent if chance.random() < 0.7]
        journal.settle([seq for seq, _ in confirmed])
        tell("settling", confirmed)
        journal.commit()
        tell("acked", fresh)
        tell("given", chosen)
        tell("finished", done)
        tell("settled", confirmed)
        assert [journal.load(seq).body for seq, _ in chosen] == [
            body_of(task_id) for _, task_id in chosen
        ]
        waiting = [task for task in waiting if task not in chosen]
        given = [task for task in given if task not in done] + chosen
        unsent = [task for task in unsent if task not in confirmed] + done
        if number % 4 == 3:
            journal.compact()
    journal.close()
    tell("closed", [(0, "-")])


if __name__ == "__main__":
    crash.reach = die_at(sys.argv[2], int(sys.argv[3]))
    work(Path(sys.argv[1]), int(sys.argv[4]))
