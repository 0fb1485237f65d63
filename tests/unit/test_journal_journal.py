"""The journal's promises, on a real SQLite file."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cep.errors import AlreadyRunning, DataError, JournalError, SoftwareError
from cep.journal import bodies
from cep.journal import crash as crash_points
from cep.journal.journal import Journal
from cep.model import Task

FUNCTION = "99999999-2222-4333-8444-555555555555"
LARGE = bodies.FILE_THRESHOLD + 1


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory in which no test may leave a connection open (an open one keeps its log)."""
    yield tmp_path
    assert not (tmp_path / "journal.db-wal").exists()


def opened(home: Path, **options: int) -> Journal:
    return Journal.open(home / "journal.db", home / "bodies", **options)


def crash(journal: Journal) -> None:
    """End like a killed process as far as the journal's own code goes: nothing is committed."""
    journal._writer.abandon()


def accept(journal: Journal, body: bytes = b"body") -> tuple[int, str]:
    task_id = str(uuid4())
    return journal.accept(task_id, FUNCTION, body), task_id


def files(home: Path, journal: Journal) -> list[str]:
    journal._writer.bodies.close()  # what is about to be removed is gone then
    return sorted(file.name for file in (home / "bodies").iterdir())


def test_a_task_comes_back_whole_after_a_restart(home: Path) -> None:
    journal = opened(home)
    task_id = str(uuid4())
    seq = journal.accept(task_id, FUNCTION, b"the body", '{"num_nodes": 2}', ["a.B", "c,\n.D"])
    journal.commit()
    crash(journal)
    journal = opened(home)
    (task,) = journal.recover().unfinished
    assert (task.seq, task.task_id, task.function_id) == (seq, task_id, FUNCTION)
    assert (task.size, task.attempts, task.given) == (8, 0, False)
    loaded = journal.load(seq)
    assert loaded.body == b"the body"
    assert loaded.resource_specification == '{"num_nodes": 2}'
    assert loaded.result_serializers == ("a.B", "c,\n.D")
    assert loaded.task_id == task_id
    journal.close()


@pytest.mark.parametrize("count", [1, 3, 4, 5, 15, 16, 63, 64, 65, 150])
def test_a_batch_of_any_number_comes_back_whole(home: Path, count: int) -> None:
    journal = opened(home)
    ids = [str(uuid4()) for _ in range(2 * count)]
    seqs = [journal.accept(one, FUNCTION, one.encode()) for one in ids]
    journal.commit()
    journal.give(seqs[:count])
    for seq in seqs[count:]:
        journal.finish(seq, b"result %d" % seq)
    journal.commit()
    crash(journal)
    again = opened(home)
    left = again.recover()
    assert [(task.seq, task.task_id, task.given) for task in left.unfinished] == [
        (seq, one, True) for seq, one in zip(seqs[:count], ids, strict=False)
    ]
    bodies = [again.load(seq).body for seq in seqs[:count]]
    assert bodies == [one.encode() for one in ids[:count]]
    assert [again.result(seq) for seq in seqs[count:]] == [
        b"result %d" % seq for seq in seqs[count:]
    ]
    again.settle(seqs[count:])
    again.commit()
    assert again.counts().tombstones == count
    again.close()


@pytest.mark.parametrize("wish", [None, '{"num_nodes":2}'])
@pytest.mark.parametrize("serializers", [(), ("a.B", "c.D")])
@pytest.mark.parametrize("times_given", [0, 1, 2])
@pytest.mark.parametrize("size", [5, bodies.FILE_THRESHOLD + 1])
def test_a_task_comes_back_as_it_was(
    home: Path, wish: str | None, serializers: tuple[str, ...], times_given: int, size: int
) -> None:
    """Whatever it asks for and however often it was handed over in the turn of its arrival."""
    journal = opened(home)
    task_id = str(uuid4())
    accept(journal, b"another")
    seq = journal.accept(task_id, FUNCTION, b"x" * size, wish, serializers)
    accept(journal, b"a third")
    for _ in range(times_given):
        journal.give([seq])
    journal.commit()
    crash(journal)
    again = opened(home)
    (found,) = (task for task in again.recover().unfinished if task.seq == seq)
    assert (found.task_id, found.attempts, found.given) == (task_id, times_given, times_given > 0)
    assert again.load(seq) == Task(seq, task_id, FUNCTION, b"x" * size, wish, serializers)
    again.close()


def test_what_was_not_committed_is_gone_after_a_crash(home: Path) -> None:
    journal = opened(home)
    kept, _ = accept(journal)
    journal.commit()
    _, lost_id = accept(journal)
    journal.give([kept])
    journal.finish(kept, b"result")
    assert journal.knows(lost_id)
    crash(journal)
    journal = opened(home)
    recovered = journal.recover()
    assert [(task.seq, task.given) for task in recovered.unfinished] == [(kept, False)]
    assert recovered.unsent == []
    assert not journal.knows(lost_id)
    journal.close()


def test_commit_says_whether_there_was_anything_to_write(home: Path) -> None:
    journal = opened(home)
    assert journal.commit() is False
    accept(journal)
    assert journal.commit() is True
    assert journal.commit() is False
    journal.close()


def test_an_interrupt_anywhere_in_a_commit_leaves_it_repeatable(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop signal's handler raises in the main thread, before or after the COMMIT."""
    journal = opened(home)
    for point in ("bodies-written", "rows-written", "accepted-committed", "finished-committed"):
        seqs = [accept(journal, b"x" * LARGE)[0], accept(journal)[0]]
        refused = journal.accept_finished(str(uuid4()), b"y" * LARGE)

        def interrupt(name: str, point: str = point) -> None:
            if name == point:
                raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(crash_points, "reach", interrupt)
            with pytest.raises(KeyboardInterrupt):
                journal.commit()
        journal.close()
        journal = opened(home)
        recovered = journal.recover()
        assert [task.seq for task in recovered.unfinished][-2:] == seqs
        assert recovered.unsent[-1] == (refused, LARGE)
        assert recovered.damaged == []
    journal.close()


def test_attempts_count_only_what_was_not_handed_back(home: Path) -> None:
    journal = opened(home)
    one, _ = accept(journal)
    two, _ = accept(journal)
    journal.give([one, two])
    journal.commit()
    journal.ungive([two])
    journal.give([one])
    journal.commit()
    crash(journal)
    journal = opened(home)
    unfinished = journal.recover().unfinished
    assert [(t.seq, t.attempts, t.given) for t in unfinished] == [(one, 2, True), (two, 0, False)]
    journal.close()


def test_a_result_takes_the_place_of_its_task(home: Path) -> None:
    journal = opened(home)
    seq, task_id = accept(journal)
    other, _ = accept(journal)
    journal.commit()
    journal.finish(seq, b"the result")
    journal.commit()
    crash(journal)
    journal = opened(home)
    recovered = journal.recover()
    assert recovered.unsent == [(seq, 10)]
    assert [task.seq for task in recovered.unfinished] == [other]
    assert journal.result(seq) == b"the result"
    assert journal.knows(task_id)
    counts = journal.counts()
    assert (counts.unfinished, counts.unsent, counts.unfinished_bytes) == (1, 1, 4)
    journal.close()


def test_a_result_stays_until_it_is_settled_whatever_happens_to_its_replay(home: Path) -> None:
    """Fault 3: a stored result was deleted when its replay failed."""
    journal = opened(home)
    seq, _ = accept(journal)
    journal.finish(seq, b"result")
    journal.commit()
    for _ in range(3):  # published, never confirmed, process ends
        assert journal.result(seq) == b"result"
        crash(journal)
        journal = opened(home)
        assert journal.recover().unsent == [(seq, 6)]
    journal.settle([seq])
    journal.commit()
    crash(journal)
    journal = opened(home)
    assert journal.recover().unsent == []
    journal.close()


def test_a_refused_task_is_an_unsent_result_at_once(home: Path) -> None:
    journal = opened(home)
    task_id = str(uuid4())
    seq = journal.accept_finished(task_id, b"error result")
    assert journal.knows(task_id)
    journal.commit()
    assert journal.recover().unsent == [(seq, 12)]
    assert journal.result(seq) == b"error result"
    journal.close()


def test_a_second_result_of_a_task_is_dropped(home: Path) -> None:
    journal = opened(home)
    seq, _ = accept(journal)
    journal.finish(seq, b"first")
    journal.finish(seq, b"second")
    journal.commit()
    journal.finish(seq, b"third")
    journal.commit()
    assert journal.result(seq) == b"first"
    journal.settle([seq])
    journal.finish(seq, b"late")
    journal.settle([seq])
    journal.commit()
    assert journal.counts().unsent == 0
    journal.close()


def test_misuse_is_told_by_number(home: Path) -> None:
    journal = opened(home)
    seq, task_id = accept(journal)
    with pytest.raises(SoftwareError, match="already"):
        journal.accept(task_id.upper(), FUNCTION, b"")
    with pytest.raises(DataError, match="not-a-uuid"):
        journal.accept("not-a-uuid", FUNCTION, b"")
    assert not journal.knows("not-a-uuid")
    for wrong in (lambda: journal.give([77]), lambda: journal.load(77)):
        with pytest.raises(SoftwareError, match="77"):
            wrong()
    with pytest.raises(SoftwareError, match="77"):
        journal.finish(77, b"")
    with pytest.raises(SoftwareError, match="before it had a result"):
        journal.settle([seq])
    with pytest.raises(SoftwareError, match="no unsent result"):
        journal.result(seq)
    journal.close()


def test_discarded_tasks_are_forgotten_and_committed_ones_are_not(home: Path) -> None:
    journal = opened(home)
    kept, kept_id = accept(journal)
    journal.commit()
    gone, gone_id = accept(journal)
    refused_id = str(uuid4())
    refused = journal.accept_finished(refused_id, b"no")
    journal.give([gone])
    journal.discard([kept, gone, refused, 4711])
    assert journal.knows(kept_id)
    assert not journal.knows(gone_id)
    assert not journal.knows(refused_id)
    assert journal.commit() is False
    again = journal.accept(gone_id, FUNCTION, b"body")
    assert again > refused
    journal.commit()
    crash(journal)
    journal = opened(home)
    assert [task.seq for task in journal.recover().unfinished] == [kept, again]
    journal.close()


@pytest.mark.parametrize("orderly", [True, False])
def test_a_sequence_number_is_never_used_twice(home: Path, orderly: bool) -> None:
    used: set[int] = set()
    for _ in range(4):
        journal = opened(home)
        for _ in range(3):
            seq, _ = accept(journal)
            assert seq not in used
            used.add(seq)
            journal.finish(seq, b"r")
            journal.commit()
            journal.settle([seq])
            journal.commit()
        journal.ack_sent(list(used), 1, 1)
        journal.acks_processed(1, 1)
        journal.commit()
        journal.close() if orderly else crash(journal)
    assert not orderly or used == set(range(1, 13))


def test_large_bodies_and_results_live_in_files_until_nobody_needs_them(home: Path) -> None:
    journal = opened(home)
    body, result = os.urandom(LARGE), os.urandom(LARGE + 5)
    seq, _ = accept(journal, body)
    at_limit, _ = accept(journal, b"x" * bodies.FILE_THRESHOLD)
    journal.commit()
    assert files(home, journal) == [f"{seq}.task"]
    assert journal.counts().file_bytes > LARGE
    crash(journal)
    journal = opened(home)
    assert [journal.load(one).body for one in (seq, at_limit)] == [
        body,
        b"x" * bodies.FILE_THRESHOLD,
    ]
    journal.finish(seq, result)
    journal.commit()
    assert files(home, journal) == [f"{seq}.result"]
    crash(journal)
    journal = opened(home)
    assert journal.result(seq) == result
    journal.settle([seq])
    assert files(home, journal) == [f"{seq}.result"]
    journal.commit()
    assert files(home, journal) == []
    journal.close()


def test_opening_removes_body_files_that_no_row_names_and_no_others(home: Path) -> None:
    journal = opened(home)
    seq, _ = accept(journal, b"x" * LARGE)
    journal.commit()
    crash(journal)
    (home / "bodies" / "7000.task").write_bytes(b"orphan")
    (home / "bodies" / f"{seq}.result").write_bytes(b"orphan")
    (home / "bodies" / "notes.txt").write_bytes(b"somebody's")
    journal = opened(home)
    assert files(home, journal) == [f"{seq}.task", "notes.txt"]
    journal.close()


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_body_somebody_removed_is_reported_and_can_be_answered(home: Path, damage: str) -> None:
    journal = opened(home)
    seq, task_id = accept(journal, b"x" * LARGE)
    unsent, unsent_id = accept(journal)
    journal.finish(unsent, b"y" * LARGE)
    journal.commit()
    crash(journal)
    for file in (home / "bodies").iterdir():
        file.unlink() if damage == "gone" else os.truncate(file, 10)
    journal = opened(home)
    recovered = journal.recover()
    assert recovered.unfinished == []
    assert recovered.unsent == []
    assert recovered.damaged == [(seq, task_id), (unsent, unsent_id)]
    with pytest.raises(JournalError):
        journal.load(seq)
    journal.finish(seq, b"error")
    journal.finish(unsent, b"z" * LARGE)
    journal.commit()
    crash(journal)
    journal = opened(home)
    assert journal.recover().unsent == [(seq, 5), (unsent, LARGE)]
    assert journal.recover().damaged == []
    assert journal.result(seq) == b"error"
    journal.settle([seq, unsent])
    journal.close()
    assert files(home, journal) == []


def test_memory_holds_no_more_bodies_than_its_bound(home: Path) -> None:
    journal = opened(home, cache_bytes=10)
    seqs = [accept(journal, bytes([65 + number]) * 4)[0] for number in range(4)]
    journal.commit()
    assert journal._tasks._budget.left == 2
    assert [journal.load(seq).body for seq in seqs] == [b"AAAA", b"BBBB", b"CCCC", b"DDDD"]
    assert journal._tasks._budget.left == 10
    journal.finish(seqs[0], b"12345678")
    journal.commit()
    assert journal._tasks._budget.left == 2
    journal.settle([seqs[0]])
    assert journal._tasks._budget.left == 10
    journal.close()


def test_files_are_private_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        journal = Journal.open(home / "state" / "journal.db", home / "state" / "bodies")
        accept(journal, b"x" * LARGE)
        journal.commit()
        modes = {
            str(path.relative_to(home)): stat.S_IMODE(path.stat().st_mode)
            for path in (home / "state").rglob("*")
        }
        directory = stat.S_IMODE((home / "state").stat().st_mode)
        journal.close()
    finally:
        os.umask(before)
    assert modes == {
        "state/journal.db": 0o600,
        "state/journal.db-wal": 0o600,
        "state/bodies": 0o700,
        "state/bodies/1.task": 0o600,
    }
    assert directory == 0o700


def test_a_umask_that_takes_everything_does_not_matter(home: Path) -> None:
    before = os.umask(0o777)
    try:
        journal = opened(home)
        seq, _ = accept(journal, b"x" * LARGE)
        journal.commit()
        assert stat.S_IMODE((home / "journal.db").stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "journal.db-wal").stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "bodies").stat().st_mode) == 0o700
        assert stat.S_IMODE((home / "bodies" / f"{seq}.task").stat().st_mode) == 0o600
        journal.close()
    finally:
        os.umask(before)


def test_a_journal_in_use_is_refused(home: Path) -> None:
    journal = opened(home)
    with pytest.raises(AlreadyRunning, match="locked by another process"):
        opened(home)
    accept(journal)
    assert journal.commit()
    journal.close()


def test_the_file_shrinks_after_a_burst_and_the_log_is_emptied(home: Path) -> None:
    journal = opened(home)
    seqs = [accept(journal, os.urandom(20_000))[0] for _ in range(1000)]
    journal.commit()
    for seq in seqs:
        journal.finish(seq, b"")
    journal.commit()
    journal.settle(seqs)
    journal.commit()
    burst = journal.counts().file_bytes
    assert burst > 20_000_000
    journal.compact()
    assert journal._compactable  # one call is bounded: 16 MiB
    journal.compact()
    assert not journal._compactable
    assert journal.counts().file_bytes < 2_000_000
    assert (home / "journal.db-wal").stat().st_size == 0
    changed = (home / "journal.db").stat().st_mtime_ns
    journal.compact()
    assert (home / "journal.db").stat().st_mtime_ns == changed
    journal.close()


def test_tasks_that_end_in_any_order_leave_the_others_alone(home: Path) -> None:
    journal = opened(home)
    seqs = [accept(journal)[0] for _ in range(200)]
    journal.give(seqs)
    journal.commit()
    done = seqs[::3] + seqs[100:150]
    done = list(dict.fromkeys(reversed(done)))
    for seq in done:
        journal.finish(seq, b"r")
    journal.commit()
    settled = done[::2]
    journal.settle(settled)
    journal.commit()
    crash(journal)
    journal = opened(home)
    recovered = journal.recover()
    assert [task.seq for task in recovered.unfinished] == [s for s in seqs if s not in done]
    assert all(task.given and task.attempts == 1 for task in recovered.unfinished)
    assert [seq for seq, _ in recovered.unsent] == sorted(set(done) - set(settled))
    assert recovered.tombstones == len(settled)
    journal.close()


def test_a_journal_with_tasks_of_another_endpoint_is_refused_and_an_empty_one_is_taken(
    home: Path,
) -> None:
    mine, other = str(uuid4()), str(uuid4())
    journal = opened(home)
    journal.claim(mine)
    journal.claim(mine)
    journal.close()
    journal = opened(home)
    journal.claim(other)  # nothing was in it
    seq = journal.accept(str(uuid4()), str(uuid4()), b"task", None, ())
    journal.commit()
    journal.close()
    journal = opened(home)
    with pytest.raises(JournalError, match=f"1 tasks and 0 results of endpoint {other}"):
        journal.claim(mine)
    journal.finish(seq, b"result")
    with pytest.raises(JournalError, match="0 tasks and 1 results"):
        journal.claim(mine)
    journal.close()
