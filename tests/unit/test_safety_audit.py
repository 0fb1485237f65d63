"""The audit's writer: whole lines, one file of mode 0600, bounded, followed, honest when full."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cep.errors import AuditUnwritable, CantCreate, ConfigError
from cep.safety import audit
from cep.safety.audit import FileTrail, JournalTrail, open_trail


def read(file: Path) -> list[int]:
    return [json.loads(line)["n"] for line in file.read_text().splitlines()]


def numbers(*values: int) -> list[dict[str, int]]:
    return [{"n": value} for value in values]


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size, as a full disk would (a short write)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_lines_are_appended_to_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_text('{"n":0}\n')
    file.chmod(0o666)
    trail = open_trail("audit.log", tmp_path)
    trail.append(numbers(1, 2))
    trail.append(numbers(3))
    trail.close()
    assert trail.where == str(file)
    assert read(file) == [0, 1, 2, 3]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    trail = FileTrail(file)
    trail.append(numbers(1))
    file.rename(tmp_path / "rotated")
    trail.append(numbers(2))
    file.unlink()
    trail.append(numbers(3))
    trail.close()
    assert read(tmp_path / "rotated") == [1]
    assert read(file) == [3]


def test_the_size_is_bounded_and_the_order_kept(tmp_path: Path) -> None:
    trail = FileTrail(tmp_path / "a", max_bytes=100, backups=2)
    for number in range(100, 200):
        trail.append(numbers(number))
    trail.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a", "a.1", "a.2"]
    assert all(file.stat().st_size <= 110 for file in files)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    kept = [n for file in reversed(files) for n in read(file)]
    assert kept == list(range(kept[0], 200))


def test_a_full_disk_leaves_whole_lines_and_says_how_many(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    trail = FileTrail(file)
    trail.append(numbers(1))
    with full_at(20), pytest.raises(AuditUnwritable, match="cannot be written") as caught:
        trail.append(numbers(2, 3, 4))
    assert caught.value.taken == 1
    assert read(file) == [1, 2]
    trail.append(numbers(3, 4))
    trail.close()
    assert read(file) == [1, 2, 3, 4]


def test_what_a_full_disk_cut_off_stays_a_line_of_its_own_where_it_cannot_be_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with the attribute `append only` refuses to be made shorter."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    file = tmp_path / "audit.log"
    trail = FileTrail(file)
    monkeypatch.setattr(os, "ftruncate", refuse)
    with full_at(12), pytest.raises(AuditUnwritable) as caught:
        trail.append(numbers(1, 2))
    assert caught.value.taken == 1
    trail.append(numbers(2))
    trail.close()
    assert file.read_text().splitlines() == ['{"n":1}', '{"n"', '{"n":2}']


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "victim")
    with pytest.raises(CantCreate, match="cannot be opened"):
        open_trail("audit.log", tmp_path)
    assert not (tmp_path / "victim").exists()


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A stand-in for journald: its socket, and nothing behind it."""
    monkeypatch.setattr(audit, "JOURNAL_SOCKET", tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "socket"))
        server.settimeout(60)
        yield server


def test_the_journal_gets_one_entry_per_line_with_fields(
    tmp_path: Path, journald: socket.socket
) -> None:
    trail = open_trail("journald", tmp_path)
    trail.append([{"event": "end", "run_s": 1.5, "name": "a\nCEP_UID=0", "code": None}])
    trail.close()
    lines = journald.recv(65536).decode().splitlines()
    fields = dict(line.split("=", 1) for line in lines)
    assert len(fields) == len(lines)
    assert json.loads(fields["MESSAGE"])["event"] == "end"
    assert fields["CEP_EVENT"] == "end"
    assert fields["CEP_RUN_S"] == "1.5"
    assert fields["CEP_NAME"] == "a\\x0aCEP_UID=0"
    assert not {"CEP_UID", "CEP_CODE"} & fields.keys()


def test_a_journal_that_was_restarted_is_found_again_and_one_that_is_gone_is_told(
    tmp_path: Path, journald: socket.socket
) -> None:
    trail = JournalTrail(tmp_path / "socket")
    journald.close()
    (tmp_path / "socket").unlink()
    with pytest.raises(AuditUnwritable) as caught:
        trail.append(numbers(1))
    assert caught.value.taken == 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
        again.bind(str(tmp_path / "socket"))
        trail.append(numbers(2))
        assert b'MESSAGE={"n":2}' in again.recv(65536)
    trail.close()


def test_without_a_journal_the_configuration_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "JOURNAL_SOCKET", tmp_path / "nothing")
    with pytest.raises(ConfigError, match="journald") as caught:
        open_trail("journald", tmp_path)
    assert caught.value.exit_code == 78
