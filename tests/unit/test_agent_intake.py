"""Intake: every delivery is settled exactly once, and only after the disk has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cep.agent.intake import HOLD_DISK, HOLD_FULL, HOLD_PAUSED, PROBE_AT, Intake
from cep.config.settings import IntakeLimits
from cep.journal.journal import Journal
from cep.model import Delivery
from cep.wire.result import unpack_result
from cep.wire.task import pack_task
from tests.unit.agent_fakes import (
    ENDPOINT,
    FUNCTION,
    FakeConsumer,
    FakeDesk,
    delivery,
    open_journal,
    task_id,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = open_journal(tmp_path)
    yield journal
    journal.close()


class Scene:
    def __init__(self, journal: Journal, **options: object) -> None:
        self.journal = journal
        self.consumer = FakeConsumer()
        self.desk = FakeDesk()
        settings: dict[str, object] = {
            "endpoint_id": ENDPOINT,
            "allowed_functions": None,
            "task_size_limit": 1000,
            "limits": IntakeLimits(high_tasks=4, low_tasks=2),
            **options,
        }
        self.intake = Intake(journal, self.consumer, self.desk, **settings)  # type: ignore[arg-type]

    def turn(self, deliveries: Sequence[Delivery]) -> None:
        self.intake.take(deliveries)
        assert not self.acks(), "nothing may be acked before the commit"
        self.journal.commit()
        self.intake.acknowledge()

    def acks(self) -> list[tuple[object, ...]]:
        return [said for said in self.consumer.told if said[0] == "ack"]

    def answer(self, seq: int) -> tuple[str | None, str]:
        result = unpack_result(self.journal.result(seq))
        return result.error_code, result.data


def test_a_task_is_journaled_then_acked(journal: Journal) -> None:
    scene = Scene(journal)
    id_ = task_id()
    scene.turn([delivery(7, id_)])
    assert journal.knows(id_)
    assert scene.acks() == [("ack", 1, (7,))]
    assert len(scene.desk.tasks) == 1


def test_a_repeated_delivery_is_acked_and_not_run_again(journal: Journal) -> None:
    scene = Scene(journal)
    id_ = task_id()
    scene.intake.take([delivery(1, id_), delivery(2, id_)])
    journal.commit()
    scene.intake.acknowledge()
    assert scene.acks() == [("ack", 1, (1, 2))]
    assert len(scene.desk.tasks) == 1
    assert scene.intake.counters["repeated"] == 1


def test_the_proven_ack_of_a_repeat_lets_the_answered_task_be_forgotten(journal: Journal) -> None:
    scene = Scene(journal)
    id_ = task_id()
    scene.turn([delivery(1, id_)])
    (seq,) = scene.desk.tasks
    journal.finish(seq, b"result")
    journal.settle([seq])
    journal.commit()
    scene.intake.channel(2)  # the first ack may be lost: the id stays
    assert journal.knows(id_)
    scene.consumer.told.clear()
    scene.turn([delivery(1, id_, epoch=2)])
    journal.acks_processed(2, 2)
    journal.commit()
    assert not journal.knows(id_)


def test_a_task_that_the_service_sends_twice_does_not_run_when_the_first_is_forgotten(
    journal: Journal,
) -> None:
    """A service whose link broke sends again what it cannot know to have arrived."""
    scene = Scene(journal)
    id_ = task_id()
    scene.turn([delivery(1, id_)])
    (seq,) = scene.desk.tasks
    journal.finish(seq, b"result")
    journal.settle([seq])
    journal.acks_processed(1, 1)
    journal.commit()
    assert not journal.knows(id_)
    scene.consumer.told.clear()
    scene.turn([delivery(2, id_)])
    assert scene.acks() == [("ack", 1, (2,))]
    assert list(scene.desk.tasks) == [seq]
    assert not journal.knows(id_)


def test_a_task_that_the_disk_could_not_take_is_new_when_it_comes_again(journal: Journal) -> None:
    scene = Scene(journal)
    id_ = task_id()
    scene.intake.take([delivery(1, id_)])
    journal.discard(scene.intake.withdraw())
    scene.intake.consuming_stopped(1)
    scene.consumer.told.clear()
    scene.turn([delivery(2, id_)])
    assert scene.acks() == [("ack", 1, (2,))]
    assert len(scene.desk.tasks) == 2
    assert journal.knows(id_)


def test_acks_of_an_old_channel_are_dropped(journal: Journal) -> None:
    scene = Scene(journal)
    scene.intake.take([delivery(1, epoch=1)])
    scene.intake.channel(2)
    journal.commit()
    scene.intake.acknowledge()
    assert scene.acks() == []


def test_garbage_without_an_id_is_rejected_and_the_next_task_runs(journal: Journal) -> None:
    scene = Scene(journal)
    scene.turn([Delivery(1, 1, {}, b"\x00garbage"), delivery(2)])
    assert ("reject", 1, (1,)) in [(s[0], s[1], tuple(s[2])) for s in scene.consumer.told]  # type: ignore[arg-type]
    assert scene.acks() == [("ack", 1, (2,))]
    assert scene.intake.counters["malformed"] == 1


def test_broken_headers_are_answered_when_the_body_names_the_task(journal: Journal) -> None:
    scene = Scene(journal)
    id_ = task_id()
    scene.turn([Delivery(1, 1, {"function_uuid": 5}, pack_task(id_, "x"))])
    assert scene.acks() == [("ack", 1, (1,))]
    (seq,) = scene.desk.answers
    assert scene.answer(seq)[0] == "CouldNotExecuteUserTaskError"


def test_a_function_that_is_not_allowed_is_answered_at_once(journal: Journal) -> None:
    scene = Scene(journal, allowed_functions=[ENDPOINT])
    scene.turn([delivery(1)])
    (seq,) = scene.desk.answers
    code, text = scene.answer(seq)
    assert code == "FUNCTION_NOT_ALLOWED"
    assert FUNCTION in text
    assert scene.desk.tasks == []


def test_an_oversized_task_is_answered_with_both_sizes(journal: Journal) -> None:
    scene = Scene(journal)
    scene.turn([delivery(1, body=b"x" * 1001), delivery(2, body=b"x" * 1000)])
    (seq,) = scene.desk.answers
    code, text = scene.answer(seq)
    assert code == "TASK_TOO_LARGE"
    assert "1001" in text
    assert "1000" in text
    assert len(scene.desk.tasks) == 1


def test_consuming_stops_at_the_high_mark_and_resumes_at_the_low_one(journal: Journal) -> None:
    scene = Scene(journal)
    scene.intake.begin()
    for unfinished in (3, 4, 3, 2):
        scene.intake.balance(unfinished, 0)
    assert scene.consumer.told == [("consume", 4), ("pause",), ("consume", 4)]


def test_no_more_messages_are_asked_for_at_once_than_the_high_mark_also_after_a_change(
    journal: Journal,
) -> None:
    scene = Scene(journal)
    scene.intake.begin()

    def change_to(high_tasks: int) -> None:
        scene.intake.change(
            allowed_functions=None,
            task_size_limit=1000,
            limits=IntakeLimits(high_tasks=high_tasks, low_tasks=2),
        )

    change_to(9)
    scene.intake.hold(HOLD_PAUSED)
    change_to(7)
    assert scene.consumer.told == [("consume", 4), ("consume", 9), ("pause",)]
    scene.intake.release(HOLD_PAUSED)
    assert scene.consumer.told[-1] == ("consume", 7)


def test_two_reasons_hold_until_both_are_gone(journal: Journal) -> None:
    scene = Scene(journal)
    scene.intake.begin()
    scene.intake.hold(HOLD_PAUSED)
    scene.intake.hold(HOLD_FULL)
    scene.intake.release(HOLD_FULL)
    assert scene.consumer.told == [("consume", 4), ("pause",)]
    scene.intake.release(HOLD_PAUSED)
    assert scene.consumer.told[-1] == ("consume", 4)


def test_with_a_full_disk_tasks_go_back_after_the_cancel(journal: Journal) -> None:
    scene = Scene(journal)
    scene.intake.take([delivery(1)])
    assert len(scene.intake.withdraw()) == 1
    scene.intake.hold(HOLD_DISK)
    scene.intake.take([delivery(2)])
    assert [said for said in scene.consumer.told if said[0] == "give_back"] == []
    scene.intake.consuming_stopped(1)
    assert scene.consumer.told[-1] == ("give_back", 1, (1, 2))
    scene.intake.acknowledge()
    assert scene.acks() == []


def test_a_probe_asks_about_the_latest_acks(journal: Journal) -> None:
    scene = Scene(journal)
    scene.turn([delivery(1)])
    scene.intake.probe()
    assert scene.consumer.told[-1] == ("probe", 1, 1)


def test_many_acks_are_probed_without_waiting_for_a_heartbeat(journal: Journal) -> None:
    scene = Scene(journal)
    probes: list[tuple[object, ...]] = []
    for tag in range(1, 2 * PROBE_AT + 2):
        scene.intake.take([delivery(tag)])
        journal.commit()
        scene.intake.acknowledge()
        probes = [said for said in scene.consumer.told if said[0] == "probe"]
        assert len(probes) == tag // PROBE_AT
    assert probes == [("probe", 1, PROBE_AT), ("probe", 1, 2 * PROBE_AT)]


def test_a_task_whose_ack_was_proven_before_its_answer_leaves_nothing(journal: Journal) -> None:
    scene = Scene(journal)
    ids = [task_id() for _ in range(PROBE_AT)]
    scene.turn([delivery(tag, id_) for tag, id_ in enumerate(ids, 1)])
    assert scene.consumer.told[-1] == ("probe", 1, 1)
    journal.acks_processed(1, 1)
    for seq in scene.desk.tasks:
        journal.finish(seq, b"r")
    journal.settle(scene.desk.tasks)
    journal.commit()
    assert not any(journal.knows(id_) for id_ in ids)
