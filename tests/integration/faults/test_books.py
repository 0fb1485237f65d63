"""The books notice what they are there to notice: each thing that must not happen, made up here."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from cep.wire.result import error_result, unpack_result
from tests.integration.faults import table
from tests.integration.faults.books import Books, Verdict
from tests.integration.faults.runner import told

A, B = "aaaaaaaa-1111-4222-8333-444444444444", "bbbbbbbb-1111-4222-8333-444444444444"


@pytest.fixture
def books(tmp_path: Path) -> Books:
    """Two submitted tasks, `a` and `b`, of which nothing is known yet."""
    executed = tmp_path / "executed"
    executed.touch()
    made = Books(executed)
    made.submitted(A, "a")
    made.submitted(B, "b")
    return made


@cache  # a repeat has the same bytes, time stamps included
def message(task_id: str, code: str, text: str) -> bytes:
    return error_result(task_id, code, text)


def answer(
    books: Books, task_id: str, code: str, *, text: str = "gone", again: bool = False
) -> None:
    body = message(task_id, code, text)
    books.answered(body, unpack_result(body), delivered_before=again)


def run(tmp_path: Path, labels: Sequence[str]) -> None:
    with (tmp_path / "executed").open("a") as file:
        file.writelines(f"{label}\n" for label in labels)


def judged(books: Books, retries: int = 0, spare: int = 0) -> Verdict:
    return books.verdict(["a", "b"], retries=retries, spare=spare)


def test_a_task_without_an_answer_is_lost(books: Books) -> None:
    answer(books, A, "WORKER_LOST")
    verdict = judged(books, spare=1)
    assert (verdict.answered, verdict.lost, verdict.unanswered) == (1, 1, ["b"])
    assert told(verdict)


def test_an_error_that_names_no_fault_is_lost(books: Books) -> None:
    answer(books, A, "RemoteExecutionError")
    answer(books, B, "WORKER_LOST")
    assert judged(books, spare=1).lost == 1


def test_errors_for_what_never_began_are_lost_above_the_bound(books: Books, tmp_path: Path) -> None:
    answer(books, A, "ENDPOINT_RESTARTED")
    answer(books, B, "ENDPOINT_RESTARTED")
    assert judged(books).lost == 2
    assert judged(books, spare=1).lost == 1
    run(tmp_path, ["a"])
    assert judged(books, spare=1).lost == 0
    assert judged(books, spare=1, retries=1).lost == 2, "with retries there is no excuse"


def test_running_more_often_than_allowed_is_told(books: Books, tmp_path: Path) -> None:
    run(tmp_path, ["a", "a", "b"])
    assert judged(books).run_twice == ["a"]
    assert judged(books, retries=1).run_twice == []


def test_a_second_answer_is_a_repeat_or_a_contradiction(books: Books) -> None:
    answer(books, A, "WORKER_LOST")
    answer(books, A, "WORKER_LOST")
    answer(books, A, "WORKER_LOST", again=True)  # our own lost ack
    assert (judged(books).repeats, judged(books).contradicted) == (1, [])
    answer(books, A, "WORKER_LOST", text="something else")
    assert judged(books).contradicted == ["a"]


def test_the_table_adds_up_the_runs_of_a_fault_and_keeps_the_worst_recovery() -> None:
    row = table.Row("f", tasks=10, answered=9, lost=1, recovery_s=1.0)
    row.add(table.Row("f", tasks=5, answered=5, repeats=2, recovery_s=None))
    row.add(table.Row("f", tasks=5, answered=5, recovery_s=2.5))
    assert row.cells() == ("f", "3", "20", "19", "1", "0", "0", "0", "0", "2", "2.5 s")
    lines = table.as_markdown([row])
    assert len({len(line) for line in lines}) == 1
