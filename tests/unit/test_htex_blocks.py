"""How many blocks are wanted, and how the breaker slows down."""

from __future__ import annotations

from typing import Any

import pytest

from cep.engines.blocks import FAILURES_TO_PAUSE, LONGEST_PAUSE_S, BlockBreaker, ScalingRules


def rules(**changes: Any) -> ScalingRules:
    values: dict[str, Any] = {
        "init_blocks": 1,
        "min_blocks": 0,
        "max_blocks": 4,
        "parallelism": 1.0,
        "nodes_per_block": 1,
        "strategy": "simple",
        "max_idle_s": 120.0,
        "period_s": 5.0,
    }
    return ScalingRules(**{**values, **changes})


@pytest.mark.parametrize(
    ("demand", "changes", "wanted"),
    [
        (0, {}, 0),
        (1, {}, 1),
        (8, {}, 1),
        (9, {}, 2),
        (1000, {}, 4),
        (0, {"min_blocks": 2}, 2),
        (16, {"parallelism": 0.5}, 1),
        (17, {"parallelism": 0.5}, 2),
        (100, {"parallelism": 0.0}, 1),
        (17, {"nodes_per_block": 2}, 2),
        (1000, {"strategy": "none"}, 0),
        (5, {"max_blocks": 0}, 0),
    ],
)
def test_blocks_follow_the_demand(demand: int, changes: dict[str, Any], wanted: int) -> None:
    assert rules(**changes).wanted(demand, 8) == wanted


def test_the_breaker_doubles_its_delay_and_pauses_after_some_failures() -> None:
    breaker = BlockBreaker()
    delays = []
    for _ in range(12):
        delays.append(breaker.failed(100.0, "no", progress=False))
    assert delays[:4] == [1.0, 2.0, 30.0, 60.0]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_PAUSE_S
    assert breaker.paused
    assert breaker.wait_s(100.0) == LONGEST_PAUSE_S
    assert breaker.wait_s(100.0 + LONGEST_PAUSE_S) == 0


def test_progress_starts_the_breakers_count_again() -> None:
    breaker = BlockBreaker()
    for _ in range(FAILURES_TO_PAUSE):
        breaker.failed(0.0, "no", progress=False)
    assert breaker.failed(0.0, "no", progress=True) == 1.0
    assert not breaker.paused
