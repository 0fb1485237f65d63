"""What happens on a full disk: run inside a mount namespace of its own, on a small tmpfs.

Prints `ok` when all went as it should; any surprise is a traceback and a status.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from uuid import uuid4

from cep.agent.disk import check_disk
from cep.errors import DiskUnfit
from cep.journal.journal import Journal
from cep.paths import EndpointPaths

FUNCTION = "99999999-2222-4333-8444-555555555555"


def refused(journal: Journal) -> DiskUnfit:
    try:
        journal.commit()
    except DiskUnfit as error:
        return error
    raise AssertionError("the commit went through on a full disk")


def journal_on_a_full_disk(home: Path, size: int) -> None:
    journal = Journal.open(home / "journal.db", home / "bodies")
    kept = journal.accept(str(uuid4()), FUNCTION, b"k" * size)
    journal.commit()
    ballast = home / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            pass
    wanted = [str(uuid4()) for _ in range(20)]
    seqs = [journal.accept(task_id, FUNCTION, os.urandom(size)) for task_id in wanted]
    journal.finish(kept, b"the result")
    new_journal_is_refused(home / "other")
    error = refused(journal)
    assert error.exit_code == 73
    refused(journal)  # and again: nothing has changed
    assert {file.name for file in (home / "bodies").iterdir()} <= {f"{kept}.task"}
    journal.discard(seqs[10:])  # these go back to the broker
    ballast.unlink()
    assert journal.commit() is True
    assert [journal.knows(task_id) for task_id in wanted] == [True] * 10 + [False] * 10
    journal._writer.abandon()
    journal = Journal.open(home / "journal.db", home / "bodies")
    found = journal.recover()
    assert [task.seq for task in found.unfinished] == seqs[:10]
    assert found.unsent == [(kept, 10)]
    assert found.damaged == []
    assert all(len(journal.load(seq).body) == size for seq in seqs[:10])
    journal.close()


def new_journal_is_refused(home: Path) -> None:
    try:
        Journal.open(home / "journal.db", home / "bodies")
    except DiskUnfit:
        assert not (home / "journal.db").exists()
        return
    raise AssertionError("a journal was made on a full disk")


def start_on_a_full_disk(home: Path) -> None:
    paths = EndpointPaths.of(home / "ep", state_dir=str(home / "full"))
    paths.state.mkdir()
    (paths.state / "ballast").write_bytes(b"x" * (home.stat().st_blksize or 4096) * 4096)
    try:
        check_disk(paths)
    except DiskUnfit as error:
        assert "state_dir" in str(error)
        return
    raise AssertionError("a full disk passed the trial")


if __name__ == "__main__":
    base = Path(sys.argv[1])
    for number, body_size in enumerate((20_000, 200_000)):
        directory = base / str(number)
        directory.mkdir()
        journal_on_a_full_disk(directory, body_size)
        for leftover in (directory / "bodies").iterdir():
            leftover.unlink()
    start_on_a_full_disk(base)
    print("ok")
