"""A process is killed at every commit point of the journal; the journal keeps its promises.

Fault 6 of what exists today: a crash loses every task that was accepted and not finished.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from uuid import uuid4

import pytest

from cep.journal import crash
from cep.journal.bodies import FILE_THRESHOLD
from cep.journal.journal import Journal
from tests.integration.faults.settings import LONG
from tests.integration.journal_crash_child import FUNCTION, body_of, result_of

CHILD = Path(__file__).with_name("journal_crash_child.py")
ROOT = Path(__file__).resolve().parents[2]
SEED = 20260101

Account = dict[str, dict[int, str]]


def run_child(home: Path, point: str, arrival: int, seed: int = SEED) -> tuple[int, Account]:
    """Let a child work until it kills itself; return its exit status and its account."""
    child = subprocess.run(
        [sys.executable, str(CHILD), str(home), point, str(arrival), str(seed)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        timeout=200,
        check=False,
    )
    return child.returncode, account_of(child.stdout)


def account_of(output: bytes) -> Account:
    account: Account = defaultdict(dict)
    whole, _, _ = output.decode().rpartition("\n")
    for line in whole.splitlines():
        word, seq, task_id = line.split(" ")
        account[word][int(seq)] = task_id
    return account


def check_promises(home: Path, told: Account) -> None:
    """Compare what a fresh process finds with what the dead one had told the world."""
    journal = Journal.open(home / "journal.db", home / "bodies")
    found = journal.recover()
    unfinished = {task.seq: task for task in found.unfinished}
    unsent = dict(found.unsent)

    assert found.damaged == []
    assert not unfinished.keys() & unsent.keys()
    # Nothing accepted is lost, in whichever state; nothing came from nowhere or was withdrawn.
    for seq, task_id in told["acked"].items():
        assert journal.seq_of(task_id) == seq
    for seq in unfinished.keys() | unsent.keys():
        assert seq in told["accepting"]
        assert seq not in told["discarded"]
    assert len(unfinished) + len(unsent) + found.tombstones <= len(told["accepting"])
    for task_id in told["discarded"].values():
        assert not journal.knows(task_id)
    # A result that was told is there or settled; one that was not begun to be told is not.
    for seq in told["finished"]:
        assert seq in unsent or seq in told["settling"]
        assert seq not in unfinished
    assert unsent.keys() <= told["finishing"].keys()
    for seq, task_id in told["settled"].items():
        assert seq not in unsent
        assert journal.knows(task_id)
    # A mark is there before the hand-over, and is on no task that was never to be given.
    for seq, task in unfinished.items():
        assert task.given or seq not in told["given"]
        assert not task.given or seq in told["giving"]
        assert task.attempts == int(task.given)
    # Bodies are whole, and the directory holds those of live tasks and nothing else.
    for task in map(journal.load, unfinished):
        assert task.body == body_of(task.task_id)
    for seq in unsent:
        assert journal.result(seq) == result_of(told["accepting"][seq])
    expected = {f"{seq}.task" for seq, t in unfinished.items() if t.size > FILE_THRESHOLD}
    expected |= {f"{seq}.result" for seq, size in unsent.items() if size > FILE_THRESHOLD}
    assert {file.name for file in (home / "bodies").iterdir()} == expected
    work_on(journal, told, list(unfinished), list(unsent))


def work_on(journal: Journal, told: Account, unfinished: list[int], unsent: list[int]) -> None:
    """The journal is fit for its next life: numbers go on, and all can be answered."""
    seq = journal.accept(str(uuid4()), FUNCTION, b"new")
    assert seq > max(told["acked"], default=0)
    for task in [*unfinished, seq]:
        journal.finish(task, b"late")
    journal.commit()
    journal.settle([*unfinished, *unsent, seq])
    journal.commit()
    counts = journal.counts()
    assert (counts.unfinished, counts.unsent, counts.unfinished_bytes) == (0, 0, 0)
    journal.close()


def test_without_a_crash_the_account_and_the_journal_agree(tmp_path: Path) -> None:
    status, told = run_child(tmp_path, "none", 0)
    assert status == 0
    assert "closed" in told
    assert len(told["settled"]) > 20
    check_promises(tmp_path, told)


# A journal is made once; every other point is come to again and again.
ARRIVALS = [(point, arrival) for point in crash.POINTS for arrival in (1, 2)]
ARRIVALS.remove(("journal-created", 2))


@pytest.mark.parametrize(("point", "arrival"), ARRIVALS)
def test_killed_at_a_named_point_nothing_promised_is_lost(
    tmp_path: Path, point: str, arrival: int
) -> None:
    status, told = run_child(tmp_path, point, arrival)
    assert status == -signal.SIGKILL, f"the child never came to {point} {arrival} times"
    check_promises(tmp_path, told)


@pytest.mark.parametrize("draw", range(10 if LONG else 5))
def test_killed_at_a_random_point_nothing_promised_is_lost(tmp_path: Path, draw: int) -> None:
    chance = random.Random(SEED + draw)
    status, told = run_child(tmp_path, "any", chance.randrange(1, 120), seed=draw)
    assert status == -signal.SIGKILL
    check_promises(tmp_path, told)


@pytest.mark.parametrize("draw", range(6 if LONG else 3))
def test_killed_from_outside_at_any_instruction_nothing_promised_is_lost(
    tmp_path: Path, draw: int
) -> None:
    lines = random.Random(SEED - draw).randrange(1, 200)
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(tmp_path), "none", "0", str(draw)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    with child:
        assert child.stdout is not None
        output = b"".join(child.stdout.readline() for _ in range(lines))
        child.kill()
        output += child.stdout.read()
    check_promises(tmp_path, account_of(output))


def test_a_journal_that_is_killed_again_and_again_still_keeps_its_promises(
    tmp_path: Path,
) -> None:
    """Each life begins on what the one before left."""
    chance = random.Random(SEED)
    everything: Account = defaultdict(dict)
    for life in range(8):
        status, told = run_child(tmp_path, "any", chance.randrange(5, 60), seed=1000 + life)
        assert status == -signal.SIGKILL
        assert not told["accepting"].keys() & everything["acked"].keys()
        for word, facts in told.items():
            everything[word].update(facts)
    check_promises(tmp_path, everything)
