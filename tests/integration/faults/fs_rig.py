"""What the tests of disks, leases, journals and clocks share: a bench, a wait, an account."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from cep.agent.control import call
from cep.paths import EndpointPaths
from tests.integration.agent_rig import Account, Bench
from tests.integration.faults.table import Row, enter

THREADS = "engine: {type: ThreadPoolEngine, max_workers: 2}\nheartbeat_period: 5\n"
LONG = bool(os.environ.get("LONG"))


def long_only(test: Callable[..., None]) -> Callable[..., None] | None:
    """Leave this test to the long schedule (LONG=1); without it there is nothing to collect."""
    return test if LONG else None


def gated(executed: str, label: str, gate: str) -> str:
    """A test function: leave the trace at once, answer when the gate file is there."""
    import os
    import subprocess

    handle = os.open(executed, os.O_WRONLY | os.O_APPEND)
    os.write(handle, f"{label}\n".encode())
    os.close(handle)
    subprocess.run(["sh", "-c", 'until [ -e "$0" ]; do sleep 0.02; done', gate], check=True)
    return label


def status(scene: Bench) -> dict[str, Any]:
    """What the agent says of itself."""
    return call(EndpointPaths.of(scene.root), {"do": "status"}, 60.0)


def wait_until(
    scene: Bench, true: Callable[[dict[str, Any]], bool], within_s: float = 60.0
) -> dict[str, Any]:
    """Ask the agent until its picture is as wanted, and return it."""
    deadline = time.monotonic() + within_s
    while True:
        seen = status(scene)
        if true(seen):
            return seen
        assert time.monotonic() < deadline, f"{seen}\n{scene.log()}"


def wait_for_trace(scene: Bench, label: str, within_s: float = 60.0) -> None:
    """Wait until the function of this task has begun."""
    deadline = time.monotonic() + within_s
    while label not in scene.executed.read_text().split():
        assert time.monotonic() < deadline, scene.log()


def enter_account(
    fault: str,
    account: Account,
    tasks: int,
    *,
    bound: int = 0,
    recovery_s: float | None = None,
) -> None:
    """Enter one run into the table of faults, and hold it against the promises.

    Args:
        fault: Its name.
        account: What the client saw.
        tasks: Tasks submitted in this run.
        bound: Error answers that the design allows.
        recovery_s: Seconds from the cause being gone to the next answer.
    """
    ran = Counter(account.labels[id_] for id_ in account.answers if id_ in account.labels)
    twice = [label for label in account.run_twice if ran[label]]
    errors = len(account.errors)
    row = Row(
        fault=fault,
        tasks=tasks,
        answered=len(account.answers),
        lost=tasks - len(account.answers) + max(0, errors - bound),
        run_twice=len(twice),
        errors=errors,
        bound=bound,
        repeats=account.repeats,
        recovery_s=recovery_s,
    )
    enter(row)
    assert (row.lost, row.run_twice) == (0, 0), row
