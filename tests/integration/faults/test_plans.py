"""The plans themselves: repeatable, complete, and as large as is promised."""

from __future__ import annotations

import itertools

import pytest

from tests.integration.faults.faults import ACTS, CAUGHT_AT_BEGIN
from tests.integration.faults.schedule import (
    BROKER,
    HUB_KINDS,
    KILL,
    KINDS,
    SLOW_PAIRS,
    Step,
    hub_plan,
    long_plan,
    short_plan,
)
from tests.integration.faults.test_fault_schedule import HUB_FAULTS, LONG_SEEDS

GROUPS = {kind.name: kind.group for kind in (*KINDS, *HUB_KINDS)}


def steps_of(seed: int) -> list[Step]:
    """All steps of a long plan, the hub's included."""
    own = itertools.chain.from_iterable(sitting.steps for sitting in long_plan(seed))
    return [*own, *hub_plan(seed, HUB_FAULTS["long"]).steps]


@pytest.mark.parametrize("seed", [0, 1, 424_242])
def test_the_same_seed_gives_the_same_plan_and_another_another(seed: int) -> None:
    assert short_plan(seed) == short_plan(seed) != short_plan(seed + 1)
    assert long_plan(seed) == long_plan(seed) != long_plan(seed + 1)
    assert hub_plan(seed, 9) == hub_plan(seed, 9) != hub_plan(seed + 1, 9)


def test_each_kind_of_fault_can_be_caused() -> None:
    assert GROUPS.keys() == ACTS.keys()
    assert CAUGHT_AT_BEGIN.keys() <= {name for name, group in GROUPS.items() if group == KILL}


@pytest.mark.parametrize("seed", range(20))
def test_a_short_plan_has_each_kind_of_fault_or_its_twin(seed: int) -> None:
    drawn = {step.fault for sitting in short_plan(seed) for step in sitting.steps}
    missing = {kind.name for kind in KINDS} - drawn
    assert all(len(missing & set(pair)) == 1 for pair in SLOW_PAIRS)
    assert len(missing) == len(SLOW_PAIRS)


@pytest.mark.parametrize("first", [0, 1000])
def test_the_long_plans_have_the_promised_size_and_every_kind_of_fault(first: int) -> None:
    steps = [step for seed in range(first, first + LONG_SEEDS) for step in steps_of(seed)]
    groups = [GROUPS[step.fault] for step in steps]
    assert groups.count(KILL) >= 200
    assert groups.count(BROKER) >= 50
    assert sum(step.tasks for step in steps) >= 20_000
    assert {step.fault for step in steps} == GROUPS.keys()
