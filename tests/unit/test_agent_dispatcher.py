"""The dispatcher: order, window, and what becomes of each outcome."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.agent import dispatcher
from cep.agent.dispatcher import Dispatcher
from cep.journal.journal import Journal
from cep.model import Outcome, OutcomeKind
from cep.wire.result import unpack_result
from tests.unit.agent_fakes import ENDPOINT, FUNCTION, FakeEngine, open_journal, task_id


class Scene:
    def __init__(self, directory: Path, *, max_retries: int = 0) -> None:
        self.journal: Journal = open_journal(directory)
        self.engine = FakeEngine()
        self.dispatcher = Dispatcher(
            self.journal, self.engine, endpoint_id=ENDPOINT, max_retries=max_retries
        )

    def add(self, count: int) -> list[int]:
        seqs = []
        for _ in range(count):
            id_ = task_id()
            seq = self.journal.accept(id_, FUNCTION, b"body", None, ())
            self.dispatcher.add(seq, id_, 4)
            seqs.append(seq)
        return seqs

    def turn(self) -> None:
        self.dispatcher.choose()
        self.journal.commit()
        self.dispatcher.hand_over()

    def lose(self, seq: int, reason: str = "The worker died.") -> list[tuple[int, int]]:
        outcome = Outcome(seq, OutcomeKind.LOST, code="WORKER_LOST", reason=reason)
        return self.dispatcher.take_outcomes([outcome])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.journal.close()


@pytest.fixture
def retrying(tmp_path: Path) -> Iterator[Scene]:
    directory = tmp_path / "retrying"
    directory.mkdir()
    scene = Scene(directory, max_retries=1)
    yield scene
    scene.journal.close()


def test_no_more_than_the_window_is_given(scene: Scene) -> None:
    seqs = scene.add(5)
    scene.dispatcher.slots_changed(2)
    scene.turn()
    assert scene.engine.given == seqs[:2]
    assert scene.engine.waiting == [3]


def test_nothing_is_handed_over_before_its_mark_is_committed(scene: Scene) -> None:
    scene.add(1)
    scene.dispatcher.slots_changed(1)
    scene.dispatcher.choose()
    assert scene.engine.given == []


def test_a_task_handed_back_untouched_goes_first(scene: Scene) -> None:
    seqs = scene.add(3)
    scene.dispatcher.slots_changed(2)
    scene.turn()
    scene.dispatcher.take_outcomes([Outcome(seqs[1], OutcomeKind.NOT_BEGUN)])
    scene.turn()
    assert scene.engine.given == [seqs[0], seqs[1], seqs[1]]


def test_a_result_frees_a_place(scene: Scene) -> None:
    seqs = scene.add(2)
    scene.dispatcher.slots_changed(1)
    scene.turn()
    done = scene.dispatcher.take_outcomes([Outcome(seqs[0], OutcomeKind.DONE, result=b"packed")])
    scene.turn()
    assert done == [(seqs[0], 6)]
    assert scene.journal.result(seqs[0]) == b"packed"
    assert scene.engine.given == seqs
    assert scene.dispatcher.unfinished == 1
    assert scene.dispatcher.unfinished_bytes == 4


def test_a_lost_task_is_answered_with_the_reason(scene: Scene) -> None:
    (seq,) = scene.add(1)
    scene.dispatcher.slots_changed(1)
    scene.turn()
    assert [found for found, _ in scene.lose(seq)] == [seq]
    result = unpack_result(scene.journal.result(seq))
    assert result.error_code == "WORKER_LOST"
    assert "The worker died." in result.data


def test_a_lost_task_is_retried_as_often_as_allowed(retrying: Scene) -> None:
    (seq,) = retrying.add(1)
    retrying.dispatcher.slots_changed(1)
    retrying.turn()
    assert retrying.lose(seq, "First loss.") == []
    retrying.turn()
    assert retrying.engine.given == [seq, seq]
    assert len(retrying.lose(seq, "Second loss.")) == 1
    text = unpack_result(retrying.journal.result(seq)).data
    assert "Attempt 1: First loss." in text
    assert "Attempt 2: Second loss." in text


def test_a_handed_back_task_does_not_use_up_its_retries(retrying: Scene) -> None:
    (seq,) = retrying.add(1)
    retrying.dispatcher.slots_changed(1)
    for _ in range(3):
        retrying.turn()
        retrying.dispatcher.take_outcomes([Outcome(seq, OutcomeKind.NOT_BEGUN)])
    retrying.turn()
    assert retrying.lose(seq) == []


def test_a_broken_engine_loses_what_it_held_and_nothing_else(scene: Scene) -> None:
    seqs = scene.add(3)
    scene.dispatcher.slots_changed(2)
    scene.turn()
    lost = scene.dispatcher.engine_down("The interchange died.")
    assert [seq for seq, _ in lost] == seqs[:2]
    assert scene.dispatcher.waiting == 1
    scene.turn()
    assert scene.engine.given == seqs[:2]


def test_after_close_nothing_is_handed_over_and_the_unbegun_is_asked_back(scene: Scene) -> None:
    seqs = scene.add(2)
    scene.dispatcher.slots_changed(1)
    scene.turn()
    scene.dispatcher.close(keep_lost=False)
    scene.dispatcher.slots_changed(2)
    scene.turn()
    assert scene.engine.cancelled == seqs[:1]
    assert scene.engine.given == seqs[:1]


def test_what_could_not_be_committed_is_chosen_again_in_order(scene: Scene) -> None:
    seqs = scene.add(3)
    scene.journal.commit()
    scene.dispatcher.slots_changed(2)
    scene.dispatcher.choose()
    scene.dispatcher.unchoose()
    assert scene.dispatcher.given == 0
    scene.turn()
    assert scene.engine.given == seqs[:2]


def test_forgotten_tasks_are_neither_counted_nor_given(scene: Scene) -> None:
    seqs = scene.add(2)
    scene.journal.discard(seqs[:1])
    scene.dispatcher.forget(seqs[:1])
    scene.dispatcher.slots_changed(2)
    scene.turn()
    assert scene.engine.given == seqs[1:]
    assert scene.dispatcher.unfinished == 1


def test_a_task_lost_while_stopping_is_answered_or_kept_as_the_owner_wants(
    scene: Scene, retrying: Scene
) -> None:
    (seq,) = scene.add(1)
    scene.dispatcher.slots_changed(1)
    scene.turn()
    scene.dispatcher.close(keep_lost=False)
    assert [found for found, _ in scene.lose(seq)] == [seq]
    (seq,) = retrying.add(1)
    retrying.dispatcher.slots_changed(1)
    retrying.turn()
    retrying.dispatcher.close(keep_lost=True)
    assert retrying.lose(seq) == []
    assert retrying.journal.recover().unfinished[0].given


def test_large_bodies_do_not_fill_a_window_that_is_wide_because_tasks_were_tiny(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "WINDOW_BYTES", 10)
    seqs = scene.add(8)  # 4 bytes each
    scene.dispatcher.slots_changed(100, firm=3)
    scene.turn()
    assert scene.engine.given == seqs[:3]  # firm, whatever their size
    scene.dispatcher.take_outcomes([Outcome(seqs[0], OutcomeKind.DONE, b"r")])
    scene.dispatcher.take_outcomes([Outcome(seqs[1], OutcomeKind.NOT_BEGUN)])
    scene.turn()
    assert scene.engine.given == [*seqs[:3], seqs[1], seqs[3]]
    monkeypatch.setattr(dispatcher, "WINDOW_BYTES", 20)
    scene.turn()
    assert scene.engine.given[5:] == seqs[4:6]
    scene.dispatcher.engine_down("It is gone.")
    monkeypatch.setattr(dispatcher, "WINDOW_BYTES", 0)
    scene.dispatcher.slots_changed(100, firm=1)
    scene.turn()
    assert scene.engine.given[7:] == [seqs[6]]


def test_waiting_tasks_without_hope_are_answered_with_the_reason(scene: Scene) -> None:
    first, *rest = scene.add(3)
    scene.dispatcher.slots_changed(1)
    scene.turn()
    scene.dispatcher.refuse("Three blocks failed.")
    answered = scene.dispatcher.refused()
    scene.journal.commit()
    assert [seq for seq, _ in answered] == rest
    for seq in rest:
        result = unpack_result(scene.journal.result(seq))
        assert "BLOCKS_PAUSED: Three blocks failed." in str(result)
    assert scene.engine.given == [first]
    assert scene.dispatcher.counters["refused"] == 2
    (later,) = scene.add(1)
    assert [seq for seq, _ in scene.dispatcher.refused()] == [later]
    scene.dispatcher.refuse("")
    scene.add(1)
    assert scene.dispatcher.refused() == []
    assert scene.dispatcher.waiting == 1


def test_events_wait_for_each_other_only_while_the_engine_has_enough_to_do(scene: Scene) -> None:
    stream = dispatcher.LINGER_STREAM
    assert scene.dispatcher.linger_s(0) == 0
    scene.dispatcher.slots_changed(4)
    seqs = scene.add(1)
    scene.turn()
    assert scene.dispatcher.linger_s(0) == 0, "a task alone does not wait for company"
    assert scene.dispatcher.linger_s(stream) > 0, "a stream, and the engine has all there is"
    seqs += scene.add(100)
    scene.turn()
    assert scene.dispatcher.linger_s(stream) == 0, "others wait for room in the engine's window"
    scene.dispatcher.slots_changed(200)
    scene.turn()
    assert scene.dispatcher.given == 101
    assert scene.dispatcher.linger_s(0) > 0, "the engine has half of its window, and many"
    done = [Outcome(seq, OutcomeKind.DONE, result=b"") for seq in seqs[: -stream + 1]]
    scene.dispatcher.take_outcomes(done)
    assert scene.dispatcher.linger_s(0) == 0, "few are left"
