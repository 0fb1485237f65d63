"""Record what the PBS commands print that Debian's slurm-wlm-torque puts in front of Slurm.

Usage: python -m tests.integration.record_torque
Writes tests/unit/scheduler_outputs/torque-of-slurm-24.11/*.json; run it after a change of the
commands that `cep.engines.pbs_queue` asks, or of the image.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.slurm import HOME, Cluster
from tests.integration.slurm_blocks import until

FOLDER = Path(__file__).parents[1] / "unit/scheduler_outputs/torque-of-slurm-24.11"
ENDPOINT = "0f0f0f0f-1111-2222-3333-444444444444"


class Recorder:
    """Runs commands as the account, and keeps what they print."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        said = cluster.run("dpkg-query", "-W", "-f", "${Version}", "slurm-wlm-torque").stdout
        self.version = f"slurm-wlm-torque {said}"

    def keep(self, name: str, *argv: str) -> str:
        """Write a file; return what was printed."""
        done = self.cluster.run(*argv, check=False)
        content = {
            "version": self.version,
            "source": "recorded by us",
            "argv": argv,
            "code": done.returncode,
            "stdout": done.stdout,
            "stderr": done.stderr,
        }
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        return done.stdout

    def submit(self, block: int, script: str, *options: str) -> str:
        """Submit a job with a name like ours; return its id."""
        name = f"cep.{ENDPOINT}.abcdef01.{block}"
        path = self.cluster.home / "researcher" / f"job-{block}"
        path.write_text(f"#!/bin/bash\n{script}\n")
        words = ["qsub", "-N", name, "-r", "n", "-q", "debug", *options, f"{HOME}/job-{block}"]
        return self.cluster.run(*words).stdout.strip()

    def letter(self, job: str) -> str:
        """The state of a job in the table."""
        rows = self.cluster.run("qstat", job, check=False).stdout.splitlines()[2:]
        return rows[0].split()[-2] if rows else ""


def record(cluster: Cluster) -> None:
    """Jobs that run, wait, are held, ended well, failed and were deleted."""
    recorder = Recorder(cluster)
    first, second = recorder.submit(0, "sleep 300"), recorder.submit(1, "sleep 300")
    for job in (first, second):
        until(lambda job=job: recorder.letter(job) == "R", 60, "a job that runs")
    waiting = recorder.submit(2, "sleep 300")
    held = recorder.submit(3, "true", "-h")
    recorder.keep("full_two_running", "qstat", "-f", first, second)
    recorder.keep("table_two_running", "qstat", first, second)
    recorder.keep("full_waiting_and_held", "qstat", "-f", waiting, held)
    recorder.keep("table_waiting_and_held", "qstat", waiting, held)
    recorder.keep("user", "qstat", "-u", "researcher")
    recorder.keep("full_unknown", "qstat", "-f", "99")
    recorder.keep("table_unknown", "qstat", "99")
    recorder.keep("no_such_option", "qstat", "-x", first)
    recorder.keep("qsub_refused", "qsub", "-q", "nowhere", f"{HOME}/job-0")
    recorder.keep("qdel", "qdel", first, second, waiting, held)
    failed, well = recorder.submit(4, "exit 3"), recorder.submit(5, "true")
    for job in (first, failed, well):
        until(lambda job=job: recorder.letter(job) == "C", 60, "a job that is over")
    recorder.keep("table_over", "qstat", first, failed, well)
    recorder.keep("full_over", "qstat", "-f", failed)
    recorder.keep("qdel_over", "qdel", failed)
    cluster.root_run("pkill", "slurmctld")
    until(lambda: cluster.run("qstat", check=False).returncode != 0, 60, "the controller's end")
    recorder.keep("table_no_controller", "qstat", first)
    recorder.keep("qdel_no_controller", "qdel", first)
    recorder.keep("qsub_no_controller", "qsub", f"{HOME}/job-0")


def main() -> None:
    """Record one cluster of one host."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Cluster() as cluster:
        record(cluster)


if __name__ == "__main__":
    main()
