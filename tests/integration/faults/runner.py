"""Carry out a plan, step by step, and enter what was seen in the table."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.integration.faults import table
from tests.integration.faults.books import Verdict
from tests.integration.faults.faults import ACTS, CAUGHT_AT_BEGIN
from tests.integration.faults.hub_site import hub_site
from tests.integration.faults.schedule import Sitting, Step
from tests.integration.faults.site import Site, site
from tests.integration.rabbitmq import RabbitMq

ANSWERED_S = 90.0
ROUND = 8  # tasks submitted together: a fault shall find several batches on their way
LOG_LINES = 60


def sit(directory: Path, broker: RabbitMq, sitting: Sitting, origin: str) -> None:
    """Carry out one sitting.

    Args:
        directory: Where the endpoint lives.
        broker: Its broker.
        sitting: What to do.
        origin: Where the plan comes from, seed included, for the message of a failure.

    Raises:
        AssertionError: Something was lost, repeated or run twice; the text names the step.
    """
    with site(directory, broker, sitting) as made:
        take_all(made, sitting, origin)
    audit(made, sitting, origin)


def sit_at_hub(directory: Path, sitting: Sitting, origin: str) -> None:
    """As `sit`, at an endpoint behind a real hub."""
    with hub_site(directory, sitting) as made:
        take_all(made, sitting, origin)
    audit(made, sitting, origin)


def take_all(made: Site, sitting: Sitting, origin: str) -> None:
    """Take the steps of a sitting, one after the other."""
    for number, step in enumerate(sitting.steps):
        where = f"{origin}, {sitting.engine}, retries {sitting.retries}, step {number}: {step}"
        began = time.monotonic()
        take(made, step, f"{sitting.engine}-{number}", sitting.retries, where)
        print(f"{time.monotonic() - began:5.1f} s  {step.fault}")  # pytest -s shows it


def audit(made: Site, sitting: Sitting, origin: str) -> None:
    """After the agent's orderly stop: what came of all tasks, long after their steps."""
    labels = list(made.books.ids)
    verdict = made.books.verdict(labels, retries=sitting.retries, spare=len(labels))
    faults = told(verdict)
    assert not faults, problem(made, f"{origin}, {sitting.engine}, at the end", *faults)


def take(made: Site, step: Step, prefix: str, retries: int, where: str) -> None:
    """One step: submit, break, mend, wait for all answers, judge.

    The last task is submitted when the cause is gone. The time to its answer, behind all others,
    is the recovery time: nothing that lay finished in a queue can flatter it.
    """
    labels = [f"{prefix}-{n}" for n in range(step.tasks)]
    *parcels, probe = made.parcels(labels, step.task_ms, step.filling)
    rounds = [parcels[at : at + ROUND] for at in range(0, len(parcels), ROUND)]
    first = max(1, 2 * len(rounds) // 3)
    for some in rounds[:first]:
        made.client.submit(some)
    rest = iter(rounds[first:])

    def submit_rest() -> None:
        for some in rest:
            made.client.submit(some)

    disturbed = made.disturbances()
    assert made.books.wait(labels, step.after, ANSWERED_S), problem(made, where, "before it")
    threading.Event().wait(step.pause_ms / 1000)
    mended = ACTS[step.fault](made, step, submit_rest)
    submit_rest()
    made.client.submit([probe])
    made.books.wait(labels, len(labels), ANSWERED_S)
    spare = CAUGHT_AT_BEGIN.get(step.fault, 0)
    verdict = made.judge(labels, retries=retries, spare=spare)
    recovery_s = made.books.answered_after(probe.label, mended)
    enter(step, verdict, recovery_s)
    faults = told(verdict)
    if verdict.repeats and made.disturbances() == disturbed:
        faults.append(f"{verdict.repeats} repeats, though neither the agent nor a link was lost")
    assert not faults, problem(made, where, *faults)


def enter(step: Step, verdict: Verdict, recovery_s: float | None) -> None:
    """Add a step to the table."""
    table.enter(
        table.Row(
            fault=step.fault,
            tasks=step.tasks,
            answered=verdict.answered,
            lost=verdict.lost,
            duplicated=len(verdict.contradicted),
            run_twice=len(verdict.run_twice),
            errors=verdict.errors,
            bound=verdict.bound,
            repeats=verdict.repeats,
            recovery_s=recovery_s,
        )
    )


def told(verdict: Verdict) -> list[str]:
    """What is wrong, in words."""
    found = {
        "without an answer": verdict.unanswered,
        "answered with an error that says nothing of the fault": verdict.unnamed,
        "answered with a result although they never ran": verdict.invented,
        "run more often than allowed": verdict.run_twice,
        "answered twice, differently": verdict.contradicted,
    }
    words = [f"{len(those)} {what}: {those[:10]}" for what, those in found.items() if those]
    if verdict.errors > verdict.bound:
        words.append(f"{verdict.errors} error answers, {verdict.bound} allowed")
    return words


def problem(made: Site, where: str, *words: str) -> str:
    """The message of a failure: the plan's place, what is wrong, the end of the log."""
    return "\n".join([where, *words, end_of_log(made)])


def end_of_log(made: Site) -> str:
    """The last lines of the agent's log."""
    return "\n".join(made.scene.log().splitlines()[-LOG_LINES:])
