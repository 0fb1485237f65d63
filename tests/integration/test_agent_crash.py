"""kill -9 of the agent at every commit point, and the account afterwards.

Each run: tasks are waiting, the agent dies at the named point, a second agent goes on. Then every
task has one answer, none ran twice, and only tasks that had truly begun may be answered with an
error.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from tests.integration.agent_rig import Account, Bench, bench, note
from tests.integration.faults.fs_rig import long_only
from tests.integration.faults.schedule import LARGE, ONCE, POINTS, WITH_LARGE_BODIES
from tests.integration.faults.settings import LONG, SEED
from tests.integration.rabbitmq import RabbitMq

SOME = 4
WORKERS = 2
THREADS = "engine: {type: ThreadPoolEngine, max_workers: 2}\nheartbeat_period: 5\n"
PROCESSES = "engine: {type: ProcessPoolEngine, max_workers: 2}\nheartbeat_period: 5\n"
HTEX = "engine: {type: GlobusComputeEngine, max_workers_per_node: 2}\nheartbeat_period: 5\n"


def check(scene: Bench, account: Account, tasks: int) -> None:
    """One answer each, nothing twice, and errors only for what had truly begun.

    A worker can be killed after it noted the begin and before the function's first line; there
    is one such moment per worker. Every other error must have left a trace of its run.
    """
    assert len(account.answers) == tasks, scene.log()
    assert account.run_twice == []
    assert set(account.errors) <= {"ENDPOINT_RESTARTED"}
    assert len(account.errors_without_a_trace) <= WORKERS
    assert account.results_without_a_trace == []
    assert scene.queued() == 0


ENGINES = [
    pytest.param(THREADS, id="threads"),
    pytest.param(PROCESSES, id="processes"),
    pytest.param(HTEX, id="htex"),
]
CHANCE = random.Random(SEED)


def arrivals() -> list[tuple[str, int]]:
    """Where to kill: everywhere with LONG=1, else at some points, the schedule having more.

    Those of `ONCE` wait for a heartbeat here; test_journal_crash.py has them each time.
    """
    often = [(point, arrival) for point in POINTS for arrival in (1, 2)]
    return often + [(point, 1) for point in ONCE] if LONG else CHANCE.sample(often, SOME)


@pytest.mark.parametrize(("point", "arrival"), arrivals())
def test_kill_at_a_commit_point_loses_and_repeats_nothing(
    tmp_path: Path, rabbitmq: RabbitMq, point: str, arrival: int
) -> None:
    filling = os.urandom(LARGE) if point in WITH_LARGE_BODIES else b""
    with bench(tmp_path, rabbitmq) as scene:
        scene.configure(THREADS)
        scene.submit(note, [f"task-{n}" for n in range(10)], filling)
        first = scene.start(crash=f"{point}:{arrival}")
        # In rounds, so that there is a second commit to reach; and more, until it is reached.
        for _ in range(30):
            have = len(scene.labels)
            for begin in range(have, have + 20, 5):
                scene.submit(note, [f"task-{begin + n}" for n in range(5)], filling)
            with contextlib.suppress(subprocess.TimeoutExpired):
                first.wait(4)
                break
        assert first.poll() == -signal.SIGKILL, scene.log()
        second = scene.start()
        tasks = len(scene.labels)
        account = scene.collect(tasks)
        assert scene.stop(second) == 0
        check(scene, account, tasks)


@long_only  # test_main_job.py does the same with the official SDK each time
@pytest.mark.parametrize("engine", ENGINES)
def test_kill_in_the_middle_of_500_tasks(tmp_path: Path, rabbitmq: RabbitMq, engine: str) -> None:
    with bench(tmp_path, rabbitmq) as scene:
        scene.configure(engine)
        first = scene.start()
        scene.submit(note, [f"task-{n}" for n in range(500)])
        account = scene.collect(100)
        scene.kill(first)
        second = scene.start()
        scene.collect(500, onto=account)
        assert scene.stop(second) == 0
        check(scene, account, 500)
