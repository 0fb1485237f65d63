"""Coalescing of acks, and how many messages to ask for."""

from __future__ import annotations

import random

from cep.amqp.intake import (
    MIB,
    Settlement,
    SizeEstimate,
    Unsettled,
    prefetch_for,
    worth_changing,
)


def opened(count: int, size: int = 1) -> Unsettled:
    unsettled = Unsettled()
    for tag in range(1, count + 1):
        unsettled.add(tag, size)
    return unsettled


def test_a_run_from_the_oldest_open_tag_is_one_frame() -> None:
    assert opened(100).settle(range(1, 81)) == [Settlement(80, multiple=True)]


def test_no_frame_reaches_over_a_tag_that_stays_open() -> None:
    unsettled = opened(6)
    assert unsettled.settle([1, 2, 4, 5]) == [
        Settlement(2, multiple=True),
        Settlement(4, multiple=False),
        Settlement(5, multiple=False),
    ]
    assert unsettled.settle([3, 6]) == [Settlement(6, multiple=True)]


def test_a_gap_of_tags_settled_before_does_not_break_a_run() -> None:
    unsettled = opened(5)
    unsettled.settle([2, 3])
    assert unsettled.settle([1, 4, 5]) == [Settlement(5, multiple=True)]


def test_a_single_tag_needs_no_multiple() -> None:
    assert opened(3).settle([1]) == [Settlement(1, multiple=False)]


def test_tags_that_are_not_open_are_left_out() -> None:
    unsettled = opened(2)
    assert unsettled.settle([1, 1, 77, 0]) == [Settlement(1, multiple=False)]
    assert unsettled.settle([1, 77]) == []
    assert len(unsettled) == 1


def test_bytes_follow_what_is_open() -> None:
    unsettled = opened(10, size=1000)
    assert unsettled.size_bytes == 10_000
    unsettled.settle([1, 5, 5])
    assert unsettled.size_bytes == 8000
    unsettled.settle(range(1, 11))
    assert (unsettled.size_bytes, len(unsettled)) == (0, 0)


def test_any_order_of_settling_settles_each_tag_once_at_a_broker() -> None:
    """Played against the broker's own rule for `multiple`: all open tags up to this one."""
    chance = random.Random(7)
    for _ in range(200):
        unsettled = opened(40)
        at_broker = set(range(1, 41))
        left = set(at_broker)
        while left:
            chosen = set(chance.sample(sorted(left), chance.randint(1, len(left))))
            for frame in unsettled.settle(chosen):
                assert frame.tag in at_broker  # else a broker closes the channel
                at_broker -= (
                    {tag for tag in at_broker if tag <= frame.tag}
                    if frame.multiple
                    else {frame.tag}
                )
            left -= chosen
            assert at_broker == left


def test_prefetch_keeps_bodies_of_the_mean_size_within_the_limit() -> None:
    assert prefetch_for(64 * MIB, 10 * MIB) == 6
    assert prefetch_for(64 * MIB, 1 * MIB) == 64
    assert prefetch_for(64 * MIB, 2000) == 2000
    assert prefetch_for(64 * MIB, 100 * MIB) == 1
    assert prefetch_for(64 * MIB, 0) == 2000
    assert prefetch_for(64 * MIB, 2000, 40) == 40


def test_before_anything_came_bodies_are_taken_for_large_ones() -> None:
    assert prefetch_for(64 * MIB, SizeEstimate().mean_bytes) == 6


def test_the_mean_rises_fast_and_falls_slowly() -> None:
    sizes = SizeEstimate()
    for _ in range(50):
        sizes.add(2000)
    assert sizes.mean_bytes == 2000
    sizes.add(10 * MIB)
    assert prefetch_for(64 * MIB, sizes.mean_bytes) < 30
    sizes.add(2000)
    assert prefetch_for(64 * MIB, sizes.mean_bytes) < 30
    for _ in range(400):
        sizes.add(2000)
    assert prefetch_for(64 * MIB, sizes.mean_bytes) == 2000


def test_a_small_change_of_prefetch_is_not_worth_a_round_trip() -> None:
    assert not worth_changing(100, 150)
    assert not worth_changing(100, 51)
    assert worth_changing(100, 50)
    assert worth_changing(100, 200)
    assert not worth_changing(1, 1)
