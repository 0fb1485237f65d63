"""The waits between tries, on a clock of the test's own."""

from __future__ import annotations

from cep.amqp.backoff import BackOff


class Clock:
    """Seconds that pass when the test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_waits_grow_from_a_fifth_of_a_second_to_four_and_no_further() -> None:
    backoff = BackOff(clock=Clock(), chance=lambda: 1.0)
    waits = [backoff.failed() for _ in range(30)]
    assert waits[0] == 0.2
    assert waits == sorted(waits)
    assert waits[-1] == 4.0
    assert max(waits) == 4.0


def test_a_broker_that_comes_back_is_tried_within_four_seconds_however_long_it_was_away() -> None:
    backoff = BackOff(clock=Clock(), chance=lambda: 1.0)
    passed = 0.0
    while passed < 3600:
        wait = backoff.failed()
        assert wait <= min(4.0, 0.3 + passed / 2)
        passed += wait


def test_jitter_takes_away_up_to_half_of_a_wait() -> None:
    longest = BackOff(clock=Clock(), chance=lambda: 1.0)
    shortest = BackOff(clock=Clock(), chance=lambda: 0.0)
    for _ in range(10):
        assert shortest.failed() * 2 == longest.failed()


def test_a_link_that_worked_for_ten_seconds_starts_again_with_the_shortest_wait() -> None:
    clock = Clock()
    backoff = BackOff(clock=clock, chance=lambda: 1.0)
    for _ in range(5):
        backoff.failed()
    backoff.up()
    clock.now += 10
    assert backoff.failed() == 0.2


def test_a_link_that_worked_only_briefly_goes_on_waiting_longer() -> None:
    clock = Clock()
    backoff = BackOff(clock=clock, chance=lambda: 1.0)
    waits = []
    for _ in range(5):
        waits.append(backoff.failed())
        backoff.up()
        clock.now += 9
    assert waits == sorted(set(waits))


def test_time_down_does_not_count_as_time_up() -> None:
    clock = Clock()
    backoff = BackOff(clock=clock, chance=lambda: 1.0)
    backoff.up()
    first = backoff.failed()
    clock.now += 3600
    assert backoff.failed() > first
