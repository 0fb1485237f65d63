"""The agent's audit: which lines are written for what becomes of a task, and when."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from cep.agent.audit import Audit
from cep.agent.disk_hold import DiskHold
from cep.agent.dispatcher import Dispatcher
from cep.agent.intake import HOLD_AUDIT, HOLD_DISK, Intake
from cep.agent.mailbox import Timers
from cep.agent.outbox import Outbox
from cep.agent.parts import Desk
from cep.agent.recovery import recover
from cep.config.settings import IntakeLimits
from cep.errors import AuditUnwritable, DiskUnfit
from cep.model import Delivery, Outcome, OutcomeKind, Place
from cep.safety.audit import Line
from cep.wire.result import pack_result, peek_error
from tests.unit.agent_fakes import (
    ENDPOINT,
    FUNCTION,
    FakeConsumer,
    FakeEngine,
    FakePublisher,
    delivery,
    open_journal,
    task_id,
)

GROUP = "77777777-2222-4333-8444-555555555555"


class Memory:
    """A trail that keeps its lines, and takes no more than it is allowed."""

    where = "memory"

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.room = 10_000

    def append(self, lines: Sequence[Line]) -> None:
        taken = min(self.room, len(lines))
        self.lines += [dict(line) for line in lines[:taken]]
        self.room -= taken
        if taken < len(lines):
            raise AuditUnwritable("The audit log is full.", taken=taken)

    def close(self) -> None:
        """Nothing is open."""

    def told(self) -> list[tuple[str, str]]:
        """(event, task id) of each line, in order."""
        return [(line["event"], line["task"]) for line in self.lines]


class Scene:
    def __init__(self, directory: Path, *, allowed: tuple[str, ...] | None = None) -> None:
        self.trail = Memory()
        self.audit = Audit(self.trail, ENDPOINT)
        self.journal = open_journal(directory)
        self.consumer = FakeConsumer()
        self.outbox = Outbox(self.journal, FakePublisher())
        self.dispatcher = Dispatcher(
            self.journal, FakeEngine(), endpoint_id=ENDPOINT, max_retries=1, audit=self.audit
        )
        self.dispatcher.slots_changed(10)
        self.intake = Intake(
            self.journal,
            self.consumer,
            Desk(self.dispatcher, self.outbox),
            endpoint_id=ENDPOINT,
            allowed_functions=allowed,
            task_size_limit=1000,
            limits=IntakeLimits(),
            audit=self.audit,
        )

        self.disk = DiskHold(
            journal=self.journal,
            audit=self.audit,
            intake=self.intake,
            dispatcher=self.dispatcher,
            outbox=self.outbox,
            timers=Timers(lambda: 0.0),
            tell=lambda: None,
        )

    def turn(self) -> None:
        """One turn of the main loop, as `MainLoop._turn` does it."""
        if not self.disk.held:
            self.dispatcher.choose()
        if not self.disk.commit():
            return
        self.intake.acknowledge()
        self.dispatcher.hand_over()

    def end(self, seq: int, kind: OutcomeKind = OutcomeKind.DONE, **more: Any) -> None:
        self.dispatcher.take_outcomes([Outcome(seq, kind, **more)])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.journal.close()


def test_a_task_has_a_line_when_it_arrives_begins_and_ends(scene: Scene) -> None:
    id_ = task_id()
    headers = {"task_uuid": id_, "function_uuid": FUNCTION, "task_group_id": GROUP}
    scene.intake.take([Delivery(1, 1, headers, b"body")])
    scene.turn()
    (seq,) = scene.dispatcher._given
    place = Place(node="n1", worker="17", block="0", job="4711")
    scene.end(seq, result=pack_result(id_, "secret"), run_s=0.25, place=place)
    scene.turn()
    arrive, begin, end = scene.trail.lines
    assert [line["event"] for line in scene.trail.lines] == ["arrive", "begin", "end"]
    for line in scene.trail.lines:
        assert line["time"].endswith("+00:00")
        assert line["endpoint"] == ENDPOINT
        assert line["task"] == id_
        assert line["function"] == FUNCTION
        assert line["group"] == GROUP
        assert line["uid"] == os.getuid()
        assert "secret" not in str(line)
        assert "body" not in str(line)
    assert arrive["time"] <= begin["time"] <= end["time"]
    assert end["outcome"] == "success"
    assert end["run_s"] == 0.25
    assert end["duration_s"] >= 0
    assert {key: end[key] for key in ("node", "worker", "block", "job")} == {
        "node": "n1",
        "worker": "17",
        "block": "0",
        "job": "4711",
    }


def test_the_lines_of_a_turn_are_written_before_anything_is_acked_or_handed_over(
    scene: Scene,
) -> None:
    scene.trail.room = 0
    scene.intake.take([delivery(1)])
    scene.turn()
    assert scene.intake.held() == [HOLD_AUDIT]
    assert scene.consumer.told == [("pause",)]
    assert scene.dispatcher._engine.given == []  # type: ignore[attr-defined]


def test_a_task_that_goes_back_to_the_broker_has_no_line_or_one_that_says_so(
    scene: Scene,
) -> None:
    first, second = task_id(), task_id()
    scene.trail.room = 1
    scene.intake.take([delivery(1, first), delivery(2, second)])
    scene.turn()
    assert scene.intake.held() == [HOLD_AUDIT]
    assert scene.dispatcher.unfinished == 0
    scene.trail.room = 100
    scene.turn()
    gap = scene.trail.lines.pop(1)
    assert gap["event"] == "gap"
    assert scene.trail.told() == [("arrive", first), ("return", first)]


def test_a_log_that_is_still_full_is_noticed_before_tasks_are_taken_again(scene: Scene) -> None:
    scene.trail.room = 0
    scene.intake.take([delivery(1)])
    scene.turn()
    assert scene.intake.held() == [HOLD_AUDIT]
    scene.disk.look()
    assert scene.intake.held() == [HOLD_AUDIT]
    scene.trail.room = 100
    scene.disk.look()
    assert scene.intake.held() == []
    assert [line["event"] for line in scene.trail.lines] == ["gap"]


def test_an_audit_that_moves_takes_along_what_the_old_place_did_not_take(scene: Scene) -> None:
    scene.intake.take([delivery(1)])
    scene.turn()
    before = len(scene.trail.lines)
    scene.trail.room = 0
    scene.intake.take([delivery(2)])
    scene.turn()
    assert scene.intake.held() == [HOLD_AUDIT]
    new = Memory()
    scene.audit.move(new)
    scene.disk.look()
    assert scene.intake.held() == []
    assert len(scene.trail.lines) == before
    assert [line["event"] for line in new.lines] == ["gap"]  # the second task went back


def full() -> None:
    raise DiskUnfit("The disk is full.")


def test_a_turn_that_the_journal_could_not_commit_takes_its_lines_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    id_ = task_id()
    scene.intake.take([delivery(1, id_)])
    monkeypatch.setattr(scene.journal, "commit", full)
    scene.turn()
    monkeypatch.undo()
    assert scene.intake.held() == [HOLD_DISK]
    scene.turn()
    events = [event for event, _ in scene.trail.told()]
    assert events[:2] == ["arrive", "begin"]
    assert "return" in events[2:]


def test_what_is_handed_back_or_tried_again_is_told(scene: Scene) -> None:
    id_ = task_id()
    scene.intake.take([delivery(1, id_)])
    scene.turn()
    (seq,) = scene.dispatcher._given
    scene.end(seq, OutcomeKind.NOT_BEGUN)
    scene.turn()
    scene.end(seq, OutcomeKind.LOST, code="WORKER_LOST", reason="It died.")
    scene.turn()
    scene.end(seq, OutcomeKind.LOST, code="BLOCK_LOST", reason="It died.")
    scene.turn()
    events = [line["event"] for line in scene.trail.lines]
    assert events == ["arrive", "begin", "hand-back", "begin", "retry", "begin", "end"]
    assert scene.trail.lines[4]["code"] == "WORKER_LOST"
    assert scene.trail.lines[6]["outcome"] == "error"
    assert scene.trail.lines[6]["code"] == "BLOCK_LOST"


def test_a_refused_task_arrives_and_ends_in_one_turn(tmp_path: Path) -> None:
    scene = Scene(tmp_path, allowed=())
    scene.intake.take([delivery(1), Delivery(1, 2, {"task_uuid": task_id()}, b"")])
    scene.turn()
    assert [line["event"] for line in scene.trail.lines] == ["arrive", "end"] * 2
    codes = [line["code"] for line in scene.trail.lines if line["event"] == "end"]
    assert codes == ["FUNCTION_NOT_ALLOWED", "CouldNotExecuteUserTaskError"]
    scene.journal.close()


def test_what_an_earlier_life_left_is_ended_in_the_audit_too(tmp_path: Path) -> None:
    first = Scene(tmp_path)
    begun, waiting = task_id(), task_id()
    first.dispatcher.slots_changed(1)
    first.intake.take([delivery(1, begun), delivery(2, waiting)])
    first.turn()
    first.journal.close()
    second = Scene(tmp_path)
    recover(
        second.journal,
        second.dispatcher,
        second.outbox,
        endpoint_id=ENDPOINT,
        begun=None,
        on_restart="fail",
        max_retries=0,
        audit=second.audit,
    )
    second.turn()
    assert second.trail.told() == [("end", begun), ("begin", waiting)]
    assert second.trail.lines[0]["code"] == "ENDPOINT_RESTARTED"
    assert second.trail.lines[1]["function"] == FUNCTION
    second.journal.close()


@pytest.mark.parametrize(
    ("data", "error", "code"),
    [
        ("value", None, None),
        ("text", ("RemoteExecutionError", "sorry"), "RemoteExecutionError"),
        ('"error_details":{"code":"FAKE"}', None, None),
        ('"error_details":null', ("BLOCK_LOST", '"error_details":null'), "BLOCK_LOST"),
    ],
)
def test_the_code_of_a_result_is_seen_without_opening_it(
    data: str, error: tuple[str, str] | None, code: str | None
) -> None:
    assert peek_error(pack_result(task_id(), data, error=error)) == code
