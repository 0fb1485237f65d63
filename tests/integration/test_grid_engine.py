"""The gridengine profile on a real Grid Engine; with LONG=1 only.

Parsl looks after its jobs, so there are no words of the scheduler here.
"""

from __future__ import annotations

import json

import pytest

from tests.integration.grid_engine import GridEngine
from tests.integration.hub_places import LONG
from tests.integration.slurm_blocks import until
from tests.integration.slurm_site import SlurmSite

if LONG:

    @pytest.mark.timeout(300)  # an installation of its own
    def test_the_profile_runs_functions_in_batch_jobs_and_a_stop_leaves_none(
        docker_engine: None,
    ) -> None:
        del docker_engine
        with GridEngine() as cluster:
            site = SlurmSite(cluster)
            site.install()
            site.serve()
            found = json.loads(site.cep("profiles", "detect", "--json").stdout)
            assert found["profile"]["value"] == "gridengine"
            sets = ("queue=all.q", "interface=eth0", "max_workers=1", "poll_seconds=5")
            site.cep("configure", "ge", "--profile", "gridengine", *(f"--set={s}" for s in sets))
            with site.running("ge") as endpoint_id:
                assert site.sdk("many", endpoint_id, "20")["right"]
                assert site.sdk("hosts", endpoint_id, "1")["hosts"] == [cluster.login]
                assert len(cluster.living()) == 1
            until(lambda: cluster.living() == [], 60, "the end of the job")
