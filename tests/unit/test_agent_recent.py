"""What was taken in lately, on a clock of the test's own."""

from __future__ import annotations

from cep.agent.recent import Recent


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def keys(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


def test_a_key_is_remembered_for_half_of_the_time_at_least_and_then_forgotten() -> None:
    clock = Clock()
    recent = Recent(keep_s=600, clock=clock)
    recent.add(keys(1))
    clock.now = 299
    recent.add(keys(2))
    clock.now = 301
    recent.add(keys(3))
    assert all(key in recent for key in keys(1, 2, 3))
    clock.now = 602
    recent.add(keys(4))
    assert [key in recent for key in keys(1, 2, 3, 4)] == [False, False, True, True]


def test_no_more_keys_are_kept_than_is_allowed_and_the_newest_half_always() -> None:
    recent = Recent(most=100, clock=Clock())
    recent.add(keys(*range(1000)))
    assert len(recent) <= 100
    assert all(key in recent for key in keys(*range(950, 1000)))


def test_what_is_no_key_is_not_remembered() -> None:
    assert None not in Recent()
