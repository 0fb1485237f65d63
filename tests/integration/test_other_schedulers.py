"""The gridengine and htcondor profiles on real schedulers; with LONG=1 only.

Parsl looks after these jobs, so there are no words of the scheduler here.
"""

from __future__ import annotations

import json

import pytest

from tests.integration.hub_places import LONG
from tests.integration.one_host import GridEngine, HtCondor, OneHost
from tests.integration.slurm_blocks import until
from tests.integration.slurm_site import SlurmSite

VALUES = {"gridengine": ("queue=all.q",), "htcondor": ()}

if LONG:

    @pytest.mark.timeout(600)  # an image and an installation of its own
    @pytest.mark.parametrize("scheduler", [GridEngine, HtCondor])
    def test_the_profile_runs_functions_in_batch_jobs_and_a_stop_leaves_none(
        docker_engine: None, scheduler: type[OneHost]
    ) -> None:
        del docker_engine
        profile = scheduler.profile
        with scheduler() as cluster:
            site = SlurmSite(cluster)
            site.install()
            site.serve()
            found = json.loads(site.cep("profiles", "detect", "--json").stdout)
            assert found["profile"]["value"] == profile
            sets = ("interface=eth0", "max_workers=1", "poll_seconds=5", *VALUES[profile])
            site.cep("configure", "ep", "--profile", profile, *(f"--set={s}" for s in sets))
            with site.running("ep") as endpoint_id:
                assert site.sdk("many", endpoint_id, "20")["right"]
                assert site.sdk("hosts", endpoint_id, "1")["hosts"] == [cluster.login]
                assert len(cluster.living()) == 1
            until(lambda: cluster.living() == [], 60, "the end of the job")
