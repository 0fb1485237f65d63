"""Large bodies are all on the disk before anything names them, however many are flushed at once."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cep.journal.bodies import OPEN_FILES, TASK, THREADS, BodyFiles

MANY = 2 * OPEN_FILES + 1


@pytest.fixture
def bodies(tmp_path: Path) -> BodyFiles:
    made = BodyFiles(tmp_path / "bodies")
    made.prepare()
    return made


def test_every_file_is_flushed_and_several_at_the_same_time(
    bodies: BodyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    together = threading.Barrier(THREADS)
    flush = os.fsync

    def noted(descriptor: int) -> None:
        if len(flushed) < THREADS:
            together.wait(60)
        flush(descriptor)
        flushed.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    bodies.write([(seq, TASK, b"%d" % seq) for seq in range(THREADS)])
    monkeypatch.setattr(os, "fsync", lambda one: (flush(one), flushed.append(os.fstat(one).st_ino)))
    bodies.write([(seq, TASK, b"%d" % seq) for seq in range(THREADS, MANY)])
    bodies.close()
    names = {path.name: path.stat().st_ino for path in bodies._directory.iterdir()}
    assert sorted(names.values()) == sorted(flushed)
    assert [bodies.read(seq, TASK, len(str(seq))) for seq in range(MANY)] == [
        b"%d" % seq for seq in range(MANY)
    ]
    assert bodies.total_bytes == sum(len(str(seq)) for seq in range(MANY))


def test_files_that_nobody_needs_are_counted_out_at_once_and_removed_soon(
    bodies: BodyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever removes them waits for nobody; one that resists is left for the next start."""
    bodies.write([(seq, TASK, b"body") for seq in range(3)])
    allowed = threading.Event()
    unlink = Path.unlink

    def slow(path: Path, **how: bool) -> None:
        assert allowed.wait(60)
        if path.name == "1.task":
            raise PermissionError
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", slow)
    bodies.remove_soon([(seq, TASK) for seq in range(3)])
    assert bodies.total_bytes == 0
    assert not any(bodies.holds(seq, TASK) for seq in range(3))
    assert len(list(bodies._directory.iterdir())) == 3
    allowed.set()
    bodies.close()
    assert [path.name for path in bodies._directory.iterdir()] == ["1.task"]


def test_one_that_cannot_be_flushed_is_an_error_and_all_are_closed(
    bodies: BodyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    flush = os.fsync

    def broken(descriptor: int) -> None:
        flush(descriptor)
        if os.fstat(descriptor).st_size == 3:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        bodies.write([(seq, TASK, b"x" * seq) for seq in range(1, 6)])
    bodies.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert bodies.total_bytes == 0
