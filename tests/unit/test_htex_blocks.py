"""How many blocks are wanted."""

from __future__ import annotations

from typing import Any

import pytest

from cep.engines.blocks import ScalingRules


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
