"""Slurm with accounting, in one container: an account that is refused, and one that is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.slurm import Cluster
from tests.integration.slurm_blocks import (
    WITHIN_S,
    configuration,
    configure,
    ends,
    jobs_of,
    tasks,
    until,
)
from tests.integration.slurm_site import SlurmSite

pytestmark = pytest.mark.timeout(900, func_only=True)  # what comes before has limits of its own


@pytest.fixture(scope="module")
def site(docker_engine: None) -> Iterator[SlurmSite]:
    del docker_engine
    with Cluster(accounting=True) as cluster:
        made = SlurmSite(cluster)
        made.install()
        made.serve()
        yield made


def test_a_refused_account_is_named_and_a_changed_configuration_begins_anew(
    site: SlurmSite,
) -> None:
    here = {"address": "127.0.0.1"}
    configure(site, "account", configuration(engine=here, account="nosuch"))
    with site.running("account") as endpoint_id, tasks(site) as submit:
        error = submit(endpoint_id, "account.mark").fate()["error"]
        assert "BLOCKS_PAUSED: 3 blocks in a row failed" in error
        assert "sbatch refused it" in error
        assert "Invalid account" in error
        assert {end["state"] for end in ends(site, "account")} == {"REFUSED"}
        assert jobs_of(site, endpoint_id) == []
    good = configuration(engine=here, account="research")
    site.write(".globus_compute/account/config.yaml", good)
    with site.running("account") as endpoint_id:
        assert site.sdk("many", endpoint_id, "10")["right"]
        (job,) = jobs_of(site, endpoint_id)

    def charged() -> str:
        words = ("sacct", "-n", "-X", "-P", "-o", "Account", "-j", job["job"])
        return site.cluster.run(*words).stdout.strip()

    assert until(charged, WITHIN_S, "the job in the database") == "research"
