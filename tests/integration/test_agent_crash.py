"""kill -9 of the agent at every commit point, and the account afterwards.

Each run: tasks are waiting, the agent dies at the named point, a second agent goes on. Then every
task has one answer, none ran twice, and only tasks that had truly begun may be answered with an
error.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cep.journal import crash
from tests.integration.agent_rig import bench, note
from tests.integration.rabbitmq import RabbitMq

TASKS = 30
WORKERS = 2
THREADS = "engine: {type: ThreadPoolEngine, max_workers: 2}\nheartbeat_period: 5\n"
PROCESSES = "engine: {type: ProcessPoolEngine, max_workers: 2}\nheartbeat_period: 5\n"

AGENT_POINTS = ("acknowledged", "published", "handed-over")
# Reached without any task, at the end of a life, or only with bodies over 64 KiB; the journal's
# own tests kill there.
ELSEWHERE = {
    "journal-created",
    "body-half-written",
    "bodies-written",
    "bodies-removed",
    "compact-vacuumed",
    "compacted",
}
POINTS = [point for point in (*crash.POINTS, *AGENT_POINTS) if point not in ELSEWHERE]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("arrival", [1, 2])
def test_kill_at_a_commit_point_loses_and_repeats_nothing(
    tmp_path: Path, rabbitmq: RabbitMq, point: str, arrival: int
) -> None:
    with bench(tmp_path, rabbitmq) as scene:
        scene.configure(THREADS)
        labels = [f"task-{n}" for n in range(TASKS)]
        scene.submit(note, labels[:10])
        first = scene.start(crash=f"{point}:{arrival}")
        for begin in range(10, TASKS, 5):  # in rounds, so that there is a second commit to reach
            scene.submit(note, labels[begin : begin + 5])
        assert first.wait(60) == -signal.SIGKILL, scene.log()
        second = scene.start()
        account = scene.collect(TASKS)
        assert scene.stop(second) == 0
        assert len(account.answers) == TASKS, scene.log()
        assert account.run_twice == []
        assert set(account.errors) <= {"ENDPOINT_RESTARTED"}
        assert len(account.errors) <= 2 * WORKERS
        # A task that was answered with a result ran; one answered with an error had begun.
        answered_well = {a.data for a in account.answers.values() if a.error_code is None}
        assert len(answered_well) == TASKS - len(account.errors)
        assert len(account.executions) >= TASKS - len(account.errors)
        assert scene.queued() == 0


@pytest.mark.parametrize("engine", [THREADS, PROCESSES], ids=["threads", "processes"])
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
        assert len(account.answers) == 500, scene.log()
        assert set(account.errors) <= {"ENDPOINT_RESTARTED"}
        assert account.run_twice == []
        # Only what had begun and was not answered may be an error: everything else ran after.
        assert len(account.executions) == 500
        assert scene.queued() == 0
