"""Stopping for want of work."""

from __future__ import annotations

from cep.agent.idle import IdleWatch


def test_without_a_soft_limit_it_never_stops() -> None:
    watch = IdleWatch(0, 1)
    assert not any(watch.beat(0, idle=True) for _ in range(10))


def test_the_soft_limit_counts_only_after_the_first_task() -> None:
    watch = IdleWatch(2, 1000)
    assert not any(watch.beat(0, idle=True) for _ in range(10))
    assert [watch.beat(1, idle=True) for _ in range(3)] == [False, False, True]


def test_an_open_task_stops_the_soft_limit_but_not_the_hard_one() -> None:
    watch = IdleWatch(1, 3)
    assert [watch.beat(1, idle=False) for _ in range(4)] == [False, False, False, True]


def test_movement_starts_the_count_again() -> None:
    watch = IdleWatch(2, 1000)
    assert [watch.beat(n, idle=True) for n in (1, 1, 2, 2, 2)] == [False, False, False, False, True]
