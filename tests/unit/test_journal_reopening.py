"""After a write that failed: the open database is used no more, and what it holds is compared."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cep.errors import DiskUnfit, JournalError
from cep.journal import store
from cep.journal.journal import Journal
from tests.unit.agent_fakes import FUNCTION, open_journal, task_id


def fail_once(monkeypatch: pytest.MonkeyPatch, *, after_commit: bool) -> None:
    """Let the next commit fail as a broken disk makes it fail, its rows on disk or not."""
    original = store.insert_tasks

    def failing(connection: sqlite3.Connection, *arguments: object) -> None:
        monkeypatch.setattr(store, "insert_tasks", original)
        original(connection, *arguments)  # type: ignore[arg-type]
        if after_commit:
            connection.execute("COMMIT")
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store, "insert_tasks", failing)


def accept(journal: Journal) -> int:
    return journal.accept(task_id(), FUNCTION, b"body")


@pytest.mark.parametrize("after_commit", [False, True])
def test_tasks_that_went_back_to_the_broker_do_not_stay_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_commit: bool
) -> None:
    journal = open_journal(tmp_path)
    kept = accept(journal)
    journal.commit()
    went_back = accept(journal)
    fail_once(monkeypatch, after_commit=after_commit)
    with pytest.raises(DiskUnfit):
        journal.commit()
    journal.discard([went_back])
    later = accept(journal)
    with pytest.raises(DiskUnfit, match="opened again"):
        journal.commit()
    journal.trial(1000)
    assert journal.commit() is True
    journal._writer.abandon()
    journal = open_journal(tmp_path)
    assert [task.seq for task in journal.recover().unfinished] == [kept, later]
    journal.close()


def test_a_result_that_may_be_on_disk_already_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    seq = accept(journal)
    journal.commit()
    journal.finish(seq, b"result")
    accept(journal)
    fail_once(monkeypatch, after_commit=True)
    with pytest.raises(DiskUnfit):
        journal.commit()
    journal.trial(1000)
    journal.commit()
    assert journal.result(seq) == b"result"
    assert journal.counts().unfinished == 1
    journal.close()


def test_a_journal_that_was_set_back_meanwhile_is_refused(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    accept(journal)
    journal.commit()
    journal._writer.in_doubt = True
    journal._writer._connection.execute("DELETE FROM tasks")
    with pytest.raises(JournalError, match="lost 1 tasks"):
        journal.trial(1000)
    journal._writer.abandon()
