"""What the agent says to a service manager, and the watchdog behind it."""

from __future__ import annotations

import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from cep.agent.notify import STATUS_LENGTH, Notify
from cep.agent.standing import Standing
from cep.agent.watch import CameRound, Watch
from cep.amqp.loop import AmqpLoop
from cep.errors import ConfigError


class Manager:
    """The receiving end, as systemd has it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)

    def hears(self) -> list[str]:
        """The next datagram, by lines."""
        return self._socket.recv(4096).decode().split("\n")

    def is_silent(self) -> bool:
        """Whether nothing waits."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self._socket.settimeout(60)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


def voice(manager: Manager, **more: str) -> Notify:
    return Notify.of({"NOTIFY_SOCKET": str(manager.path), **more})


def close(notify: Notify) -> None:
    notify._notifier.socket.close()


def test_ready_comes_with_the_status_in_one_message(manager: Manager) -> None:
    notify = voice(manager)
    notify.ready("connected; tasks 0 run/0 wait")
    assert manager.hears() == ["READY=1", "STATUS=connected; tasks 0 run/0 wait"]
    close(notify)


def test_a_status_is_one_bounded_line_whatever_it_holds(manager: Manager) -> None:
    notify = voice(manager)
    notify.status("first\nREADY=1\x1b[2J" + "x" * 1000)
    lines = manager.hears()
    assert len(lines) == 1
    assert lines[0].startswith("STATUS=first READY=1")
    assert "\x1b" not in lines[0]
    assert len(lines[0]) == len("STATUS=") + STATUS_LENGTH
    close(notify)


def test_the_reason_of_a_failure_stays_in_the_status(manager: Manager) -> None:
    notify = voice(manager)
    notify.failed(ConfigError("The value of engine is wrong."))
    assert manager.hears() == ["STATUS=failed: The value of engine is wrong."]
    close(notify)


def test_a_stop_asks_for_its_time_at_once(manager: Manager) -> None:
    notify = voice(manager)
    notify.stopping("stopping", 45)
    assert manager.hears() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=45000000", "STATUS=stopping"]
    close(notify)


def test_a_reload_is_told_with_its_time_in_one_message(manager: Manager) -> None:
    notify = voice(manager)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify.reloading("reloading; connected")
    reloading, at, status = manager.hears()
    assert (reloading, status) == ("RELOADING=1", "STATUS=reloading; connected")
    name, _, microseconds = at.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    close(notify)


@pytest.mark.parametrize(("ready", "stopping"), [(True, False), (False, False), (True, True)])
def test_the_end_of_a_reload_says_ready_only_to_whom_it_was_said_before(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, ready: bool, stopping: bool
) -> None:
    monkeypatch.setattr("cep.agent.standing.line", lambda *_words: "a line")
    monkeypatch.setattr(Standing, "write", lambda _self: None)
    notify = voice(manager)
    standing = Standing(Mock(notify=notify), lambda: "running", lambda: None)
    if ready:
        standing.ready()
        assert manager.hears()[0] == "READY=1"
    if stopping:
        standing.stopping()
        assert manager.hears()[0] == "STOPPING=1"
        manager.hears()  # more time
    standing.reloading()
    standing.reloaded({"changed": []})
    if ready and not stopping:
        assert manager.hears()[0] == "RELOADING=1"
        assert manager.hears()[0] == "READY=1"
    assert manager.is_silent()
    close(notify)


def test_the_environment_is_as_before(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify = voice(manager)
    assert "NOTIFY_SOCKET" not in os.environ
    assert not notify._notifier.socket.get_inheritable()
    close(notify)


def test_without_a_manager_nothing_is_said_and_nothing_fails() -> None:
    notify = Notify.of({})
    notify.ready("x")
    notify.alive()
    assert not notify.wanted
    assert notify.watchdog_s is None


# The library leaves a socket that could not be connected to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_manager_that_is_gone_fails_nothing(tmp_path: Path) -> None:
    notify = Notify.of({"NOTIFY_SOCKET": str(tmp_path / "nobody")})
    notify.ready("x")
    assert not notify.wanted


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}, 3.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_only_for_the_process_it_was_meant_for(
    manager: Manager, variables: dict[str, str], seconds: float | None
) -> None:
    notify = voice(manager, **variables)
    assert notify.watchdog_s == seconds
    close(notify)


class Rig:
    """A watch with parts that answer when the test says so, and a clock of the test's."""

    def __init__(self, manager: Manager) -> None:
        self.now = 0.0
        self.manager = manager
        self.notify = voice(manager, WATCHDOG_USEC="100000000")
        self.echoes: dict[str, list[Callable[[], None]]] = {"links": [], "engine": []}
        self.timers: list[float] = []
        self.watch = Watch(
            self.notify,
            {name: echoes.append for name, echoes in self.echoes.items()},
            self.take,
            self.timers.append,
            lambda: self.now,
        )

    def take(self, event: CameRound) -> None:
        self.watch.came_round(event)

    def answer(self, *names: str) -> None:
        for name in names:
            for echo in self.echoes[name]:
                echo()
            self.echoes[name].clear()

    def look_at(self, second: float) -> None:
        self.now = second
        self.watch.look()


@pytest.fixture
def rig(manager: Manager) -> Iterator[Rig]:
    made = Rig(manager)
    yield made
    close(made.notify)


def test_signs_of_life_go_on_while_every_part_answers(rig: Rig) -> None:
    rig.watch.begin()
    for second in (25, 50, 75, 100):
        assert rig.manager.hears() == ["WATCHDOG=1"]
        rig.answer("links", "engine")
        rig.look_at(second)
    assert rig.timers == [25.0] * 5


def test_a_stuck_part_ends_the_signs_of_life_and_is_named_before_the_kill(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.watch.begin()
    assert rig.manager.hears() == ["WATCHDOG=1"]
    rig.answer("links")
    rig.look_at(50)
    assert rig.manager.hears() == ["WATCHDOG=1"]
    rig.answer("links")
    rig.look_at(75)
    assert rig.manager.hears() == ["STATUS=stuck: engine did not come round for 75 s"]
    assert rig.manager.is_silent()
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "engine" in caplog.text
    assert "links" not in caplog.text


def test_a_part_that_answers_late_brings_the_signs_of_life_back(rig: Rig) -> None:
    rig.watch.begin()
    rig.manager.hears()
    rig.answer("links")
    rig.look_at(75)
    rig.manager.hears()
    rig.answer("links", "engine")
    rig.look_at(100)
    assert rig.manager.hears() == ["WATCHDOG=1"]


def test_a_part_is_asked_once_until_it_answers(rig: Rig) -> None:
    rig.watch.begin()
    rig.look_at(25)
    rig.look_at(50)
    assert len(rig.echoes["engine"]) == 1


def test_an_amqp_thread_that_is_stuck_does_not_come_round_and_one_that_is_not_does(
    manager: Manager,
) -> None:
    notify = voice(manager, WATCHDOG_USEC="100000000")
    now, heard = [0.0], queue.SimpleQueue[CameRound]()
    loop = AmqpLoop()
    watch = Watch(notify, {"amqp": loop.call}, heard.put, lambda _s: None, lambda: now[0])
    loop.start()
    release = threading.Event()
    try:
        watch.begin()
        assert manager.hears() == ["WATCHDOG=1"]
        watch.came_round(heard.get(timeout=60))

        loop.call(lambda: assert_released(release))
        watch.look()
        assert manager.hears() == ["WATCHDOG=1"]
        now[0] = 60.0
        watch.look()
        assert manager.hears() == ["STATUS=stuck: amqp did not come round for 60 s"]
        assert heard.empty()

        release.set()
        watch.came_round(heard.get(timeout=60))
        watch.look()
        assert manager.hears() == ["WATCHDOG=1"]
    finally:
        release.set()
        loop.stop(60.0)
        close(notify)


def assert_released(release: threading.Event) -> None:
    """Stand still until the test goes on."""
    assert release.wait(100)


def test_without_a_watchdog_nobody_is_asked() -> None:
    asked: list[Callable[[], None]] = []
    watch = Watch(Notify(), {"engine": asked.append}, lambda _event: None, lambda _s: None)
    watch.begin()
    watch.look()
    assert asked == []
    watch.came_round(CameRound("engine"))
