"""What the tests of blocks on Slurm share: a configuration, tasks in the background, waiting."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.slurm import HOME
from tests.integration.slurm_site import SlurmSite

WITHIN_S = 180.0  # what takes seconds on a quiet machine


def configuration(*, engine: dict[str, Any] | None = None, **provider: Any) -> str:
    """A configuration for one worker per block, changed in the engine or the provider."""
    return yaml.safe_dump(
        {
            "service_url": "http://localhost:5000",
            "engine": {
                "type": "GlobusComputeEngine",
                "max_workers_per_node": 1,
                "address": {"type": "address_by_interface", "ifname": "eth0"},
                "job_status_kwargs": {"max_idletime": 3600, "strategy_period": 2},
                **(engine or {}),
                "provider": {
                    "type": "SlurmProvider",
                    "partition": "debug",
                    "exclusive": False,
                    "init_blocks": 0,
                    "min_blocks": 0,
                    "max_blocks": 1,
                    "walltime": "00:30:00",
                    "launcher": {"type": "SrunLauncher"},
                    **provider,
                },
            },
        }
    )


def configure(site: SlurmSite, name: str, text: str) -> None:
    """Make an endpoint with this configuration."""
    site.cep("configure", name)
    site.write(f".globus_compute/{name}/config.yaml", text)


def until(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    """Wait for something that announces itself to nobody; return what it gave."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while not (found := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {within_s:g} s", pytrace=False)
        pause.wait(0.2)
    return found


def told(site: SlurmSite, name: str) -> dict[str, Any]:
    """What `cep blocks NAME --json` says."""
    said: dict[str, Any] = json.loads(site.cep("blocks", name, "--json").stdout)
    return said


def the_block(site: SlurmSite, name: str) -> dict[str, Any]:
    """What the endpoint says of its only block; nothing while it has not heard of its job."""
    blocks: list[dict[str, Any]] = told(site, name)["blocks"]
    assert len(blocks) <= 1, blocks
    return blocks[0] if blocks else {}


def ends(site: SlurmSite, name: str) -> list[dict[str, Any]]:
    """The ends of blocks that the endpoint has seen; a task's error may be a moment ahead."""
    found: list[dict[str, Any]] = until(
        lambda: told(site, name)["ended_blocks"], WITHIN_S, "the end of a block"
    )
    return found


def end_walltime(site: SlurmSite, endpoint_id: str) -> None:
    """Take away what its only job has left: Slurm knows no walltime under a minute."""
    (job,) = jobs_of(site, endpoint_id, ended=False)
    site.cluster.root_run("scontrol", "update", f"JobId={job['job']}", "EndTime=now")


def jobs_of(site: SlurmSite, endpoint_id: str, *, ended: bool = True) -> list[dict[str, str]]:
    """Jobs with the name of this endpoint's, as the controller remembers them."""
    states = "all" if ended else "PENDING,RUNNING,CONFIGURING"
    listed = site.cluster.root_run(
        "squeue", "--noheader", f"--states={states}", "--format=%i|%T|%j"
    ).stdout
    rows = [line.split("|") for line in listed.splitlines()]
    return [
        {"job": job, "state": state, "name": name}
        for job, state, name in rows
        if name.startswith(f"cep.{endpoint_id}.")
    ]


def a_minute() -> float:
    """In seconds, a minute in which to say what is wrong; more where others load this machine."""
    return 60.0 * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def replaced(now: list[str], before: str) -> str:
    """The job that is there in the place of an earlier one, once it is alone."""
    return now[0] if len(now) == 1 and now[0] != before else ""


class Task:
    """A task that sleeps, submitted by the official SDK in the background."""

    def __init__(self, site: SlurmSite, endpoint_id: str, mark: str, future: Future[Any]) -> None:
        self._mark = Path(site.home) / mark
        self._future = future
        self.endpoint_id = endpoint_id

    def runs(self, within_s: float = WITHIN_S) -> str:
        """Wait until it runs; return the host."""
        until(lambda: self._mark.exists() or self._future.done(), within_s, "the task's begin")
        if not self._mark.exists():
            pytest.fail(f"the task never ran: {self._future.result()}", pytrace=False)
        return self._mark.read_text()

    def fate(self, within_s: float = 400.0) -> dict[str, Any]:
        """How it ended: `error`, `seconds`, and `minute`: `a_minute` of that time."""
        fate: dict[str, Any] = self._future.result(timeout=within_s)
        return fate


@contextmanager
def tasks(site: SlurmSite) -> Iterator[Callable[..., Task]]:
    """Give a function that submits a sleeping task: `(endpoint_id, mark, seconds)`."""
    with ThreadPoolExecutor(12) as pool:

        def submit(endpoint_id: str, mark: str, seconds: float = 300.0) -> Task:
            words = ("fate", endpoint_id, f"{HOME}/{mark}", str(seconds))

            def fate() -> dict[str, Any]:
                before = a_minute()  # the load's mean may have fallen again at the end
                told: dict[str, Any] = site.sdk(*words, timeout_s=390.0)
                return {**told, "minute": max(before, a_minute())}

            return Task(site, endpoint_id, mark, pool.submit(fate))

        try:
            yield submit
        finally:  # what a failed test has not waited for
            site.cluster.root_run("pkill", "-f", "sdk_client.py fate", check=False)
