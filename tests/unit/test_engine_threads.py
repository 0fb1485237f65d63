"""The thread engine passes the engine contract, and shares nothing it should not share."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from globus_compute_sdk import ShellFunction

from cep.config.settings import HtexSettings, ProcessPoolSettings, ThreadPoolSettings
from cep.engines.base import Engine, Outcomes, Submission
from cep.engines.build import build_engine
from cep.engines.threads import ThreadPoolEngine
from cep.worker import environ
from tests.unit import engine_tasks as tasks
from tests.unit.engine_contract import (
    EngineContract,
    QueueContract,
    RefusesResourcesContract,
    StartSlotsContract,
)
from tests.unit.engine_rig import Rig
from tests.unit.task_payloads import dilled, value_of


def _threads_have_directories() -> bool:
    """Whether this kernel lets threads have working directories of their own."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(environ.own_directory()))
    thread.start()
    thread.join()
    return found == [True]


class TestThreadPoolEngine(
    EngineContract, QueueContract, RefusesResourcesContract, StartSlotsContract
):
    """All of the contract except what needs processes."""

    changes_directory = _threads_have_directories()

    def make_engine(self, *, workers: int = 2, **common: Any) -> Engine:
        return ThreadPoolEngine(ThreadPoolSettings(max_workers=workers, **common))

    @pytest.mark.skipif(not changes_directory, reason="threads share one directory here")
    def test_fault_04_shell_functions_in_sandboxes_do_not_move_the_agent(
        self, rigs: Callable[..., Rig]
    ) -> None:
        here = Path.cwd()
        rig = rigs(workers=4, run_in_sandbox=True).start()
        shell = dilled(ShellFunction("pwd; echo $GC_TASK_UUID; sleep 0.1"), "01\n")
        given = [rig.task(shell, function_id="f") for _ in range(8)]
        rig.backlog.extend(given)
        rig.wait_for([task.seq for task in given])
        for task in given:
            box = (rig.run.run_dir / "tasks_working_dir" / task.task_id).resolve()
            value = value_of(rig.outcomes[task.seq].result)
            assert value.stdout == f"{box}\n{task.task_id}\n"
        assert Path.cwd() == here

    def test_tasks_run_side_by_side(self, rigs: Callable[..., Rig], tmp_path: Path) -> None:
        rig = rigs(workers=3).start()
        gate = tmp_path / "gate"
        names = ("a", "b", "c")
        seqs = [rig.add(tasks.touch_and_wait, str(tmp_path / one), str(gate)) for one in names]
        for name in names:
            rig.wait_for_file(tmp_path / name)
        gate.touch()
        rig.wait_for(seqs)

    def test_each_task_has_one_outcome_while_workers_take_and_the_agent_takes_back(
        self, rigs: Callable[..., Rig]
    ) -> None:
        """Cancelling and stopping meet workers that are taking, again and again."""
        for _ in range(20):
            rig = rigs(workers=4).start()
            given = [rig.task(tasks.add, 1, number, function_id="f") for number in range(300)]
            rig.engine.submit(Submission(tuple(given[:200]), waiting=0))
            rig.engine.cancel([task.seq for task in given[:200:2]])
            rig.engine.submit(Submission(tuple(given[200:]), waiting=0))
            rig.engine.cancel([task.seq for task in given[::3]])
            rig.engine.stop(10.0)
            outcomes = []
            with suppress(queue.Empty):
                while True:
                    event = rig.events.get_nowait()
                    if isinstance(event, Outcomes):
                        outcomes += event.outcomes
            assert sorted(one.seq for one in outcomes) == [task.seq for task in given]

    def test_threads_have_the_configured_prefix(self, rigs: Callable[..., Rig]) -> None:
        rigs(workers=2, thread_name_prefix="mine").start()
        names = {thread.name for thread in threading.enumerate()}
        assert {"mine_0", "mine_1"} <= names


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (ThreadPoolSettings(), "ThreadPoolEngine"),
        (ProcessPoolSettings(), "ProcessPoolEngine"),
        (HtexSettings(), "GlobusComputeEngine"),
    ],
)
def test_settings_become_the_engine_they_describe(settings: Any, name: str) -> None:
    engine = build_engine(settings)
    assert type(engine).__name__ == name
    engine.stop(1.0)
