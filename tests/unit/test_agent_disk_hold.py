"""The hold that a failing disk causes: when it begins, what still goes through, when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.agent.audit import Unaudited
from cep.agent.disk_hold import TIMER, DiskHold
from cep.agent.dispatcher import Dispatcher
from cep.agent.intake import HOLD_DISK, Intake
from cep.agent.mailbox import Timers
from cep.agent.outbox import Outbox
from cep.agent.parts import Desk
from cep.config.settings import IntakeLimits
from cep.errors import DiskUnfit
from cep.journal.batch import Batch
from cep.journal.journal import Journal
from cep.journal.memory import Memory
from tests.unit.agent_fakes import (
    ENDPOINT,
    FakeConsumer,
    FakeEngine,
    FakePublisher,
    delivery,
    open_journal,
)


class Scene:
    """The parts that a hold touches, on a real journal whose disk has room for `room` tasks."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = journal
        self.room = 1000
        self.consumer = FakeConsumer()
        self.dispatcher = Dispatcher(journal, FakeEngine(), endpoint_id=ENDPOINT, max_retries=0)
        self.outbox = Outbox(journal, FakePublisher())
        self.intake = Intake(
            journal,
            self.consumer,
            Desk(self.dispatcher, self.outbox),
            endpoint_id=ENDPOINT,
            allowed_functions=None,
            task_size_limit=1000,
            limits=IntakeLimits(),
        )
        self.timers = Timers(lambda: 0.0)
        self.told: list[str | None] = []
        self.hold = DiskHold(
            journal=journal,
            audit=Unaudited(),
            intake=self.intake,
            dispatcher=self.dispatcher,
            outbox=self.outbox,
            timers=self.timers,
            tell=lambda: self.told.append(self.hold.trouble),
        )
        write, trial = journal._writer.write, journal._writer.trial

        def full_write(batch: Batch, memory: Memory) -> None:
            if len(batch.accepted) > self.room:
                raise DiskUnfit("no room")
            write(batch, memory)

        def full_trial(body_bytes: int) -> bool:
            if not self.room:
                raise DiskUnfit("still no room")
            return trial(body_bytes)

        monkeypatch.setattr(journal._writer, "write", full_write)
        monkeypatch.setattr(journal._writer, "trial", full_trial)
        self.intake.begin()

    def take(self, count: int) -> bool:
        self.intake.take([delivery(tag) for tag in range(1, count + 1)])
        return self.hold.commit()


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    journal = open_journal(tmp_path)
    made = Scene(journal, monkeypatch)
    yield made
    made.room = 1000
    journal.close()


def test_an_empty_commit_proves_nothing_and_does_not_end_the_hold(scene: Scene) -> None:
    scene.room = 0
    assert scene.take(3) is True, "nothing is left to write"
    assert scene.hold.commit() is True
    assert scene.intake.held() == [HOLD_DISK]
    assert scene.consumer.told == [("consume", 5000), ("pause",)]
    scene.hold.look()
    assert scene.intake.held() == [HOLD_DISK]
    assert scene.timers.next_in_s() is not None, f"{TIMER} is set again"
    scene.room = 10
    scene.hold.look()
    assert scene.intake.held() == []
    assert scene.consumer.told[-1] == ("consume", 5000)
    assert scene.told == ["no room", "still no room", None]


def test_what_there_is_room_for_is_taken_and_the_rest_goes_back(scene: Scene) -> None:
    scene.room = 2
    assert scene.take(8) is True
    scene.intake.acknowledge()
    assert scene.consumer.told[-1] == ("ack", 1, (1, 2))
    scene.intake.consuming_stopped(1)
    kind, epoch, tags = scene.consumer.told[-1]
    assert (kind, epoch) == ("give_back", 1)
    assert sorted(tags) == [3, 4, 5, 6, 7, 8]  # type: ignore[call-overload]
    assert scene.dispatcher.unfinished == 2
    assert scene.journal.counts().unfinished == 2


def test_what_cannot_be_taken_goes_back_at_once_when_the_cancel_is_through(scene: Scene) -> None:
    scene.room = 0
    scene.intake.take([delivery(1)])
    scene.intake.hold("high mark reached")
    scene.intake.consuming_stopped(1)  # in the same turn as the delivery
    scene.hold.commit()
    assert scene.journal.counts().unfinished == 0
    assert scene.consumer.told[-1] == ("give_back", 1, (1,))
