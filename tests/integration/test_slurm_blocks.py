"""Blocks on a real Slurm cluster: what the scheduler says of them, and what they leave behind."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.integration.slurm import Cluster
from tests.integration.slurm_blocks import (
    WITHIN_S,
    Task,
    configuration,
    configure,
    end_walltime,
    ends,
    jobs_of,
    replaced,
    tasks,
    the_block,
    told,
    until,
)
from tests.integration.slurm_site import INSTALLATION, SlurmSite

Submit = Callable[..., Task]
ON_SECOND = "#SBATCH --nodelist=c2"
pytestmark = pytest.mark.timeout(900, func_only=True)  # what comes before has limits of its own


@pytest.fixture(scope="module")
def site(docker_engine: None) -> Iterator[SlurmSite]:
    del docker_engine
    with Cluster(nodes=3, cpus=8, node_timeout_s=25, apart=["c3"]) as cluster:
        made = SlurmSite(cluster)
        made.install()
        made.serve()
        yield made


@pytest.fixture(scope="module")
def submit(site: SlurmSite) -> Iterator[Submit]:
    with tasks(site) as function:
        yield function


@pytest.fixture(scope="module", autouse=True)
def aside(site: SlurmSite, submit: Submit) -> Iterator[dict[str, Future[None]]]:
    """Scenarios that are mostly waiting, beside the tests: on a node that no test takes down."""
    with ThreadPoolExecutor(2, "aside") as pool:
        yield {
            "moody": pool.submit(moody, site),
            "broken": pool.submit(broken, site, submit),
            "unseen": pool.submit(unseen, site, submit),
        }


@pytest.fixture(scope="module", autouse=True)
def slow(
    aside: dict[str, Future[None]], site: SlurmSite, submit: Submit
) -> Iterator[dict[str, Task]]:
    """Tasks whose ends take long: the first to begin, the last to be looked at.

    `walltime` has a block whose walltime is taken away; Slurm looks every half minute.
    `deaf` is an endpoint at an address that its nodes cannot reach; `power` runs on a node that
    loses its power, which Slurm notices after `node_timeout_s`.
    """
    del aside  # begins first
    configure(site, "power", configuration(partition="apart"))
    deaf = configuration(engine={"address": "127.0.0.1"}, scheduler_options=ON_SECOND)
    configure(site, "walltime", configuration(scheduler_options=ON_SECOND))
    configure(site, "deaf", deaf)
    with (
        site.running("power") as third,
        site.running("walltime") as first,
        site.running("deaf") as second,
    ):
        begun = {
            "walltime": submit(first, "walltime.mark"),
            "deaf": submit(second, "deaf.mark"),
            "power": submit(third, "power.mark"),
        }
        assert begun["power"].runs() == "c3"
        site.cluster.power_off("c3")
        begun["walltime"].runs()
        end_walltime(site, first)
        yield begun


def silence_is(site: SlurmSite, name: str, words: str) -> bool:
    """Whether the endpoint says this of its scheduler's last answer."""
    picture = json.loads(site.cep("status", name, "--json").stdout)
    return words in picture["agent"]["engine"]["scheduler"]


def moody(site: SlurmSite) -> None:
    """By wrappers around the real commands, first on the agent's PATH."""
    for name in ("squeue", "scontrol", "sbatch", "sacct"):
        site.write(
            f"wrappers/{name}",
            "#!/bin/sh\n"
            "case $(cat /home/researcher/wrappers/mood) in\n"
            "hang) exec sleep 60 ;;\n"
            "garbage) echo '*** the cluster will be down on monday ***'; exit 0 ;;\n"
            "esac\n"
            f'exec /usr/bin/{name} "$@"\n',
        )
        (site.home / "wrappers" / name).chmod(0o755)
    site.write("wrappers/mood", "good")
    engine = {"job_status_kwargs": {"max_idletime": 3600, "strategy_period": 1}}
    text = configuration(engine=engine, cmd_timeout=5, scheduler_options=ON_SECOND)
    configure(site, "moody", text)
    path = site.environment.get("PATH", "/usr/bin:/bin")
    there = SlurmSite(site.cluster)
    there.environment = {**site.environment, "PATH": f"/home/researcher/wrappers:{path}"}
    with there.running("moody") as endpoint_id:
        try:
            assert site.sdk("many", endpoint_id, "5")["right"]
            for mood, words in (("hang", "did not answer within 5 s"), ("garbage", "monday")):
                site.write("wrappers/mood", mood)
                until(functools.partial(silence_is, site, "moody", words), 2 * WITHIN_S, words)
                assert site.sdk("many", endpoint_id, "20")["right"]
                block = the_block(site, "moody")
                assert (block["state"], block["workers"]) == ("running", 1)
        finally:
            site.write("wrappers/mood", "good")
        assert len(jobs_of(site, endpoint_id, ended=False)) == 1
        assert told(site, "moody")["breaker"]["failures"] == 0


def broken(site: SlurmSite, submit: Submit) -> None:
    """With a worker_init that fails."""
    init = "echo 'ModuleCmd_Load: no module named science/2' >&2; exit 3"
    configure(site, "broken", configuration(worker_init=init, scheduler_options=ON_SECOND))
    with site.running("broken") as endpoint_id:
        fate = submit(endpoint_id, "broken.mark").fate()
        assert fate["seconds"] < fate["minute"]
        assert "BLOCKS_PAUSED: 3 blocks in a row failed" in fate["error"]
        assert "FAILED with exit status 3" in fate["error"]
        assert "no module named science/2" in fate["error"]
        assert "cep blocks broken resume" in fate["error"]
        assert len(jobs_of(site, endpoint_id)) == 3
        status = site.cep("status", "broken").stdout
        assert "Blocks:    PAUSED, 3 failed in a row" in status
        assert "no module named science/2" in site.cep("logs", "broken", "--block", "0").stdout
    with site.running("broken"):
        breaker = until(
            lambda: told(site, "broken")["breaker"], WITHIN_S, "the block thread's word"
        )
        assert breaker["paused"], "a restart forgets nothing"
        assert "BLOCKS_PAUSED" in submit(endpoint_id, "broken.mark").fate()["error"]
        assert len(jobs_of(site, endpoint_id)) == 3
        site.cep("blocks", "broken", "resume")
        until(lambda: not told(site, "broken")["breaker"]["paused"], WITHIN_S, "the pause's end")
        assert told(site, "broken")["breaker"]["failures"] == 0
        site.cep("blocks", "broken", "pause")
        until(lambda: told(site, "broken")["breaker"]["by"] == "hand", WITHIN_S, "the new pause")
        site.cep("blocks", "broken", "resume")


def unseen(site: SlurmSite, submit: Submit) -> None:
    """With an installation that only the login node has."""
    site.cluster.root_run("ln", "-s", INSTALLATION, "/opt/cep")
    configure(site, "unseen", configuration(scheduler_options=ON_SECOND))
    python = "/opt/cep/bin/python3"
    run = functools.partial(site.cluster.run, python, "-m", "cep", env=site.environment)
    endpoint_id = re.findall(r"[0-9a-f-]{36}", run("start", "unseen").stdout)[0]
    try:
        fate = submit(endpoint_id, "unseen.mark").fate()
    finally:
        run("stop", "unseen")
    assert fate["seconds"] < fate["minute"]
    assert "BLOCKS_PAUSED" in fate["error"]
    assert "/opt/cep/bin/python3" in fate["error"]
    assert "it cannot be seen on host c2; what is to run there has to be" in fate["error"]


def test_blocks_come_with_the_tasks_and_go_when_idle(site: SlurmSite) -> None:
    engine = {"job_status_kwargs": {"max_idletime": 2, "strategy_period": 1}}
    configure(site, "tide", configuration(engine=engine, max_blocks=2))
    with site.running("tide") as endpoint_id:
        assert jobs_of(site, endpoint_id) == []
        assert site.sdk("sleepers", endpoint_id, "6", "1")["hosts"]
        assert len(jobs_of(site, endpoint_id)) == 2
        until(lambda: not jobs_of(site, endpoint_id, ended=False), WITHIN_S, "the idle blocks' end")
        until(lambda: not told(site, "tide")["blocks"], WITHIN_S, "the picture without them")
    states: list[str] = []

    def completed() -> bool:
        """Slurm says COMPLETING while it still clears away after a job that it has cancelled."""
        states[:] = [job["state"] for job in jobs_of(site, endpoint_id)]
        return "COMPLETING" not in states

    until(completed, WITHIN_S, "the end of both jobs")
    assert states == ["CANCELLED", "CANCELLED"]


def test_a_job_that_the_scheduler_cancels_is_named_in_the_tasks_error(
    site: SlurmSite, submit: Submit
) -> None:
    configure(site, "cancelled", configuration())
    with site.running("cancelled") as endpoint_id:
        task = submit(endpoint_id, "cancelled.mark")
        task.runs()
        (job,) = jobs_of(site, endpoint_id)
        site.cluster.root_run("scancel", job["job"])
        error = task.fate()["error"]
        assert re.search(rf"BLOCK_LOST \(CANCELLED .*in job {job['job']}\): The block", error)
        (end,) = ends(site, "cancelled")
        assert (end["job"], end["state"], end["failed"]) == (job["job"], "CANCELLED", False)
        assert f"job {job['job']}, CANCELLED" in site.cep("status", "cancelled").stdout


def test_a_node_taken_down_is_named_in_the_tasks_error(site: SlurmSite, submit: Submit) -> None:
    configure(site, "node", configuration(scheduler_options="#SBATCH --nodelist=c1"))
    with site.running("node") as endpoint_id:
        task = submit(endpoint_id, "node.mark")
        host = task.runs()
        site.cluster.root_run(
            "scontrol", "update", f"NodeName={host}", "State=DOWN", "Reason=taken down by a test"
        )
        try:
            error = task.fate()["error"]
        finally:
            site.cluster.root_run(  # it may have come back by itself
                "scontrol", "update", f"NodeName={host}", "State=RESUME", check=False
            )
        assert re.search(r"BLOCK_LOST \(NODE_FAIL after 00:0\d:\d\d in job \d+\): The", error)
        assert f"on host {host}" in error


def test_waiting_jobs_show_their_reason_and_none_outlives_a_killed_agent(site: SlurmSite) -> None:
    text = configuration(init_blocks=1, scheduler_options="#SBATCH --begin=now+1hour")
    configure(site, "later", text)

    def waiting() -> list[str]:
        return [job["job"] for job in jobs_of(site, endpoint_id, ended=False)]

    def kill() -> None:
        pid = json.loads(site.cep("status", "later", "--json").stdout)["pid"]
        site.cluster.run("kill", "-9", str(pid))
        until(lambda: "Disconnected" in site.cep("status", "later").stdout, WITHIN_S, "its end")

    endpoint_id = site.start("later")
    (first,) = until(waiting, WITHIN_S, "a job that waits")
    reason = until(lambda: the_block(site, "later").get("reason"), WITHIN_S, "the reason")
    assert reason == "BeginTime"
    assert "the scheduler says PENDING (BeginTime)" in site.cep("status", "later").stdout
    kill()
    assert waiting() == [first]
    assert site.start("later") == endpoint_id
    second = until(lambda: replaced(waiting(), first), WITHIN_S, "only the new job")
    kill()
    site.cep("stop", "later")
    assert waiting() == [], "a stop cancels what a killed agent has left"
    site.start("later")
    until(waiting, WITHIN_S, "a job that waits")
    kill()
    site.cep("delete", "later", "--yes")
    assert waiting() == [], "a delete cancels it, too"
    assert second != first


def test_a_scheduler_that_hangs_or_answers_garbage_stalls_no_task_and_ends_no_block(
    aside: dict[str, Future[None]],
) -> None:
    aside["moody"].result(timeout=840)


def test_a_broken_worker_init_pauses_after_three_jobs_and_says_why(
    aside: dict[str, Future[None]],
) -> None:
    aside["broken"].result(timeout=840)


def test_an_address_that_nodes_cannot_reach_pauses_with_the_cause(
    slow: dict[str, Task],
) -> None:
    fate = slow["deaf"].fate()
    # Three blocks, one after the other, of which each tries for 8 s.
    assert fate["seconds"] < 1.5 * fate["minute"]
    assert "BLOCKS_PAUSED" in fate["error"]
    assert "cannot be reached from node c2 at 127.0.0.1" in fate["error"]
    assert "Set engine.address" in fate["error"]


def test_an_installation_that_nodes_cannot_see_pauses_with_the_cause(
    aside: dict[str, Future[None]],
) -> None:
    aside["unseen"].result(timeout=840)


def test_the_end_of_the_walltime_is_named_in_the_tasks_error(slow: dict[str, Task]) -> None:
    error = slow["walltime"].fate()["error"]
    assert re.search(r"BLOCK_LOST \(TIMEOUT after 00:0\d:\d\d in job \d+\): The block", error)


def test_a_node_that_loses_its_power_is_named_in_the_tasks_error(slow: dict[str, Task]) -> None:
    error = slow["power"].fate()["error"]
    assert re.search(r"BLOCK_LOST \(NODE_FAIL after 00:0\d:\d\d in job \d+\): The block", error)
    assert "on host c3" in error
