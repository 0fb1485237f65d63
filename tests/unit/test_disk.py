"""The trial of a directory's file system; what lies is played by small patches of the calls."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from cep.agent.disk import LOCAL_ROOM, SHARED_ROOM, check_disk
from cep.errors import CantCreate, DiskUnfit
from cep.paths import EndpointPaths


@pytest.fixture
def paths(tmp_path: Path) -> EndpointPaths:
    return EndpointPaths.of(
        tmp_path / "ep", run_dir=str(tmp_path / "run"), state_dir=str(tmp_path / "state")
    )


def test_honest_directories_pass_and_are_left_empty_and_private(paths: EndpointPaths) -> None:
    before = os.umask(0)
    try:
        check_disk(paths)
    finally:
        os.umask(before)
    for half in (paths.root, paths.run, paths.state):
        assert list(half.iterdir()) == []
        assert half.stat().st_mode & 0o777 == 0o700


def test_one_directory_for_both_halves_passes(tmp_path: Path) -> None:
    check_disk(EndpointPaths.of(tmp_path / "ep"))


def refused(paths: EndpointPaths, word: str) -> str:
    with pytest.raises(DiskUnfit, match=word) as caught:
        check_disk(paths)
    assert caught.value.exit_code == 73
    assert not any(file.is_file() for file in paths.root.parent.rglob("*"))
    return str(caught.value)


def test_a_file_system_that_refuses_locks_is_refused_with_the_way_out(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    text = refused(paths, "refuses locks")
    assert "state_dir:" in text
    assert str(paths.config) in text


def test_a_file_system_that_grants_a_lock_twice_is_refused(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "fcntl", lambda *_: b"")
    assert "state_dir:" in refused(paths, "grants the same lock twice")


def test_locks_are_not_asked_of_the_shared_half(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute nodes may see it over a network file system without locks; the lease needs none."""
    asked: list[str] = []
    real = fcntl.fcntl

    def remember(descriptor: int, *rest: object) -> object:
        asked.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        return real(descriptor, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "fcntl", remember)
    check_disk(paths)
    assert asked
    assert all(str(paths.state) in name for name in asked)


def test_a_name_that_can_be_taken_twice_is_refused(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def careless(path: str, flags: int, *rest: int) -> int:
        return real(path, flags & ~os.O_EXCL, *rest)

    monkeypatch.setattr(os, "open", careless)
    refused(paths, "exclusively twice")


def test_bytes_that_change_are_refused(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _: b"other")
    refused(paths, "other bytes")


@pytest.mark.parametrize(
    ("number", "word"),
    [(errno.EDQUOT, "quota"), (errno.ENOSPC, "No space"), (errno.EIO, "Input/output")],
)
def test_a_failing_flush_or_a_quota_is_told(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch, number: int, word: str
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    refused(paths, word)


@pytest.mark.parametrize(
    ("half", "room"), [("root", SHARED_ROOM), ("run", SHARED_ROOM), ("state", LOCAL_ROOM)]
)
def test_a_directory_without_room_is_refused_by_name(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch, half: str, room: int
) -> None:
    tight = getattr(paths, half)

    def statvfs(directory: Path) -> SimpleNamespace:
        blocks = (room - 1) // 512 if directory == tight else 1 << 40
        return SimpleNamespace(f_bavail=blocks, f_frsize=512, f_blocks=1 << 41)

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert str(tight) in refused(paths, "bytes left")


def test_a_file_system_that_does_not_count_its_space_is_not_full(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = SimpleNamespace(f_bavail=0, f_frsize=0, f_blocks=0)
    monkeypatch.setattr(os, "statvfs", lambda _: nothing)
    check_disk(paths)


def somebody_elses(paths: EndpointPaths) -> str:
    os.chown(paths.state, 65534, 65534)
    return "belongs to user 65534"


def somebody_elses_link(paths: EndpointPaths) -> str:
    target = paths.state.with_name("target")
    paths.state.rename(target)
    paths.state.symlink_to(target)
    os.lchown(paths.state, 65534, 65534)
    return "symbolic link that belongs to user 65534"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
@pytest.mark.parametrize("give_away", [somebody_elses, somebody_elses_link])
def test_a_directory_of_another_user_is_refused(
    paths: EndpointPaths, give_away: Callable[[EndpointPaths], str]
) -> None:
    paths.state.mkdir(parents=True)
    word = give_away(paths)
    with pytest.raises(CantCreate, match=word):
        check_disk(paths)


def test_a_directory_of_another_user_is_refused_for_anybody(
    paths: EndpointPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths.root.mkdir()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    with pytest.raises(CantCreate, match=rf"not to you \(user {other}\)"):
        check_disk(paths)


def test_ones_own_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "scratch")
    check_disk(EndpointPaths.of(tmp_path / "ep", state_dir=str(tmp_path / "state")))


def test_a_file_in_the_place_of_a_directory_is_refused(paths: EndpointPaths) -> None:
    paths.state.parent.mkdir(exist_ok=True)
    paths.state.write_text("")
    with pytest.raises(CantCreate, match="cannot be made"):
        check_disk(paths)
