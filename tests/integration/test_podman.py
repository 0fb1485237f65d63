"""Workers in containers of a real podman, rootless, for an ordinary account (LONG=1)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import docker_engine
from tests.integration.container_host import IMAGES, ContainerHost
from tests.integration.hub_places import LONG
from tests.integration.scene import until
from tests.integration.slurm_site import SlurmSite

WITHIN_S = 120.0
pytestmark = pytest.mark.timeout(600, func_only=True)  # what comes before has limits of its own
# The containers' host is itself in one: no control groups of its own, and no other network.
CONFIGURATION = """\
service_url: http://localhost:5000
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  container_type: podman
  container_uri: {image}
  container_cmd_options: --cgroups=disabled --network=host
  provider:
    type: LocalProvider
    init_blocks: 1
    max_blocks: 1
"""

if LONG:

    @pytest.fixture(scope="module")
    def site(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmSite]:
        del docker_engine
        images = tmp_path_factory.mktemp("images")
        save(images / "python.tar")
        with ContainerHost("podman", images=images) as host:
            made = SlurmSite(host)  # type: ignore[arg-type]
            made.environment.update(XDG_RUNTIME_DIR="/tmp", PODMAN_IGNORE_CGROUPSV1_WARNING="1")
            made.install()
            made.serve()
            host.run("podman", "load", "-q", "-i", f"{IMAGES}/python.tar", env=made.environment)
            yield made

    def save(path: Path) -> None:
        """Put the image that has only Python into a file for podman."""
        tag = docker_engine.ensure_image("python")
        subprocess.run(["docker", "save", tag, "-o", str(path)], check=True)
        path.chmod(0o644)
        for parent in (path.parent, path.parent.parent):
            parent.chmod(0o755)

    def containers(site: SlurmSite) -> list[str]:
        command = ("podman", "ps", "--all", "--quiet", "--filter", "label=cep.endpoint")
        return site.cluster.run(*command, env=site.environment).stdout.split()

    def test_functions_run_in_rootless_podman_and_no_container_stays(site: SlurmSite) -> None:
        image = f"localhost/{docker_engine.ensure_image('python')}"
        site.cep("worker-sets", "add")
        site.cep("configure", "podman")
        site.write(".globus_compute/podman/config.yaml", CONFIGURATION.format(image=image))
        with site.running("podman") as endpoint_id:
            assert site.sdk("environment", endpoint_id)["container"] == "podman"
            assert len(containers(site)) == 1
        assert containers(site) == []
        endpoint_id = site.start("podman")
        until(lambda: len(containers(site)) == 1, within_s=WITHIN_S, what="a container")
        (before,) = containers(site)
        pid = (site.directory("podman") / "daemon.pid").read_text().strip()
        site.cluster.run("kill", "-9", pid)
        site.start("podman")
        assert before not in containers(site)
        site.cep("stop", "podman")
        assert containers(site) == []
