"""The sockets between agent and interchange: who can reach them, when, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from cep.agent.control import socket_path
from cep.engines.interchange_link import InterchangeLink
from cep.errors import CantCreate, EngineError
from cep.paths import EndpointPaths

DEADLINE_MS = 60_000


class Peer:
    """An interchange's three sockets."""

    def __init__(self, link: InterchangeLink) -> None:
        self.context = zmq.Context()
        kinds = (zmq.DEALER, zmq.DEALER, zmq.REP)
        self.tasks, self.results, self.commands = (self.context.socket(kind) for kind in kinds)
        for socket, name in zip(self.sockets(), link.NAMES, strict=True):
            socket.connect(f"{link.address}/{name}")

    def sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        return (self.tasks, self.results, self.commands)

    def answer(self) -> None:
        """Wait for one question and send it back."""
        assert self.commands.poll(DEADLINE_MS)
        self.commands.send(self.commands.recv())

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "cep"


@pytest.fixture
def link(runtime: Path) -> Iterator[InterchangeLink]:
    made = InterchangeLink(runtime.parent)
    made.open()
    yield made
    made.close()
    assert not list(runtime.iterdir())


@pytest.fixture
def alive() -> Iterator[tuple[int, int]]:
    """A pipe: what an interchange that lives holds, and what the agent watches."""
    watched, held = os.pipe()
    yield watched, held
    os.close(watched)


def meet(link: InterchangeLink, peer: Peer, life: int) -> bytes | None:
    answering = threading.Thread(target=peer.answer)
    answering.start()
    try:
        return link.first_answer("hello", life, DEADLINE_MS)
    finally:
        answering.join()


def test_nobody_else_can_reach_them_and_after_the_interchange_has_connected_nobody_at_all(
    runtime: Path, link: InterchangeLink, alive: tuple[int, int]
) -> None:
    (directory,) = runtime.iterdir()
    assert link.address == f"ipc://{directory}"
    assert [place.stat().st_mode & 0o777 for place in (runtime, directory)] == [0o700, 0o700]
    assert sorted(place.name for place in directory.iterdir()) == sorted(link.NAMES)
    peer = Peer(link)
    answer = meet(link, peer, alive[0])
    assert answer is not None
    assert b"hello" in answer
    assert not list(runtime.iterdir())
    link.tasks.send(b"task")
    assert peer.tasks.poll(DEADLINE_MS)
    assert peer.tasks.recv() == b"task"
    peer.results.send(b"result")
    assert link.results.poll(DEADLINE_MS)
    assert link.results.recv() == b"result"
    peer.close()
    os.close(alive[1])


def test_the_door_for_managers_stays_when_nobody_can_reach_the_agent_any_more(
    runtime: Path, alive: tuple[int, int]
) -> None:
    link = InterchangeLink(runtime.parent, managers=True)
    link.open()
    (directory,) = runtime.iterdir()
    assert link.door == f"ipc://{directory}/m"
    peer = Peer(link)
    managers = peer.context.socket(zmq.ROUTER)
    managers.bind(link.door)
    assert meet(link, peer, alive[0])
    assert [place.name for place in directory.iterdir()] == ["m"]
    assert directory.stat().st_mode & 0o777 == 0o700
    peer.close()
    link.close()
    assert not list(runtime.iterdir())
    os.close(alive[1])


@pytest.mark.parametrize("name", ["a b", "a,b", "a{b}", "a'b", "a$b", "\u00e4"])
def test_where_a_list_in_a_shells_command_would_not_keep_it_there_is_no_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / name))
    link = InterchangeLink(tmp_path, managers=True)
    link.open()
    assert link.address.startswith(f"ipc://{tmp_path / name}")
    assert link.door is None
    link.close()


def test_an_interchange_that_ends_before_it_has_connected_is_noticed(
    link: InterchangeLink, alive: tuple[int, int]
) -> None:
    os.close(alive[1])
    assert link.first_answer("hello", alive[0], DEADLINE_MS) is None


def test_an_interchange_that_ends_before_it_answers_is_noticed(
    link: InterchangeLink, alive: tuple[int, int]
) -> None:
    peer = Peer(link)
    os.close(alive[1])
    assert link.first_answer("hello", alive[0], DEADLINE_MS) is None
    peer.close()


def test_an_interchange_of_an_earlier_life_does_not_reach_the_next(
    runtime: Path, alive: tuple[int, int]
) -> None:
    first, second = InterchangeLink(runtime.parent), InterchangeLink(runtime.parent)
    first.open()
    old = Peer(first)
    assert meet(first, old, alive[0])
    first.close()  # from now on the old one tries to connect again
    second.open()
    new = Peer(second)
    assert second.address != first.address
    assert meet(second, new, alive[0])
    for number in range(10):
        second.tasks.send(b"%d" % number)
    for number in range(10):
        assert new.tasks.poll(DEADLINE_MS)
        assert new.tasks.recv() == b"%d" % number
    assert not old.tasks.poll(0)
    for one in (old, new, second):
        one.close()
    os.close(alive[1])


KILLED = """
import os, signal, sys
from pathlib import Path
from cep.engines.interchange_link import InterchangeLink
InterchangeLink(Path(sys.argv[1])).open()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_life_left_goes_with_the_next_start_and_what_is_anothers_stays(
    runtime: Path,
) -> None:
    others = InterchangeLink(runtime.parent / "another")
    others.open()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(runtime.parent)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(runtime.iterdir())) == 2
    again = InterchangeLink(runtime.parent)
    again.open()
    places = {Path(one.address.removeprefix("ipc://")) for one in (again, others)}
    assert set(runtime.iterdir()) == places
    again.close()
    others.close()
    assert not list(runtime.iterdir())


@pytest.mark.parametrize("what", ["a link", "open to a group", "somebody else's"])
def test_a_directory_for_sockets_that_is_not_ours_alone_is_refused(
    runtime: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "a link":
        (runtime.parent / "elsewhere").mkdir(mode=0o700)
        runtime.symlink_to(runtime.parent / "elsewhere")
    else:
        runtime.mkdir(mode=0o700)
    if what == "open to a group":
        runtime.chmod(0o750)
    if what == "somebody else's":
        monkeypatch.setattr("os.getuid", lambda: 4711)
    link = InterchangeLink(runtime.parent)
    with pytest.raises(CantCreate, match="not a directory of yours alone"):
        link.open()
    link.close()
    assert not list(runtime.iterdir())


def test_a_path_too_long_for_a_socket_is_refused_with_what_to_do(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = runtime.parent / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    link = InterchangeLink(runtime.parent)
    with pytest.raises(EngineError, match="File name too long") as refused:
        link.open()
    assert str(long) in str(refused.value)
    assert "XDG_RUNTIME_DIR" in (refused.value.hint or "")
    link.close()
    assert not list((long / "cep").iterdir())


def test_where_the_agents_control_socket_has_room_they_have_too(
    runtime: Path, link: InterchangeLink
) -> None:
    control = socket_path(EndpointPaths.of(runtime.parent / "endpoint"))
    longest = max(len(f"{link.address.removeprefix('ipc://')}/{name}") for name in link.NAMES)
    assert longest <= len(str(control))


def test_closing_without_having_opened_does_nothing(runtime: Path) -> None:
    link = InterchangeLink(runtime.parent)
    link.close()
    link.close()
    assert not runtime.exists()
