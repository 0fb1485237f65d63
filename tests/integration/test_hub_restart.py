"""The hub is killed under the official SDK and a real endpoint, and no task is lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import psutil
import pytest

from tests.integration.hub_places import EMBEDDED, LONG, PLACES_IF_LONG
from tests.integration.scene import Scene, Witness, until


@pytest.fixture(params=PLACES_IF_LONG)  # test_two_hubs.py kills hubs on the servers each time
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    servers = None if request.param == EMBEDDED else request.getfixturevalue("servers")
    with Scene(servers) as made:
        made.hub()
        yield made


def kill_and_restart(scene: Scene) -> None:
    """`kill -9` of the scene's hub, and another one on the same state."""
    process = psutil.Process(scene.hub_pid())
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=60)
    scene.serve()


def the_sdk_gets_its_results_from_a_restarted_hub(scene: Scene) -> None:
    with Witness(scene.root / "w") as witness, scene.endpoint("site", "threads") as endpoint_id:
        client = scene.sdk_popen("witnessed", endpoint_id, "6", str(witness.path), "1.5")
        witness.wait_for(2, within_s=60)  # both workers are busy, no result is under way
        kill_and_restart(scene)
        answer = scene.sdk_answer(client)
    assert answer["outcomes"] == {str(number): number for number in range(6)}
    assert sorted(witness.heard) == [str(number) for number in range(6)]


# The SDK waits up to 10 s before it tries again; test_two_hubs.py has it meet a killed hub, too.
if LONG:
    test_the_sdk_gets_its_results_from_a_restarted_hub = (
        the_sdk_gets_its_results_from_a_restarted_hub
    )


def test_kill_9_of_the_hub_in_a_stream_of_results_loses_and_repeats_none(scene: Scene) -> None:
    # The SDK 4.19 itself ends when its connection is lost while it has acks to send (they are due
    # every 0.5 s, and it sends them into the old channel); so the hub's own books are looked at.
    tasks = 400
    with Witness(scene.root / "w") as witness, scene.endpoint("site", "threads") as endpoint_id:
        client = scene.sdk_popen("witnessed", endpoint_id, str(tasks), str(witness.path), "0.04")
        until(
            lambda: sum(scene.task_states().values()) == tasks,
            within_s=60,
            what="every task is submitted",
        )
        witness.wait_for(tasks // 4, within_s=60)
        assert len(witness.heard) < tasks, "the stream flows"
        kill_and_restart(scene)
        until(
            lambda: scene.task_states() == {"success": tasks},
            within_s=60,
            what="every task has a result",
        )
        client.kill()
        client.communicate()
    assert sorted(witness.heard, key=int) == [str(number) for number in range(tasks)]
