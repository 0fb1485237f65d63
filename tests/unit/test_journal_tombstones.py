"""How long an answered task is remembered, on clocks that the test turns."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from cep.journal.journal import Journal
from cep.journal.store import runs
from cep.journal.tombstones import KEEP_S, SWEEP_PERIOD_S

FUNCTION = "99999999-2222-4333-8444-555555555555"


class Clocks:
    """A wall clock and a clock that nobody can set."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.elapsed = 1000.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


class House:
    """A journal that can be restarted, and tasks that are answered at once."""

    def __init__(self, home: Path, clocks: Clocks, limit: int = 1_000_000) -> None:
        self._home = home
        self._clocks = clocks
        self._limit = limit
        self.journal = self._open()

    def _open(self) -> Journal:
        return Journal.open(
            self._home / "journal.db",
            self._home / "bodies",
            wall=lambda: self._clocks.wall,
            elapsed=lambda: self._clocks.elapsed,
            tombstone_limit=self._limit,
        )

    def restart(self) -> None:
        self.journal._writer.abandon()
        self.journal = self._open()

    def take(self) -> tuple[int, str]:
        task_id = str(uuid4())
        seq = self.journal.accept(task_id, FUNCTION, b"body")
        self.journal.commit()
        return seq, task_id

    def answer(self, seq: int) -> None:
        self.journal.finish(seq, b"result")
        self.journal.commit()
        self.journal.settle([seq])
        self.journal.commit()

    def sweep(self) -> None:
        """Any commit does it."""
        seq, _ = self.take()
        self.journal.ack_sent([seq], 99, 1)
        self.journal.acks_processed(99, 1)
        self.answer(seq)


@pytest.fixture
def house(tmp_path: Path, clocks: Clocks) -> House:
    return House(tmp_path, clocks)


def test_an_answered_task_is_known_until_its_ack_is_proven(house: House) -> None:
    seq, task_id = house.take()
    house.journal.ack_sent([seq], 1, 5)
    house.answer(seq)
    assert house.journal.counts().tombstones == 1
    house.journal.acks_processed(1, 4)
    assert house.journal.knows(task_id)
    house.journal.acks_processed(2, 5)
    assert house.journal.knows(task_id)
    house.journal.acks_processed(1, 5)
    assert not house.journal.knows(task_id)
    house.journal.commit()
    house.restart()
    assert not house.journal.knows(task_id)
    house.journal.close()


def test_an_ack_proven_before_the_answer_leaves_no_tombstone(house: House) -> None:
    seq, task_id = house.take()
    house.journal.ack_sent([seq], 1, 1)
    house.journal.acks_processed(1, 1)
    assert house.journal.knows(task_id)
    house.answer(seq)
    assert not house.journal.knows(task_id)
    house.restart()
    assert house.journal.counts().tombstones == 0
    house.journal.close()


def test_a_probe_of_a_lost_channel_proves_nothing(house: House) -> None:
    seq, task_id = house.take()
    house.journal.ack_sent([seq], 1, 1)
    house.journal.channel_lost(1)
    house.journal.acks_processed(1, 1)
    house.answer(seq)
    assert house.journal.knows(task_id)
    house.journal.close()


def test_one_that_outlives_its_channel_stays_24_hours(house: House, clocks: Clocks) -> None:
    seq, task_id = house.take()
    house.journal.ack_sent([seq], 1, 1)
    house.answer(seq)
    house.journal.channel_lost(1)
    clocks.pass_by(KEEP_S - 60)
    house.sweep()
    assert house.journal.knows(task_id)
    clocks.pass_by(SWEEP_PERIOD_S + 61)
    house.sweep()
    assert not house.journal.knows(task_id)
    house.restart()
    assert not house.journal.knows(task_id)
    house.journal.close()


def test_one_whose_channel_still_stands_does_not_age(house: House, clocks: Clocks) -> None:
    seq, task_id = house.take()
    house.journal.ack_sent([seq], 1, 1)
    house.answer(seq)
    clocks.pass_by(3 * KEEP_S)
    house.sweep()
    assert house.journal.knows(task_id)
    house.journal.close()


def test_a_restart_keeps_tombstones_and_their_age(house: House, clocks: Clocks) -> None:
    seq, task_id = house.take()
    house.answer(seq)
    clocks.pass_by(KEEP_S / 2)
    house.restart()
    assert house.journal.knows(task_id)
    clocks.pass_by(KEEP_S / 2 + SWEEP_PERIOD_S)
    house.sweep()
    assert not house.journal.knows(task_id)
    house.journal.close()


@pytest.mark.parametrize("restart", [True, False])
def test_a_wall_clock_set_back_neither_drops_nor_keeps_tombstones(
    house: House, clocks: Clocks, restart: bool
) -> None:
    seq, task_id = house.take()
    house.answer(seq)
    clocks.wall -= 400 * 24 * 3600
    if restart:
        house.restart()
    clocks.pass_by(KEEP_S - 60)
    house.sweep()
    assert house.journal.knows(task_id)
    clocks.pass_by(SWEEP_PERIOD_S + 61)
    house.sweep()
    assert not house.journal.knows(task_id)
    house.journal.close()


def test_a_wall_clock_set_forward_while_running_drops_nothing(house: House, clocks: Clocks) -> None:
    seq, task_id = house.take()
    house.answer(seq)
    clocks.wall += 400 * 24 * 3600
    clocks.pass_by(SWEEP_PERIOD_S)
    house.sweep()
    assert house.journal.knows(task_id)
    house.journal.close()


def test_a_repeat_that_is_acked_again_may_be_proven_after_all(house: House) -> None:
    seq, task_id = house.take()
    house.answer(seq)
    house.restart()
    again = house.journal.seq_of(task_id)
    assert again == seq
    house.journal.ack_sent([seq], 1, 1)
    house.journal.acks_processed(1, 1)
    assert not house.journal.knows(task_id)
    house.journal.commit()
    house.restart()
    assert not house.journal.knows(task_id)
    house.journal.close()


def test_there_are_never_more_than_the_limit_and_the_oldest_go_first(
    tmp_path: Path, clocks: Clocks
) -> None:
    house = House(tmp_path, clocks, limit=100)
    ids = []
    for _ in range(250):
        seq, task_id = house.take()
        house.answer(seq)
        ids.append(task_id)
        assert house.journal.counts().tombstones <= 101
    house.journal.commit()
    assert house.journal.knows(ids[-1])
    assert house.journal.knows(ids[-90])
    assert not house.journal.knows(ids[0])
    assert not house.journal.knows(ids[140])
    house.restart()
    assert 90 <= house.journal.counts().tombstones <= 100
    house.journal.close()


def test_a_task_that_came_again_under_an_old_tombstone_is_not_dropped_with_it(
    house: House, clocks: Clocks
) -> None:
    """The id was forgotten by proof, then accepted anew; the old row must not take it along."""
    seq, task_id = house.take()
    house.answer(seq)
    house.journal.ack_sent([seq], 1, 1)
    house.journal.acks_processed(1, 1)
    again = house.journal.accept(task_id, FUNCTION, b"body")
    house.journal.commit()
    clocks.pass_by(2 * KEEP_S)
    house.sweep()
    assert house.journal.seq_of(task_id) == again
    house.journal.close()


def test_numbers_are_joined_over_holes_that_nobody_needs() -> None:
    assert runs([], lambda _: True) == []
    assert runs([5, 3, 4], lambda _: True) == [(3, 5)]
    assert runs([1, 3, 6], lambda _: False) == [(1, 6)]
    assert runs([1, 3, 6], lambda hole: hole == 5) == [(1, 3), (6, 6)]
    assert runs([1, 1000], lambda _: False) == [(1, 1), (1000, 1000)]
    assert runs([1, 3], lambda _: False, gap=1) == [(1, 1), (3, 3)]
    assert runs([1, 1, 3], lambda hole: hole == 2) == [(1, 1), (3, 3)]
