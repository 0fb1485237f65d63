"""The hub is killed under the official SDK and a real endpoint, and no task is lost."""

from __future__ import annotations

import json
import signal
import sqlite3

import psutil

from tests.integration.scene import Scene, Witness, until


def kill_and_restart(scene: Scene) -> None:
    """`kill -9` of the scene's hub, and another one on the same state."""
    state = scene.root / "hub"
    process = psutil.Process(json.loads((state / "running.json").read_text())["pid"])
    process.send_signal(signal.SIGKILL)
    psutil.wait_procs([process], timeout=10)
    scene.cep("hub", "serve", "--detach", "--state-dir", str(state))


def successes(scene: Scene) -> int:
    """How many tasks the hub has a good result of."""
    store = sqlite3.connect(f"file:{scene.root}/hub/hub.db?mode=ro", uri=True)
    try:
        query = "SELECT count(*) FROM tasks WHERE state = 'success'"
        return int(store.execute(query).fetchone()[0])
    finally:
        store.close()


def test_the_sdk_gets_its_results_from_a_restarted_hub() -> None:
    with Scene() as scene, Witness(scene.root / "w") as witness:
        scene.hub()
        with scene.endpoint("site", "threads") as endpoint_id:
            client = scene.sdk_popen("witnessed", endpoint_id, "6", str(witness.path), "1.5")
            witness.wait_for(2, within_s=30)  # both workers are busy, no result is under way
            kill_and_restart(scene)
            answer = scene.sdk_answer(client)
    assert answer["outcomes"] == {str(number): number for number in range(6)}
    assert sorted(witness.heard) == [str(number) for number in range(6)]


def test_kill_9_of_the_hub_in_a_stream_of_results_loses_and_repeats_none() -> None:
    # The SDK 4.19 itself ends when its connection is lost while it has acks to send (they are due
    # every 0.5 s, and it sends them into the old channel); so the hub's own books are looked at.
    tasks = 400
    with Scene() as scene, Witness(scene.root / "w") as witness:
        scene.hub()
        with scene.endpoint("site", "threads") as endpoint_id:
            client = scene.sdk_popen(
                "witnessed", endpoint_id, str(tasks), str(witness.path), "0.01"
            )
            witness.wait_for(tasks // 4, within_s=30)
            kill_and_restart(scene)
            until(lambda: successes(scene) == tasks, within_s=60, what="every task has a result")
            client.kill()
            client.communicate()
    assert sorted(witness.heard, key=int) == [str(number) for number in range(tasks)]
