"""Start slots survive the death of their writer, and are not believed after a reboot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cep.worker import slots
from cep.worker.slots import SlotReader, SlotWriter, begun_seqs, clear

WRITER = """
import sys
from pathlib import Path
from cep.worker.slots import SlotWriter
writer = SlotWriter(Path(sys.argv[1]))
for seq in range(int(sys.argv[2])):
    writer.begin(seq)
print("begun", flush=True)
sys.stdin.read()
"""


def test_begun_tasks_survive_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path), "5000"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"begun\n"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert (tmp_path / f"{child.pid}.slots").exists()
    assert begun_seqs(tmp_path) == set(range(5000 - slots.RING, 5000))


def test_rings_of_several_workers_are_read_together(tmp_path: Path) -> None:
    for name, seqs in (("a", (1, 2)), ("b", (7,))):
        writer = SlotWriter(tmp_path, name)
        for seq in seqs:
            writer.begin(seq)
        writer.close()
    assert begun_seqs(tmp_path) == {1, 2, 7}


def test_a_successor_continues_the_ring(tmp_path: Path) -> None:
    first = SlotWriter(tmp_path, "worker-0")
    first.begin(1)
    first.close()
    reader = SlotReader(tmp_path / "worker-0.slots")
    base = reader.count()
    second = SlotWriter(tmp_path, "worker-0")
    second.begin(2)
    assert reader.since(base) == {2}
    assert begun_seqs(tmp_path) == {1, 2}
    second.close()


def test_files_of_another_boot_are_ignored_and_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "boot_id", lambda: "0" * 36)
    old = SlotWriter(tmp_path, "worker-0")
    old.begin(5)
    old.close()
    monkeypatch.undo()
    assert begun_seqs(tmp_path) == set()
    new = SlotWriter(tmp_path, "worker-0")
    new.begin(6)
    new.close()
    assert begun_seqs(tmp_path) == {6}


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(33000), b"CEPSLOT1" + bytes(40)])
def test_damaged_files_are_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "worker-0.slots").write_bytes(content)
    assert begun_seqs(tmp_path) == set()
    SlotWriter(tmp_path, "worker-0").begin(3)
    assert begun_seqs(tmp_path) == {3}


def test_a_missing_directory_has_no_begun_tasks(tmp_path: Path) -> None:
    assert begun_seqs(tmp_path / "none") == set()
    clear(tmp_path / "none")


def test_clear_removes_rings_only(tmp_path: Path) -> None:
    SlotWriter(tmp_path, "a").begin(1)
    (tmp_path / "other").write_text("x")
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_the_directory_and_its_files_are_the_owners_only(tmp_path: Path) -> None:
    writer = SlotWriter(tmp_path / "new", "a")
    writer.close()
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert writer.path.stat().st_mode & 0o777 == 0o600
