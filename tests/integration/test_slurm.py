"""Tasks in batch jobs of a real Slurm cluster: a login node, two compute nodes, a shared home."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.integration import other_python
from tests.integration.slurm import HOME, UID, Cluster
from tests.integration.slurm_blocks import configuration, configure, jobs_of, tasks, told
from tests.integration.slurm_site import SlurmSite

pytestmark = pytest.mark.timeout(900, func_only=True)  # what comes before has limits of its own


@pytest.fixture(scope="module")
def site(docker_engine: None) -> Iterator[SlurmSite]:
    del docker_engine
    with Cluster(nodes=2) as cluster:
        made = SlurmSite(cluster)
        made.install()
        made.serve()
        yield made


def test_two_hundred_functions_run_in_batch_jobs_on_the_compute_nodes(site: SlurmSite) -> None:
    site.cep("configure", "batch", "--profile", "slurm", "--set", "partition=debug")
    with site.running("batch") as endpoint_id:
        assert site.sdk("many", endpoint_id, "200")["right"]
        assert set(site.sdk("hosts", endpoint_id, "40")["hosts"]) <= {"c1", "c2"}
        jobs = jobs_of(site, endpoint_id)
    assert jobs, "the tasks ran in jobs of the scheduler"
    assert jobs_of(site, endpoint_id, ended=False) == [], "a stop leaves no job"


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


# -- the Python that runs tasks ----------------------------------------------------------------


def environment(site: SlurmSite, python: str, name: str) -> str:
    """An environment in the account's home, with a package of its own; as the cluster sees it."""
    where = f"{HOME}/{name}"
    site.cluster.run(python, "-m", "venv", "--without-pip", where)
    (packages,) = (site.home / name).glob("lib/python3*/site-packages")
    site.write(str((packages / "onlythere.py").relative_to(site.home)), "VALUE = 'only there'\n")
    return where


def test_tasks_of_a_cluster_run_in_the_environment_that_worker_init_activates(
    site: SlurmSite,
) -> None:
    env = environment(site, "/usr/bin/python3", "same")
    configure(site, "same", configuration(worker_init=f". {env}/bin/activate"))
    with site.running("same") as endpoint_id:
        seen = site.sdk("place", endpoint_id, "onlythere", "bytecode")
        assert (seen["prefix"], seen["value"]) == (env, "only there")
        log = site.cep("logs", "same", "--block", "0").stdout
        assert f"cep: tasks of block 0 run in {env}/bin/python3 (Python 3.13" in log
        assert f"worker_init activated {env}; it lacks" in log


def test_another_minor_version_of_python_is_lent_a_set_or_pauses_with_the_reason(
    site: SlurmSite,
) -> None:
    other_python.install(site.home / "python3.11", uid=UID)
    python = f"{HOME}/python3.11/bin/python3.11"
    env = environment(site, python, "other")
    configure(site, "other", configuration(worker_init=f". {env}/bin/activate"))
    said = site.cep("render", "other", "--submit-script").stdout
    assert f"{env}/bin/python3, since worker_init activates {env}. On this host it is" in said
    assert "and is refused: it lacks dill, parsl" in said
    with site.running("other") as endpoint_id, tasks(site) as submit:
        error = submit(endpoint_id, "other.mark").fate()["error"]
        assert f"BLOCKS_PAUSED: the block's Python cannot run tasks: {env}/bin/python3" in error
        assert "there is no worker set for Python 3.11 on x86_64" in error
        assert f"{env}/bin/python3 -m pip install" in error
        assert "cep worker-sets add --python 3.11" in error
        assert len(jobs_of(site, endpoint_id)) == 1, "one block is enough"
        assert "there is no worker set" in site.cep("status", "other").stdout

        other_python.wheels(site.home / "wheels", uid=UID)
        words = ("--python", f"{env}/bin/python3", "--wheels", f"{HOME}/wheels", "--json")
        made = json.loads(site.cep("worker-sets", "add", *words).stdout)
        assert (made["python"], made["source"]) == ("3.11", "wheels")
        site.cep("blocks", "other", "resume")
        seen = site.sdk("place", endpoint_id, "onlythere", "source")
        assert (seen["prefix"], seen["python"], seen["value"]) == (env, "3.11", "only there")
        failed = site.sdk("place", endpoint_id, "onlythere", "bytecode")["error"]
        assert "made by another version of Python than the worker's" in failed
        assert "Python 3.11" in failed
        assert told(site, "other")["breaker"]["failures"] == 0
