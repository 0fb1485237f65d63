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
@pytest.mark.parametrize("arrival", [1, 4])
def test_kill_at_a_commit_point_loses_and_repeats_nothing(
    tmp_path: Path, rabbitmq: RabbitMq, point: str, arrival: int
) -> None:
    with bench(tmp_path, rabbitmq) as scene:
        scene.configure(THREADS)
        scene.submit(note, [f"task-{n}" for n in range(TASKS)])
        first = scene.start(crash=f"{point}:{arrival}")
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
        before = scene.collect(100)
        scene.kill(first)
        second = scene.start()
        after = scene.collect(500 - len(before.answers))
        assert scene.stop(second) == 0
        answers = {**before.answers, **after.answers}
        assert len(answers) == 500, scene.log()
        errors = [a.error_code for a in answers.values() if a.error_code is not None]
        assert set(errors) <= {"ENDPOINT_RESTARTED"}
        assert after.run_twice == []
        # Only what had begun and was not answered may be an error: everything else ran after.
        assert len(after.executions) == 500
        assert scene.queued() == 0
