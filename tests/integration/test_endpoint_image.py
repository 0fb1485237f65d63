"""The endpoint's own image: built without network, run as a site would, on a real hub."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.integration import docker_engine, endpoint_image
from tests.integration.container_network import ContainerScene
from tests.integration.hub_places import LONG
from tests.integration.scene import until

NAME = "ep"
WITHIN_S = 120.0
pytestmark = pytest.mark.timeout(600, func_only=True)  # what comes before has limits of its own
UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def scene(docker_engine: None) -> Iterator[ContainerScene]:
    del docker_engine
    with ContainerScene(endpoint_image.ensure()) as made:
        made.hub()
        yield made


class Site:
    """One volume, and containers of the image that come and go with it."""

    def __init__(self, scene: ContainerScene) -> None:
        self.scene = scene
        self.engine = docker_engine.client()
        self.volume = self.engine.volumes.create(labels=docker_engine.session_labels())

    def run(self) -> Any:
        """As `docker run --read-only --tmpfs /tmp -v VOLUME:/var/lib/cep IMAGE` does it."""
        variables = {
            name: value
            for name, value in self.scene.environment.items()
            if name.startswith("GLOBUS_") and name != "GLOBUS_COMPUTE_USER_DIR"
        }
        return self.engine.containers.run(
            endpoint_image.ensure(),
            detach=True,
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            environment={**variables, "CEP_ENDPOINT_NAME": NAME},
            network_mode=f"container:{self.scene.host.container_id}",
            volumes={self.volume.name: {"bind": "/var/lib/cep", "mode": "rw"}},
            labels=docker_engine.session_labels(),
            healthcheck={"interval": 1_000_000_000},
        )

    def ready(self, container: Any) -> str:
        """Wait until the endpoint takes tasks; return its id."""
        found: list[str] = []

        def takes_tasks() -> bool:
            log = container.logs().decode()
            found[:] = re.findall(rf"^Starting endpoint; registered ID: ({UUID})", log, re.M)
            container.reload()
            assert container.status != "exited", log
            return bool(found)

        until(takes_tasks, within_s=WITHIN_S, what="the endpoint says its id")
        return found[0]

    def remove(self) -> None:
        self.volume.remove(force=True)
        self.engine.close()


@pytest.fixture
def site(scene: ContainerScene) -> Iterator[Site]:
    made = Site(scene)
    yield made
    made.remove()


def state(container: Any) -> dict[str, Any]:
    container.reload()
    found: dict[str, Any] = container.attrs["State"]
    return found


def test_a_function_runs_and_a_new_container_on_the_volume_is_the_same_endpoint(
    site: Site, scene: ContainerScene
) -> None:
    first = site.run()
    try:
        endpoint_id = site.ready(first)
        assert scene.sdk("many", endpoint_id, "20")["right"]
        until(
            lambda: state(first)["Health"]["Status"] == "healthy",
            within_s=WITHIN_S,
            what="Docker calls it healthy",
        )
        assert first.exec_run("id -u").output.strip() == b"1000"
        assert first.exec_run("touch /opt/cep/x").exit_code != 0, (
            "the root file system is read only"
        )
        first.stop(timeout=120)
        assert state(first)["ExitCode"] == 0, "it stops in good order when Docker asks it to"
    finally:
        docker_engine.remove_container(first)
    second = site.run()
    try:
        assert site.ready(second) == endpoint_id
        second.stop(timeout=120)
    finally:
        docker_engine.remove_container(second)


if LONG:

    def test_a_new_container_of_the_same_host_name_starts_after_a_kill(site: Site) -> None:
        """The network's owner lends all of them its name; see docker-run(1), `--network`."""
        first = site.run()
        try:
            endpoint_id = site.ready(first)
            first.kill()
        finally:
            docker_engine.remove_container(first)
        second = site.run()
        try:
            assert site.ready(second) == endpoint_id
            second.stop(timeout=120)
        finally:
            docker_engine.remove_container(second)


def run_command(*words: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """`docker run` of the image, to its end."""
    marks = [f"--label={name}={value}" for name, value in docker_engine.session_labels().items()]
    command = ["docker", "run", "--rm", *marks, *options, endpoint_image.ensure(), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=WITHIN_S)


def test_words_after_the_image_are_a_command(scene: ContainerScene) -> None:
    del scene
    command = [
        "docker",
        "run",
        "--rm",
        endpoint_image.ensure(),
        "cep",
        "profiles",
        "list",
        "--json",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)


def test_a_volume_of_somebody_else_is_refused_in_a_sentence(scene: ContainerScene) -> None:
    del scene
    done = run_command(options=("--user", "4711"))
    assert done.returncode == 73
    assert "cannot be written by user 4711" in done.stderr
