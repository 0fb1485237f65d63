"""Only functions that have proved tiny travel together."""

from __future__ import annotations

from cep.engines.pace import Pace


def ran(pace: Pace, times: int, seconds: float, function_id: str = "f") -> int:
    for _ in range(times):
        pace.ran(function_id, seconds)
    return pace.size(function_id)


def test_a_function_travels_alone_until_it_has_run_twenty_times() -> None:
    pace = Pace(enabled=True)
    assert pace.size("f") == 1
    assert ran(pace, 19, 0.0001) == 1
    assert ran(pace, 1, 0.0001) == 64
    assert pace.size("another") == 1


def test_the_size_keeps_expected_work_under_20_ms() -> None:
    pace = Pace(enabled=True)
    assert ran(pace, 40, 0.004) == 4  # 16 ms
    assert ran(pace, 200, 0.001) == 16
    assert ran(pace, 500, 0.0) == 64


def test_one_slow_run_starts_the_count_again() -> None:
    pace = Pace(enabled=True)
    assert ran(pace, 100, 0.0001) == 64
    assert ran(pace, 1, 0.005) == 1
    assert ran(pace, 19, 0.0001) == 1
    assert ran(pace, 1, 0.0001) > 1


def test_a_function_is_short_after_twenty_runs_of_less_than_200_ms() -> None:
    pace = Pace(enabled=True)
    ran(pace, 19, 0.05)
    assert not pace.short("f")
    assert ran(pace, 1, 0.199) == 1
    assert pace.short("f")
    ran(pace, 1, 0.2)
    assert not pace.short("f")


def test_it_can_be_switched_off() -> None:
    assert ran(Pace(enabled=False), 100, 0.0) == 1


def test_it_remembers_a_bounded_number_of_functions() -> None:
    pace = Pace(enabled=True)
    assert ran(pace, 30, 0.0001, "first") == 64
    for number in range(1000):
        pace.ran(str(number), 0.0001)
    assert pace.size("first") == 1
