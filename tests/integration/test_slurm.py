"""Tasks in batch jobs of a real Slurm cluster: a login node, two compute nodes, a shared home."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.integration.hub_places import LONG
from tests.integration.slurm import Cluster
from tests.integration.slurm_blocks import configuration, configure, tasks
from tests.integration.slurm_site import SlurmSite


@pytest.fixture(scope="module")
def site(docker_engine: None) -> Iterator[SlurmSite]:
    del docker_engine
    with Cluster(nodes=2, node_timeout_s=40) as cluster:
        made = SlurmSite(cluster)
        made.install()
        made.serve()
        yield made


def test_two_hundred_functions_run_in_batch_jobs_on_the_compute_nodes(site: SlurmSite) -> None:
    site.cep("configure", "batch", "--profile", "slurm", "--set", "partition=debug")
    with site.running("batch") as endpoint_id:
        assert site.sdk("many", endpoint_id, "200")["right"]
        assert set(site.sdk("hosts", endpoint_id, "40")["hosts"]) <= {"c1", "c2"}
        assert site.cluster.jobs(), "the tasks ran in jobs of the scheduler"
    assert site.cluster.jobs() == [], "a stop leaves no job"


def test_detection_on_the_login_node_proposes_what_is_certain_and_lists_the_rest(
    site: SlurmSite,
) -> None:
    told = json.loads(site.cep("profiles", "detect", "--json").stdout)
    assert told["profile"]["value"] == "slurm"  # the PBS commands there are Slurm's own
    values = told["values"]["slurm"]
    assert values["interface"]["value"] == "eth0"
    assert (
        "the way from here to the compute node c1" in values["interface"]["candidates"][0]["reason"]
    )
    assert [one["value"] for one in values["partition"]["candidates"]] == ["debug", "long"]
    assert told["host"]["modules"]["name"] == "environment-modules"
    done = site.cep("configure", "auto", "--profile", "auto", check=False)
    assert done.returncode == 64
    assert "--set partition=VALUE" in done.stderr
    site.cep("configure", "auto", "--profile", "auto", "--set", "partition=debug")
    with site.running("auto") as endpoint_id:
        assert set(site.sdk("hosts", endpoint_id, "4")["hosts"]) <= {"c1", "c2"}


if LONG:  # it takes the time after which Slurm believes that a silent node is down

    def test_a_node_that_loses_its_power_is_named_in_the_tasks_error(site: SlurmSite) -> None:
        on_second = "#SBATCH --nodelist=c2"
        configure(site, "power", configuration(scheduler_options=on_second))
        with site.running("power") as endpoint_id, tasks(site) as submit:
            task = submit(endpoint_id, "power.mark")
            assert task.runs() == "c2"
            site.cluster.power_off("c2")
            error = task.fate()["error"]
        assert re.search(r"BLOCK_LOST \(NODE_FAIL after 00:0\d:\d\d in job \d+\): The", error)
        assert "on host c2" in error
