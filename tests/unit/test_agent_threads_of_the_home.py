"""The threads that touch the shared home, so that nobody else waits when it hangs."""

from __future__ import annotations

import logging
import queue
import threading

import pytest

from cep.agent import lease_keeper
from cep.agent.lease_keeper import LeaseGone, LeaseKeeper
from cep.agent.log_writer import LogWriter
from cep.errors import LeaseLost


class FakeHeld:
    """A lease on a file system that hangs until `answers` is set."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.asked = threading.Event()
        self.lost = False
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        self.asked.set()
        self.answers.wait(60)
        if self.lost:
            raise LeaseLost("somebody else's")

    renew = check


@pytest.fixture
def held() -> FakeHeld:
    return FakeHeld()


def keeper_of(held: FakeHeld, events: queue.SimpleQueue[LeaseGone]) -> LeaseKeeper:
    keeper = LeaseKeeper(held, events.put)  # type: ignore[arg-type]
    keeper.start()
    return keeper


def test_a_home_that_hangs_is_waited_for_once_and_a_lost_lease_is_told_later(
    held: FakeHeld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_keeper, "PATIENCE_S", 0.05)
    events: queue.SimpleQueue[LeaseGone] = queue.SimpleQueue()
    keeper = keeper_of(held, events)
    keeper.check()  # no answer: it proves nothing
    assert held.asked.wait(60)
    monkeypatch.setattr(lease_keeper, "PATIENCE_S", 60.0)
    for _ in range(10):
        keeper.check()
        keeper.renew()
    assert held.checks == 1, "no question is asked while one is unanswered"
    held.lost = True
    held.answers.set()
    assert isinstance(events.get(timeout=60).error, LeaseLost)
    keeper.stop()


def test_a_home_that_answers_is_waited_for(held: FakeHeld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_keeper, "PATIENCE_S", 60.0)
    held.answers.set()
    keeper = keeper_of(held, queue.SimpleQueue())
    keeper.check()
    held.lost = True
    with pytest.raises(LeaseLost):
        keeper.check()
    keeper.stop()


class Hanging(logging.Handler):
    """Writes lines to a list, once it may."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Event()
        self.may = threading.Event()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.begun.set()
        self.may.wait(60)
        self.lines.append(record.getMessage())


def test_who_logs_does_not_wait_for_the_disk_and_learns_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cep.agent.log_writer.KEPT_LINES", 20)
    monkeypatch.setattr("cep.agent.log_writer.FLUSH_S", 60.0)
    disk = Hanging()
    writer = LogWriter(disk)
    for number in range(100):
        writer.handle(logging.LogRecord("x", logging.INFO, "", 0, "line %d", (number,), None))
        assert disk.begun.wait(60)  # the writer holds the first line while all others come
    disk.may.set()
    writer.flush()
    writer.handle(logging.LogRecord("x", logging.INFO, "", 0, "the end", (), None))
    writer.close()
    assert disk.lines[0] == "line 0"
    assert disk.lines[-1] == "the end"
    assert "are missing here" in disk.lines[-2]
    (told,) = [line for line in disk.lines if "are missing here" in line]
    missing = int(told.split()[0])
    assert len(disk.lines) == 100 - missing + 2
    assert missing == 79
