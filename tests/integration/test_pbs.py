"""Blocks by PBS commands: Torque's for real in front of Slurm, PBS Professional's emulated.

`torque` uses Debian's `qsub`, `qstat` and `qdel` (slurm-wlm-torque) in front of a real Slurm. For
`pbs` the same `qsub` and `qdel`, but `qstat -x -f -F json` and `qselect` are an emulation
(pbspro_emulation.py). What Torque's `qstat` there does not tell (exit status, why a job waits) the
endpoint cannot tell either.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.hub_places import LONG
from tests.integration.slurm import HOME, Cluster
from tests.integration.slurm_blocks import (
    WITHIN_S,
    Task,
    end_walltime,
    ends,
    jobs_of,
    replaced,
    tasks,
    the_block,
    until,
)
from tests.integration.slurm_site import SlurmSite

Submit = Callable[..., Task]
EMULATION = Path(__file__).with_name("pbspro_emulation.py")
PROFILES = ("torque", "pbs")
pytestmark = pytest.mark.timeout(900, func_only=True)  # what comes before has limits of its own
each_profile = pytest.mark.parametrize("profile", PROFILES)
#: What takes long; with LONG=1 on both.
each_if_long = pytest.mark.parametrize("profile", PROFILES if LONG else PROFILES[:1])


class PbsSite(SlurmSite):
    """A site with the PBS commands of one profile; for `pbs`, `emulate` comes first."""

    def __init__(self, cluster: Cluster, profile: str) -> None:
        super().__init__(cluster)
        self.profile = profile

    def emulate(self) -> None:
        """Put the emulated commands into the account's home, and first on PATH."""
        folder = self.home / "emulated"
        folder.mkdir()
        for name in ("qstat", "qselect"):
            shutil.copy(EMULATION, folder / name)
            (folder / name).chmod(0o755)
        self.environment["PATH"] = f"{HOME}/emulated:/usr/bin:/bin"

    def configure(self, name: str, **values: str) -> None:
        """Make an endpoint as a user does, for one worker in a block."""
        chosen = {"queue": "debug", "interface": "eth0", "max_workers": "1", "poll_seconds": "5"}
        stays = {"max_idletime": "3600", "walltime": "00:30:00"}  # however slow the machine is
        sets = [f"--set={key}={value}" for key, value in {**chosen, **stays, **values}.items()]
        self.cep("configure", name, "--profile", self.profile, *sets)
        text = (self.directory(name) / "config.yaml").read_text()
        assert "strategy_period: 5" in text
        # Less than the profile allows, so that the tests need not wait for it.
        quick = text.replace("strategy_period: 5", "strategy_period: 1")
        self.write(f".globus_compute/{name}/config.yaml", quick)

    def kill(self, name: str) -> None:
        """Kill an endpoint's agent with all its own processes, as a crash of the host would."""
        pid = json.loads(self.cep("status", name, "--json").stdout)["pid"]
        self.cluster.run("kill", "-9", str(pid))
        until(lambda: "Disconnected" in self.cep("status", name).stdout, WITHIN_S, "its end")


@pytest.fixture(scope="module")
def sites(docker_engine: None) -> Iterator[dict[str, PbsSite]]:
    """Both on one cluster."""
    del docker_engine
    with Cluster(cpus=8) as cluster:
        torque, pbs = (PbsSite(cluster, profile) for profile in PROFILES)
        torque.install()
        torque.serve()
        pbs.environment.update(torque.environment)
        pbs.emulate()
        yield {"torque": torque, "pbs": pbs}


@pytest.fixture(scope="module")
def submit(sites: dict[str, PbsSite]) -> Iterator[Submit]:
    with tasks(sites["torque"]) as function:
        yield function


@pytest.fixture(scope="module", autouse=True)
def slow(sites: dict[str, PbsSite], submit: Submit) -> Iterator[dict[str, Task]]:
    """Tasks whose blocks run into their walltime: the first to begin, the last to be looked at.

    Slurm knows minutes only, so what is left is taken away; it looks every half minute.
    """
    begun: dict[str, Task] = {}
    with ExitStack() as stack:
        for profile in PROFILES if LONG else PROFILES[:1]:
            site, name = sites[profile], f"walltime-{profile}"
            site.configure(name)
            endpoint_id = stack.enter_context(site.running(name))
            begun[profile] = submit(endpoint_id, f"{name}.mark")
        for profile, task in begun.items():
            task.runs()
            end_walltime(sites[profile], task.endpoint_id)
        yield begun


def living(site: PbsSite, endpoint_id: str) -> list[str]:
    """Ids of the endpoint's jobs that are not over, as Slurm knows them."""
    return [job["job"] for job in jobs_of(site, endpoint_id, ended=False)]


def run_functions(site: PbsSite, submit: Submit) -> None:
    """From `configure` to `stop`, with a job that is deleted while a function runs in it."""
    name = f"jobs-{site.profile}"
    site.configure(name)
    if site.profile == "pbs" or LONG:
        said = site.cep("render", name, "--submit-test").stdout
        held = re.search(r"It took a held job, (\d+), which was deleted again", said)
        assert held, said
        assert held.group(1) not in living(site, "ENDPOINT_ID")  # the other profile has one, too
    with site.running(name) as endpoint_id:
        assert site.sdk("many", endpoint_id, "20")["right"]
        (first,) = living(site, endpoint_id)
        until(lambda: the_block(site, name).get("scheduler") == "RUNNING", WITHIN_S, "that it runs")
        assert (the_block(site, name)["job"], the_block(site, name)["workers"]) == (first, 1)
        task = submit(endpoint_id, f"{name}.mark")
        task.runs()
        site.cluster.run("qdel", first)
        error = task.fate()["error"]
        assert re.search(rf"BLOCK_LOST \(CANCELLED .*in job {first}\): The block", error)
        (end,) = ends(site, name)
        assert (end["job"], end["state"], end["failed"]) == (first, "CANCELLED", False)
    assert living(site, endpoint_id) == [], "a stop leaves no job"


@pytest.fixture(scope="module")
def runs(
    slow: dict[str, Task], sites: dict[str, PbsSite], submit: Submit
) -> Iterator[dict[str, Future[None]]]:
    """`run_functions` on both sites side by side, since most of it is waiting."""
    del slow
    with ThreadPoolExecutor(len(PROFILES)) as pool:
        yield {name: pool.submit(run_functions, site, submit) for name, site in sites.items()}


@each_profile
def test_the_profile_runs_functions_in_batch_jobs(
    runs: dict[str, Future[None]], profile: str
) -> None:
    """Torque's qstat tells only the end here; that a job was cancelled, its error output."""
    runs[profile].result(timeout=840)


@each_if_long
def test_the_end_of_the_walltime_is_named_in_the_tasks_error(
    slow: dict[str, Task], profile: str
) -> None:
    error = slow[profile].fate()["error"]
    assert re.search(r"BLOCK_LOST \(TIMEOUT .*in job \d+\): The block", error)


if LONG:

    @each_profile
    def test_what_a_killed_agent_has_left_is_deleted_by_the_next_start_and_by_stop(
        sites: dict[str, PbsSite], profile: str
    ) -> None:
        site, name = sites[profile], f"held-{profile}"
        site.configure(name, init_blocks="1", scheduler_options="#PBS -h")
        endpoint_id = site.start(name)
        (first,) = until(lambda: living(site, endpoint_id), WITHIN_S, "a job that waits")
        if profile == "pbs":  # Torque's qstat does not tell it here
            reason = until(lambda: the_block(site, name).get("reason"), WITHIN_S, "the reason")
            assert reason == "Not Running: JobHeldUser"
        site.kill(name)
        assert living(site, endpoint_id) == [first]
        assert site.start(name) == endpoint_id
        until(lambda: replaced(living(site, endpoint_id), first), WITHIN_S, "only the new job")
        site.kill(name)
        site.cep("stop", name)
        assert living(site, endpoint_id) == []

    @each_profile
    def test_a_script_that_fails_pauses_with_the_cause(
        sites: dict[str, PbsSite], submit: Submit, profile: str
    ) -> None:
        """Torque's qstat tells no exit status here."""
        site, name = sites[profile], f"broken-{profile}"
        site.configure(name, worker_init="echo no such module >&2; exit 3")
        with site.running(name) as endpoint_id:
            error = submit(endpoint_id, f"{name}.mark").fate()["error"]
            assert "BLOCKS_PAUSED: 3 blocks in a row failed" in error
            assert ("FINISHED" if profile == "torque" else "FAILED with exit status 3") in error
            assert "no such module" in error
            assert len(jobs_of(site, endpoint_id)) == 3
