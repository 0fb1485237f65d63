"""The main job as a user sees it: configure, start, run functions, crash, start again, stop."""

from __future__ import annotations

import contextlib
import json
import signal
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.scene import ENGINES, Scene, Witness

TASKS = 500
WORKERS = 2
BUSY_S = 0.01
NOT_ACTIVE = "Endpoint not active.\n"


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Scene() as made:
        made.hub()
        yield made


def kill(scene: Scene, name: str) -> None:
    """End the agent as a crash does, and wait until it is gone."""
    process = psutil.Process(scene.agent_pid(name))
    process.send_signal(signal.SIGKILL)
    process.wait(60)


def test_an_endpoint_walks_through_all_states_and_back(scene: Scene) -> None:
    assert scene.states() == {}
    scene.configure("walk", ENGINES["processes"])
    assert scene.states() == {"walk": "Initialized"}
    assert scene.cep("stop", "walk").stdout == NOT_ACTIVE
    first = scene.start("walk")
    assert scene.states() == {"walk": "Running"}
    again = scene.cep("start", "walk", check=False)  # refused, and says where the first one runs
    assert again.returncode == 73
    assert str(scene.agent_pid("walk")) in again.stderr
    assert scene.cep("stop", "walk").stdout == "> Endpoint <walk> is now stopped\n"
    assert scene.states() == {"walk": "Stopped"}
    second = scene.start(first)  # by its ID
    kill(scene, "walk")
    assert scene.states() == {"walk": "Disconnected"}
    assert scene.cep("stop", "walk").stdout == NOT_ACTIVE
    third = scene.start("walk")
    assert scene.states() == {"walk": "Running"}
    agent = psutil.Process(scene.agent_pid("walk"))
    children = agent.children(recursive=True)
    agent.send_signal(signal.SIGTERM)
    agent.wait(60)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert scene.states() == {"walk": "Stopped"}
    assert first == second == third


def test_processes_below_the_agent_carry_the_documented_titles(scene: Scene) -> None:
    with scene.endpoint("titles", "htex") as endpoint_id:
        assert scene.sdk("many", endpoint_id, "2")["right"]
        agent = psutil.Process(scene.agent_pid("titles"))
        assert agent.cmdline()[0].startswith(f"Globus Compute Endpoint ({endpoint_id}, titles)")
        below = []
        for child in agent.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that has ended meanwhile
                below.append(" ".join(child.cmdline()))
        assert any(line.startswith("parsl: HTEX interchange") for line in below), below


@pytest.mark.parametrize("engine", ["processes", "htex"])
def test_every_task_has_one_answer_after_a_kill_in_the_middle(scene: Scene, engine: str) -> None:
    name = f"crash-{engine}"
    scene.configure(name, ENGINES[engine])
    endpoint_id = scene.start(name)
    with Witness(scene.root / f"{name}.sock") as witness:
        client = scene.sdk_popen(
            "witnessed", endpoint_id, str(TASKS), str(witness.path), str(BUSY_S)
        )
        try:
            witness.wait_for(TASKS // 5, 150)
            kill(scene, name)
            assert scene.states()[name] == "Disconnected"
            assert scene.start(name) == endpoint_id
            outcomes = scene.sdk_answer(client)["outcomes"]
        finally:
            client.kill()
            client.wait()
            scene.cep("stop", name)
        begun = Counter(witness.heard)

    assert len(outcomes) == TASKS
    failed = {task for task, outcome in outcomes.items() if outcome != int(task)}
    # The 20 ms that the kill takes to be seen may begin a few tasks more.
    told = json.dumps({task: outcomes[task] for task in sorted(failed)}, indent=1)
    assert len(failed) <= 2 * WORKERS, told
    # A worker notes that a task begins, then the task speaks: one such moment for each worker.
    unheard = failed - begun.keys()
    assert len(unheard) <= WORKERS, f"a task that never began must run, not fail: {unheard}"
    assert all("restart" in outcomes[task].lower() for task in failed), told
    assert begun.keys() | unheard == outcomes.keys()
    assert max(begun.values()) == 1, "no task ran twice"
