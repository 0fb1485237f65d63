"""The block thread's decisions, step by step on a manual clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cep.engines.blocks import ScalingRules
from cep.engines.scaler import Scaler


@dataclass
class Status:
    """What a provider says of a job."""

    status_name: str = "RUNNING"
    exit_code: int | None = None
    message: str | None = None
    stderr_path: str | None = None

    @property
    def terminal(self) -> bool:
        return self.status_name in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED")


@dataclass
class Site:
    """A scheduler, an interchange and a clock in one."""

    now: float = 1000.0
    jobs: dict[str, Status] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    asked: int = 0
    refuses: bool = False
    silent: bool = False

    def launch_block(self, block: str) -> str:
        if self.refuses:
            raise RuntimeError("no such account")
        self.jobs[f"job-{block}"] = Status()
        return f"job-{block}"

    def job_statuses(self, jobs: Sequence[str]) -> list[Status]:
        self.asked += 1
        if self.silent:
            raise RuntimeError("squeue: timed out")
        return [self.jobs[job] for job in jobs]

    def request(self, verb: str, **what: Any) -> None:
        self.requests.append((verb, what))


Make = Callable[..., Scaler]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def make(site: Site) -> Make:
    def build(*, watched: bool = False, workers: int = 2, **changes: Any) -> Scaler:
        values: dict[str, Any] = {
            "init_blocks": 0,
            "min_blocks": 0,
            "max_blocks": 3,
            "parallelism": 1.0,
            "nodes_per_block": 1,
            "strategy": "simple",
            "max_idle_s": 120.0,
            "period_s": 5.0,
        }
        scaler = Scaler(
            ScalingRules(**{**values, **changes}),
            site,
            cancel=site.cancelled.extend,
            forget=site.forgotten.append,
            request=site.request,
            failed=pytest.fail,
            watched=watched,
            expected_workers_per_node=workers,
            clock=lambda: site.now,
        )
        scaler._step()
        return scaler

    return build


def demand(scaler: Scaler, tasks: int, answered: int = 0) -> None:
    scaler.tell_demand(tasks, answered)
    scaler._step()


def note(scaler: Scaler, what: str, value: Any) -> None:
    scaler._note(what, value)
    scaler._step()


def names(scaler: Scaler) -> list[str]:
    return [block["block"] for block in scaler.picture.blocks]


def test_without_blocks_and_demand_there_is_nothing_to_wake_up_for(make: Make, site: Site) -> None:
    scaler = make()
    assert names(scaler) == []
    assert scaler._patience_s() is None
    assert site.asked == 0


def test_a_local_block_that_may_stay_needs_no_waking_up_either(make: Make) -> None:
    scaler = make(watched=True, min_blocks=1)
    assert names(scaler) == ["0"]
    assert scaler._patience_s() is None


def test_init_blocks_are_asked_for_at_start(make: Make) -> None:
    assert names(make(init_blocks=2)) == ["0", "1"]
    assert names(make(init_blocks=9)) == ["0", "1", "2"]


def test_strategy_none_asks_for_the_first_blocks_only(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1, strategy="none")
    demand(scaler, 100)
    assert names(scaler) == ["0"]
    demand(scaler, 0)
    site.now += 1000
    scaler._step()
    assert names(scaler) == ["0"]
    assert site.requests == []


def test_blocks_come_with_demand_at_once_up_to_the_limit(make: Make) -> None:
    scaler = make()
    demand(scaler, 1)
    assert names(scaler) == ["0"]
    demand(scaler, 3)
    assert names(scaler) == ["0", "1"]
    demand(scaler, 1000)
    assert names(scaler) == ["0", "1", "2"]


def test_the_size_of_a_node_is_learned(make: Make) -> None:
    scaler = make(workers=1)
    demand(scaler, 1)
    note(scaler, "registered", ("m", "0", 64))
    demand(scaler, 64)
    assert names(scaler) == ["0"]
    demand(scaler, 65)
    assert names(scaler) == ["0", "1"]


def test_demand_wakes_the_thread_only_when_it_changes_what_is_wanted(make: Make) -> None:
    scaler = make(workers=10)
    for tasks in (1, 2, 3, 9, 10):
        scaler.tell_demand(tasks, 0)
    assert scaler._inbox.qsize() == 1
    scaler.tell_demand(11, 0)
    assert scaler._inbox.qsize() == 2


def test_the_provider_is_asked_once_a_period_for_all_blocks(make: Make, site: Site) -> None:
    scaler = make(init_blocks=2)
    assert site.asked == 0
    assert scaler._patience_s() == 5.0
    site.now += 4.9
    scaler._step()
    assert site.asked == 0
    site.now += 0.2
    scaler._step()
    assert site.asked == 1
    assert scaler._patience_s() == pytest.approx(5.0)


def test_a_broken_connection_asks_the_provider_at_once(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1)
    note(scaler, "look", None)
    assert site.asked == 1


def test_a_provider_that_does_not_answer_changes_nothing(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1)
    site.silent = True
    site.now += 6
    scaler._step()
    assert names(scaler) == ["0"]


def test_an_idle_block_is_held_first_and_then_cancelled(make: Make, site: Site) -> None:
    scaler = make()
    demand(scaler, 1)
    note(scaler, "registered", ("m", "0", 2))
    demand(scaler, 0, answered=1)
    site.now += 119
    scaler._step()
    assert site.requests == []
    site.now += 2
    scaler._step()
    assert site.requests == [("retire", {"blocks": ["0"]})]
    assert site.cancelled == []
    note(scaler, "retired", ["0"])
    assert site.cancelled == site.forgotten == ["job-0"]
    assert names(scaler) == []
    assert scaler._patience_s() is None


def test_a_block_that_got_work_meanwhile_stays(make: Make, site: Site) -> None:
    scaler = make()
    demand(scaler, 1)
    note(scaler, "registered", ("m", "0", 2))
    demand(scaler, 0)
    site.now += 121
    scaler._step()
    note(scaler, "retired", [])
    assert site.cancelled == []
    assert names(scaler) == ["0"]
    assert scaler.picture.blocks[0]["state"] == "running"


def test_min_blocks_stay(make: Make, site: Site) -> None:
    scaler = make(min_blocks=1)
    demand(scaler, 6)
    demand(scaler, 0)
    site.now += 121
    scaler._step()
    assert site.requests == [("retire", {"blocks": ["1", "2"]})]


def test_a_block_that_ended_is_told_to_the_interchange(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1, watched=True)
    note(scaler, "registered", ("m", "0", 2))
    site.jobs["job-0"] = Status("COMPLETED", exit_code=0)
    note(scaler, "ended", "job-0")
    assert ("ended", {"block": "0"}) in site.requests
    assert names(scaler) == []
    assert scaler.picture.trouble == ""


def test_fault_14_blocks_that_never_register_are_tried_ever_more_slowly(
    make: Make, site: Site, tmp_path: Path
) -> None:
    errors = tmp_path / "err"
    errors.write_text("one\ntwo\nno module named cep\n")
    scaler = make(watched=True, max_blocks=1)
    demand(scaler, 1)
    launched = []
    for _ in range(400):
        for block in names(scaler):
            job = f"job-{block}"
            launched.append(site.now)
            site.jobs[job] = Status("FAILED", exit_code=1, stderr_path=str(errors))
            note(scaler, "ended", job)
        site.now += 1
        scaler._step()
    gaps = [after - before for before, after in pairwise(launched)]
    assert gaps[:4] == [1, 2, 30, 60]
    assert len(launched) <= 8
    assert "paused after" in scaler.picture.trouble
    assert "no module named cep" in scaler.picture.trouble


def test_a_block_that_cannot_be_submitted_counts_as_failed(make: Make, site: Site) -> None:
    site.refuses = True
    scaler = make(max_blocks=1)
    for _ in range(4):
        demand(scaler, 1)
    assert scaler.picture.active == 0
    assert "no such account" in scaler.picture.trouble
    assert scaler._patience_s() == 1.0


def test_answered_tasks_start_the_count_of_failures_again(make: Make, site: Site) -> None:
    scaler = make(watched=True, max_blocks=1)
    for turn in range(1, 6):
        demand(scaler, 1, answered=turn)
        (block,) = names(scaler)
        note(scaler, "registered", (f"m{turn}", block, 1))
        site.jobs[f"job-{block}"] = Status("FAILED", exit_code=137)
        note(scaler, "ended", f"job-{block}")
        assert scaler._breaker.failures == 1
        site.now += 1
        scaler._step()


def test_a_time_limit_is_no_failure(make: Make, site: Site) -> None:
    scaler = make(watched=True, max_blocks=1)
    demand(scaler, 1)
    note(scaler, "registered", ("m", "0", 1))
    site.jobs["job-0"] = Status("TIMEOUT")
    note(scaler, "ended", "job-0")
    assert names(scaler) == ["1"]


def test_stop_cancels_all_blocks(make: Make, site: Site) -> None:
    scaler = make(init_blocks=2)
    scaler.start()
    assert scaler.stop(5.0)
    assert site.cancelled == ["job-0", "job-1"]
