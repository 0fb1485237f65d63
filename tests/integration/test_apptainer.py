"""Workers in images of a real Apptainer, for an ordinary account: a SIF file, and a directory.

The images have Python and nothing of ours: Apptainer shows them the account's home, and with it the
endpoint's own packages, which are lent.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.container_host import SANDBOX, SIF, ContainerHost, apptainer_with_images
from tests.integration.hub_places import LONG
from tests.integration.scene import until
from tests.integration.slurm_site import SlurmSite

WITHIN_S = 120.0
pytestmark = pytest.mark.timeout(600, func_only=True)  # what comes before has limits of its own
CONFIGURATION = """\
service_url: http://localhost:5000
engine:
  type: GlobusComputeEngine
  max_workers_per_node: 2
  container_type: apptainer
  container_uri: {image}
{more}  provider:
    type: LocalProvider
    init_blocks: 1
    max_blocks: 1
"""


@pytest.fixture(scope="module")
def site(docker_engine: None) -> Iterator[SlurmSite]:
    del docker_engine
    with ContainerHost("apptainer", tag=apptainer_with_images()) as host:
        made = SlurmSite(host)  # type: ignore[arg-type]
        made.install()
        made.serve()
        yield made


def inside(site: SlurmSite) -> str:
    """Command lines of processes that run in an image or carry it."""
    words = "Apptainer|squashfuse|cep.engines.pool|container.sh"
    return site.cluster.run("pgrep", "-a", "-f", f"({words})", check=False).stdout


def write(site: SlurmSite, name: str, image: str, more: str = "") -> None:
    """Write an endpoint's configuration."""
    text = CONFIGURATION.format(image=image, more=more)
    site.write(f".globus_compute/{name}/config.yaml", text)


def start(site: SlurmSite, name: str, image: str) -> str:
    """Make an endpoint and start it."""
    site.cep("configure", name)
    write(site, name, image)
    return site.start(name)


def test_functions_run_in_a_sif_file_and_nothing_outlives_a_stop_or_a_killed_agent(
    site: SlurmSite,
) -> None:
    endpoint_id = start(site, "sif", SIF)
    assert site.sdk("environment", endpoint_id)["APPTAINER_CONTAINER"] == SIF
    assert "squashfuse" in inside(site)
    site.cep("stop", "sif")
    assert inside(site) == ""
    # Workers that are only beginning seek the endpoint for so long (else for a minute).
    write(site, "sif", SIF, "  address_probe_timeout: 5\n")
    site.start("sif")
    until(lambda: "squashfuse" in inside(site), within_s=WITHIN_S, what="the image is mounted")
    pid = (site.directory("sif") / "daemon.pid").read_text().strip()
    site.cluster.run("kill", "-9", pid)
    until(lambda: inside(site) == "", within_s=WITHIN_S, what="the image's processes are gone")
    site.cep("stop", "sif")


if LONG:

    def test_functions_run_in_a_directory_and_a_stop_leaves_nothing(site: SlurmSite) -> None:
        endpoint_id = start(site, "directory", SANDBOX)
        assert site.sdk("environment", endpoint_id)["APPTAINER_CONTAINER"] == SANDBOX
        assert inside(site) != ""
        site.cep("stop", "directory")
        assert inside(site) == ""
