"""The block thread's decisions, step by step on a manual clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines import scaling
from cep.engines.block_watch import ENDING_WITHIN_S, REASON_EVERY_S, REASON_WITHIN_S
from cep.engines.blocks import ScalingRules
from cep.engines.breaker import FIRST_PAUSE_S, BlockBreaker
from cep.engines.job_words import GONE, JobWord
from cep.engines.lending import Refusal
from cep.engines.scaler import Scaler, Wires
from cep.engines.scheduler_command import SchedulerSilent


@dataclass
class Site:
    """A scheduler, an interchange and a clock in one."""

    now: float = 1000.0
    jobs: dict[str, JobWord] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    explained: list[tuple[str, str]] = field(default_factory=list)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    asked: int = 0
    cleaned: int = 0
    refuses: bool = False
    silent: bool = False

    def launch_block(self, block: str) -> str:
        if self.refuses:
            raise RuntimeError("no such account")
        if self.silent:
            raise SchedulerSilent("sbatch did not answer within 10 s.")
        self.jobs[f"job-{block}"] = JobWord("RUNNING")
        return f"job-{block}"

    def job_words(self, jobs: Sequence[str]) -> list[JobWord]:
        self.asked += 1
        if self.silent:
            raise SchedulerSilent("squeue did not answer within 10 s.")
        return [self.jobs[job] for job in jobs]

    def end_leftovers(self) -> None:
        if self.silent:
            raise SchedulerSilent("squeue did not answer within 10 s.")
        self.cleaned += 1

    def refusal_of(self, block: str) -> Refusal | None:
        return self.refusals.get(block)

    def request(self, verb: str, **what: Any) -> None:
        self.requests.append((verb, what))

    def explain(self, block: str, end: str) -> None:
        self.explained.append((block, end))


Make = Callable[..., Scaler]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def make(site: Site) -> Make:
    def build(
        *,
        watched: bool = False,
        workers: int = 2,
        breaker: BlockBreaker | None = None,
        **changes: Any,
    ) -> Scaler:
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
            breaker or BlockBreaker(),
            Wires(
                cancel=site.cancelled.extend,
                forget=site.forgotten.append,
                request=site.request,
                refuse=site.refused.append,
                explain=site.explain,
                end_workers=lambda job: site.explained.append((job, "its workers are ended")),
                failed=pytest.fail,
            ),
            watched=watched,
            expected_workers_per_node=workers,
            clock=lambda: site.now,
        )
        scaler._begin()
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


def test_other_rules_hold_at_once_and_blocks_beyond_them_stay_until_they_are_idle(
    make: Make, site: Site
) -> None:
    scaler = make(max_blocks=1)
    demand(scaler, 100)
    assert names(scaler) == ["0"]
    wider = replace(scaler._demand.rules, max_blocks=3, period_s=50.0)
    note(scaler, "rules", wider)
    assert names(scaler) == ["0", "1", "2"]
    note(scaler, "rules", replace(wider, max_blocks=1, max_idle_s=10.0))
    assert names(scaler) == ["0", "1", "2"]
    demand(scaler, 0)
    site.now += 11.0
    scaler._step()
    assert site.requests == [("retire", {"blocks": ["0", "1", "2"]})]


def test_a_provider_in_use_gets_the_numbers_and_the_defaults_of_those_left_out() -> None:
    provider = SimpleNamespace(nodes_per_block=2)
    component = ComponentSettings("SlurmProvider", {"max_blocks": 7})
    settings = HtexSettings(provider=component, max_idletime_s=9.0)
    scaling.put(settings, provider)
    rules = scaling.rules(settings, provider)
    assert (rules.init_blocks, rules.min_blocks, rules.max_blocks) == (1, 0, 7)
    assert (rules.nodes_per_block, rules.max_idle_s) == (2, 9.0)


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
    site.jobs["job-0"] = JobWord("COMPLETED", exit_code=0)
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
    for _ in range(4000):
        for block in names(scaler):
            job = f"job-{block}"
            launched.append(site.now)
            site.jobs[job] = JobWord("FAILED", exit_code=1, stderr_path=str(errors))
            note(scaler, "ended", job)
        site.now += 1
        scaler._step()
    gaps = [after - before for before, after in pairwise(launched)]
    assert gaps[:4] == [1, 2, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
    assert len(launched) <= 6
    assert "paused after" in scaler.picture.trouble
    assert "no module named cep" in scaler.picture.trouble


def test_one_block_is_enough_when_it_says_that_none_could_run_tasks(make: Make, site: Site) -> None:
    scaler = make(watched=True, max_blocks=1)
    site.refusals["0"] = Refusal("its Python lacks parsl", everywhere=True)
    demand(scaler, 1)
    site.jobs["job-0"] = JobWord("FAILED", exit_code=78)
    note(scaler, "ended", "job-0")
    assert site.refused == ["its Python lacks parsl"]
    site.now += FIRST_PAUSE_S - 1
    scaler._step()
    assert site.jobs.keys() == {"job-0"}
    note(scaler, "resume", None)
    assert site.refused[-1] == ""
    assert site.jobs.keys() == {"job-0", "job-1"}


def test_a_node_that_cannot_run_the_python_is_one_failure_with_its_reason(
    make: Make, site: Site
) -> None:
    scaler = make(watched=True, max_blocks=1)
    site.refusals["0"] = Refusal("it cannot be seen on host c1", everywhere=False)
    demand(scaler, 1)
    site.jobs["job-0"] = JobWord("FAILED", exit_code=78)
    note(scaler, "ended", "job-0")
    assert site.refused == []
    assert "after 1 failed in a row" in scaler.picture.trouble
    assert "it cannot be seen on host c1" in scaler.picture.trouble
    site.now += 1
    scaler._step()
    assert site.jobs.keys() == {"job-0", "job-1"}


def test_a_block_whose_workers_had_come_says_nothing_about_the_next_one(
    make: Make, site: Site
) -> None:
    scaler = make(watched=True, max_blocks=1)
    site.refusals["0"] = Refusal("one node of several", everywhere=True)
    demand(scaler, 1)
    note(scaler, "registered", ("m", "0", 2))
    site.jobs["job-0"] = JobWord("FAILED", exit_code=1)
    note(scaler, "ended", "job-0")
    assert site.refused == []
    assert "one node" not in scaler.picture.trouble


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
        site.jobs[f"job-{block}"] = JobWord("FAILED", exit_code=137)
        note(scaler, "ended", f"job-{block}")
        assert scaler._breaker.failures == 1
        site.now += 1
        scaler._step()


def test_a_time_limit_is_no_failure(make: Make, site: Site) -> None:
    scaler = make(watched=True, max_blocks=1)
    demand(scaler, 1)
    note(scaler, "registered", ("m", "0", 1))
    site.jobs["job-0"] = JobWord("TIMEOUT")
    note(scaler, "ended", "job-0")
    assert names(scaler) == ["1"]


def test_stop_cancels_all_blocks(make: Make, site: Site) -> None:
    scaler = make(init_blocks=2)
    scaler.start()
    assert scaler.stop(60.0)
    assert site.cancelled == ["job-0", "job-1"]


def test_the_pace_of_questions_slows_down_while_nothing_changes(make: Make, site: Site) -> None:
    scaler = make(min_blocks=1)
    moments = []
    for _ in range(300):
        site.now += 1
        before = site.asked
        scaler._step()
        if site.asked > before:
            moments.append(site.now)
    gaps = [after - before for before, after in pairwise(moments)]
    assert gaps[:3] == [5, 10, 20]
    assert set(gaps[3:]) == {30}
    site.jobs["job-0"] = JobWord("PENDING", "Priority")
    site.now += 30
    scaler._step()
    assert scaler._patience_s() == 5


def test_a_period_longer_than_half_a_minute_is_kept(make: Make, site: Site) -> None:
    scaler = make(min_blocks=1, period_s=90.0)
    assert scaler._patience_s() == 90
    site.now += 90
    scaler._step()
    assert scaler._patience_s() == 90


def test_no_answer_to_a_submission_is_no_failed_block(make: Make, site: Site) -> None:
    scaler = make(max_blocks=1)
    site.silent = True
    waits = []
    for _ in range(5):
        demand(scaler, 1)
        waits.append(scaler._patience_s())
        site.now += 60
    assert waits == [10, 20, 40, 60, 60]
    assert scaler._breaker.failures == 0
    assert "did not answer" in scaler.picture.trouble
    site.silent = False
    scaler._step()
    assert len(names(scaler)) == 1


def test_leftovers_are_looked_for_until_the_scheduler_answers(make: Make, site: Site) -> None:
    site.silent = True
    scaler = make()
    assert site.cleaned == 0
    assert scaler._patience_s() == 30
    site.silent = False
    site.now += 30
    scaler._step()
    assert site.cleaned == 1
    assert scaler._patience_s() is None


def test_a_lost_block_is_explained_as_soon_as_the_scheduler_says(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1)
    note(scaler, "registered", ("m", "0", 2))
    note(scaler, "gone", "m")
    note(scaler, "lost", "0")
    assert site.explained == []
    patience_s = scaler._patience_s()
    assert patience_s is not None
    assert patience_s <= 2
    site.jobs["job-0"] = JobWord("TIMEOUT", "TimeLimit", ran_s=300.0)
    site.now += 2
    scaler._step()
    assert site.explained == [("0", "TIMEOUT after 00:05:00 in job job-0")]


def test_nobody_waits_long_for_the_reason_of_a_lost_block(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1)
    note(scaler, "registered", ("m", "0", 2))
    note(scaler, "lost", "0")
    site.now += REASON_WITHIN_S
    scaler._step()
    assert site.explained == [("0", "")]
    site.silent = True
    note(scaler, "look", None)
    note(scaler, "lost", "0")
    assert site.explained == [("0", ""), ("0", "")]


@pytest.mark.parametrize("word", ["COMPLETING", "EXITING"])
def test_the_reason_is_awaited_longer_while_the_batch_system_clears_away(
    make: Make, site: Site, word: str
) -> None:
    scaler = make(init_blocks=1)
    note(scaler, "registered", ("m", "0", 2))
    site.jobs["job-0"] = JobWord(word)
    note(scaler, "lost", "0")
    site.now += REASON_EVERY_S
    scaler._step()
    site.now += REASON_WITHIN_S
    scaler._step()
    assert site.explained == []
    site.jobs["job-0"] = JobWord("CANCELLED", ran_s=60.0)
    site.now += REASON_EVERY_S
    scaler._step()
    assert site.explained == [("0", "CANCELLED after 00:01:00 in job job-0")]


def test_the_workers_of_a_block_are_ended_before_its_loss_is_told_unless_others_need_them(
    make: Make, site: Site
) -> None:
    scaler = make(watched=True, init_blocks=1)
    for manager in ("m", "n"):
        note(scaler, "registered", (manager, "0", 1))
    note(scaler, "gone", "m")
    note(scaler, "lost", "0")
    assert site.explained == [("0", "")], "another manager has workers there"
    site.explained.clear()
    note(scaler, "gone", "n")
    note(scaler, "lost", "0")
    assert site.explained == [("job-0", "its workers are ended"), ("0", "")]


def test_a_batch_system_that_clears_away_for_ever_is_not_awaited(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1)
    note(scaler, "registered", ("m", "0", 2))
    site.jobs["job-0"] = JobWord("COMPLETING")
    note(scaler, "lost", "0")
    site.now += REASON_EVERY_S
    scaler._step()
    site.now += ENDING_WITHIN_S
    scaler._step()
    assert site.explained == [("0", "")]


def test_waiting_tasks_are_refused_while_nothing_is_tried(make: Make, site: Site) -> None:
    scaler = make(watched=True, max_blocks=1)
    demand(scaler, 1)
    while not scaler._breaker.tripped:
        for block in names(scaler):
            site.jobs[f"job-{block}"] = JobWord("FAILED", exit_code=3)
            note(scaler, "ended", f"job-{block}")
        site.now += 1
        scaler._step()
    (reason,) = site.refused
    assert reason.startswith("3 blocks in a row failed. The last one: no worker of it came")
    demand(scaler, 0)
    assert scaler._patience_s() == pytest.approx(FIRST_PAUSE_S, abs=2)
    site.now += FIRST_PAUSE_S
    scaler._step()
    assert site.refused == [reason, ""]
    assert names(scaler) == [], "nothing is tried before somebody needs it"


def test_the_picture_knows_of_an_end_before_the_tasks_that_it_took_are_answered(
    make: Make, site: Site
) -> None:
    scaler = make(init_blocks=1)
    seen: list[list[Any]] = []
    scaler._watch._explain = lambda *_: seen.append([e["block"] for e in scaler.picture.ended])
    note(scaler, "registered", ("m", "0", 2))
    note(scaler, "lost", "0")
    site.jobs["job-0"] = JobWord("TIMEOUT", ran_s=300.0)
    note(scaler, "look", None)
    assert seen == [["0"]]


def test_the_picture_knows_of_a_pause_before_waiting_tasks_are_answered(
    make: Make, site: Site
) -> None:
    scaler = make(max_blocks=1)
    seen: list[Any] = []
    told = replace(scaler._wires, refuse=lambda _: seen.append(scaler.picture.breaker))
    scaler._wires = told
    site.refuses = True
    demand(scaler, 1)
    while not scaler._breaker.tripped:
        site.now += 4
        scaler._step()
    (breaker,) = seen
    assert (breaker["paused"], breaker["failures"]) == (True, 3)


def test_a_pause_by_hand_asks_for_no_blocks_and_refuses_nobody(make: Make, site: Site) -> None:
    scaler = make()
    note(scaler, "pause", None)
    demand(scaler, 100)
    assert names(scaler) == []
    assert scaler.picture.trouble == "paused by hand"
    assert site.refused == []
    note(scaler, "resume", None)
    assert names(scaler) == ["0", "1", "2"]


def test_a_job_that_nobody_knows_any_more_ends_no_block_with_workers(
    make: Make, site: Site
) -> None:
    scaler = make(init_blocks=1)
    note(scaler, "registered", ("m", "0", 2))
    site.jobs["job-0"] = JobWord(GONE)
    note(scaler, "look", None)
    assert names(scaler) == ["0"]
    note(scaler, "gone", "m")
    note(scaler, "look", None)
    assert scaler.picture.ended[-1]["state"] == GONE


def test_the_picture_tells_the_schedulers_words(make: Make, site: Site) -> None:
    scaler = make(init_blocks=1)
    site.jobs["job-0"] = JobWord("PENDING", "QOSMaxJobsPerUserLimit")
    note(scaler, "look", None)
    (block,) = scaler.picture.blocks
    assert (block["scheduler"], block["reason"]) == ("PENDING", "QOSMaxJobsPerUserLimit")
