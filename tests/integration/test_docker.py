"""Workers in containers of a real Docker engine: they run functions, and no container stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cep.engines import worker_sets
from tests.integration import docker_engine, endpoint_image, image_python
from tests.integration.container_network import ContainerScene
from tests.integration.hub_places import LONG
from tests.integration.scene import Scene, until

MARK = f"--label {docker_engine.SESSION_LABEL}={os.getpid()}"
# Root's run directory is closed to the image's own user.
ME = "--user $(id -u):$(id -g)"
WITHIN_S = 120.0
pytestmark = pytest.mark.timeout(600, func_only=True)  # what comes before has limits of its own


def engine(image: str, options: str = "", more: str = "") -> str:
    return (
        "engine:\n  type: GlobusComputeEngine\n  max_workers_per_node: 2\n"
        f"  container_type: docker\n  container_uri: {image}\n"
        f"  container_cmd_options: {MARK} {ME} {options}\n{more}"
        "  provider:\n    type: LocalProvider\n"
        "    init_blocks: 1\n    min_blocks: 0\n    max_blocks: 1\n"
    )


@pytest.fixture(scope="module")
def scene(docker_engine: None) -> Iterator[Scene]:
    del docker_engine
    image = endpoint_image.ensure()
    with ContainerScene(image) as made:
        made.hub()
        yield made


@pytest.fixture(scope="module")
def image(scene: Scene) -> str:
    del scene
    return endpoint_image.ensure()


def containers(endpoint_id: str) -> list[Any]:
    """Containers of the endpoint, running or not."""
    wanted = {"label": f"cep.endpoint={endpoint_id}"}
    client = docker_engine.client()
    try:
        return list(client.containers.list(all=True, filters=wanted, ignore_removed=True))
    finally:
        client.close()


def kill(scene: Scene, name: str) -> None:
    process = psutil.Process(scene.agent_pid(name))
    process.send_signal(signal.SIGKILL)
    process.wait(WITHIN_S)


def one_running(endpoint_id: str) -> Any:
    """The endpoint's one container, as soon as it runs."""
    until(
        lambda: [one.status for one in containers(endpoint_id)] == ["running"],
        within_s=WITHIN_S,
        what="a container runs",
    )
    (container,) = containers(endpoint_id)
    return container


def test_functions_run_in_a_container_that_ends_with_the_endpoint(scene: Scene, image: str) -> None:
    scene.configure("plain", engine(image))
    endpoint_id = scene.start("plain")
    container = one_running(endpoint_id)
    assert scene.sdk("hosts", endpoint_id, "20")["hosts"] == [container.id[:12]]
    mark = scene.user_dir / "plain" / "mark"
    client = scene.sdk_popen("fate", endpoint_id, str(mark), "600")
    until(mark.exists, within_s=WITHIN_S, what="a task runs")
    container.pause()  # so that it is deaf to signals and to its interchange
    scene.cep("stop", "plain", "--now")
    until(lambda: containers(endpoint_id) == [], within_s=WITHIN_S, what="it is gone")
    assert "stopped" in scene.sdk_answer(client)["error"]


def test_a_start_removes_what_has_outlived_a_killed_agent(scene: Scene, image: str) -> None:
    scene.configure("killed", engine(image))
    endpoint_id = scene.start("killed")
    container = one_running(endpoint_id)
    container.pause()  # so that it cannot notice that nobody wants it any more
    kill(scene, "killed")
    assert [one.id for one in containers(endpoint_id)] == [container.id]
    scene.start("killed")
    assert container.id not in [one.id for one in containers(endpoint_id)]
    scene.cep("stop", "killed")
    until(lambda: containers(endpoint_id) == [], within_s=WITHIN_S, what="it is gone")


if LONG:

    def test_a_container_ends_by_itself_when_its_agent_was_killed(scene: Scene, image: str) -> None:
        scene.configure("alone", engine(image))
        endpoint_id = scene.start("alone")
        assert scene.sdk("many", endpoint_id, "2")["right"]
        kill(scene, "alone")
        until(lambda: containers(endpoint_id) == [], within_s=WITHIN_S, what="it is gone")
        scene.cep("stop", "alone")
        scene.configure("early", engine(image))
        endpoint_id = scene.start("early")
        one_running(endpoint_id)  # its workers need not have come yet
        kill(scene, "early")
        until(lambda: containers(endpoint_id) == [], within_s=WITHIN_S, what="it is gone")
        scene.cep("stop", "early")

    def test_the_guides_custom_command_runs_and_ends(scene: Scene, image: str) -> None:
        """As the published guide writes it, with `--rm`, which a custom command has to have."""
        command = (
            f"docker run --rm {MARK} --label cep.endpoint=custom {ME} "
            f"-v {{EXECUTOR_RUNDIR}}:{{EXECUTOR_RUNDIR}} {image} {{EXECUTOR_LAUNCH_CMD}}"
        )
        block = engine(image).replace("container_type: docker", "container_type: custom")
        lines = [line for line in block.splitlines() if "container_uri" not in line]
        options = next(n for n, line in enumerate(lines) if "cmd_options" in line)
        lines[options] = f"  container_cmd_options: {json.dumps(command)}"
        scene.configure("custom", "\n".join(lines) + "\n")
        endpoint_id = scene.start("custom")
        assert scene.sdk("many", endpoint_id, "2")["right"]
        assert len(containers("custom")) == 1
        scene.cep("stop", "custom")
        until(lambda: containers("custom") == [], within_s=WITHIN_S, what="it is gone")


def test_the_worker_is_lent_to_an_image_that_has_only_python(scene: Scene) -> None:
    image = docker_engine.ensure_image("python")
    alone = ["docker", "run", "--rm", image, "python3", "-c", "import dill"]
    done = subprocess.run(alone, check=False, capture_output=True, text=True)
    assert "No module named 'dill'" in done.stderr
    target = worker_sets.target_of("3.13", None, "2.41")
    wheels = image_python.wheels("python")
    worker_sets.add(scene.user_dir / "worker-sets", target, wheels, download=False)
    scene.configure("lent", engine(image))
    endpoint_id = scene.start("lent")
    container = one_running(endpoint_id)
    assert scene.sdk("hosts", endpoint_id, "20")["hosts"] == [container.id[:12]]
    scene.cep("stop", "lent")
    until(lambda: containers(endpoint_id) == [], within_s=WITHIN_S, what="it is gone")


def test_an_image_without_python_is_named_in_the_task_s_error(scene: Scene) -> None:
    scene.configure("bare", engine(docker_engine.ensure_base("trixie")))
    endpoint_id = scene.start("bare")
    error = scene.sdk("fate", endpoint_id, str(Path(scene.root) / "never"), "0")["error"]
    assert "the container's image has no python3 on its PATH" in error
    scene.cep("stop", "bare")
    until(lambda: containers(endpoint_id) == [], within_s=WITHIN_S, what="it is gone")
