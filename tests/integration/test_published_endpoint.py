"""The unmodified published endpoint 2.19: served by our hub, and replaced by our agent.

Optional: skipped where its libraries cannot be installed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import venvs
from tests.integration.scene import Scene, until

NAME = "old"


@pytest.fixture(scope="module")
def published() -> Path:
    """The published program."""
    try:
        return venvs.published_python().parent / "globus-compute-endpoint"
    except venvs.CannotInstall as exc:
        pytest.skip(f"NOT TESTED: the published endpoint 2.19 cannot be installed. {exc}")


@pytest.fixture(scope="module")
def scene(published: Path) -> Iterator[Scene]:
    """A hub, and an endpoint configured by the published program."""
    with Scene() as made:
        made.hub()
        # Its blocks find their worker program on the PATH.
        made.environment["PATH"] = f"{published.parent}:{made.environment['PATH']}"
        made.command([published, "configure", NAME])
        config = made.user_dir / NAME / "config.yaml"
        # Port 443 is for the hosted service; a hub hands out its own.
        lines = [line for line in config.read_text().splitlines() if "amqp_port" not in line]
        config.write_text("\n".join([*lines, "heartbeat_period: 5"]) + "\n")
        yield made


def stop(scene: Scene, published: Path) -> None:
    """Have the published program stop its endpoint; it fails when a child ends under its hands."""
    until(
        lambda: (
            scene.command([published, "stop", NAME], check=False).returncode == 0
            and not (scene.user_dir / NAME / "daemon.pid").exists()
        ),
        within_s=60,
        what="the published endpoint has stopped",
    )


def test_the_published_endpoint_registers_with_the_hub_and_runs_tasks(
    scene: Scene, published: Path
) -> None:
    scene.command([published, "start", NAME])
    try:
        # It prints its ID on a terminal only.
        registered = (scene.user_dir / NAME / "endpoint.json").read_text()
        endpoint_id = json.loads(registered)["endpoint_id"]
        assert scene.sdk("many", endpoint_id, "20")["right"]
        assert "ZeroDivisionError" in scene.sdk("exception", endpoint_id)["text"]
        assert scene.sdk("until-status", endpoint_id, "online", "60")["status"] == "online"
    finally:
        stop(scene, published)
        # It leaves its blocks to find out by themselves, which takes them minutes.
        scene.network.end_processes(containing=f"/{NAME}/")
        scene.network.end_processes(containing=str(published.parent))


def test_its_directory_runs_unchanged_with_our_agent(scene: Scene, published: Path) -> None:
    assert scene.states()[NAME] in ("Initialized", "Stopped")
    endpoint_id = scene.start(NAME)
    try:
        assert scene.sdk("many", endpoint_id, "20")["right"]
        again = scene.command([published, "start", NAME], check=False)
        assert again.returncode != 0, "the published program must see that it runs"
    finally:
        scene.cep("stop", NAME)
    assert scene.states()[NAME] == "Stopped"
