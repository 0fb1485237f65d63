#!/usr/bin/env python3
"""An EMULATION of two commands of PBS Professional, over a real Slurm. No PBS runs behind it.

There is no package of PBS Professional or OpenPBS for Debian. Debian's own `qsub` and `qdel` in
front of Slurm (slurm-wlm-torque) take what the PBS profile gives them; `qstat -x -f -F json` and
`qselect`, which that package does not have, are answered by this file, from `squeue --json`: put
as `qstat` and `qselect` first on the PATH of the endpoint. Forms, names, letters and numbers are
those of PBS Professional 2022.1: ids with a server's name, `F` with Exit_status and a substate for
jobs that are over, status 153 for unknown jobs, and 35 for jobs that are over without `-x`.

Standard library only: it runs in the cluster's containers.
"""

from __future__ import annotations

import json
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SERVER = "pbs-emulated"
UNKNOWN_JOB, OVER = 153, 35
LETTERS = {"PENDING": "Q", "RUNNING": "R", "SUSPENDED": "S", "COMPLETING": "E"}


def number(value: Any) -> int:
    """Slurm wraps numbers: {"set": true, "infinite": false, "number": 3}."""
    return int(value["number"]) if isinstance(value, dict) else int(value or 0)


def clock(seconds: float) -> str:
    minutes, left = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{left:02}"


def exit_of(job: dict[str, Any], states: set[str]) -> tuple[int, int]:
    """Exit status and substate: 92 finished, 93 failed, 91 deleted."""
    if "TIMEOUT" in states:
        return -29, 93
    if "CANCELLED" in states:
        return 271, 91
    if "NODE_FAIL" in states:
        return -20, 93
    signal = number(job["exit_code"]["signal"]["id"])
    status = 256 + signal if signal else number(job["exit_code"]["return_code"])
    return status, 93 if status else 92


def attributes(job: dict[str, Any]) -> dict[str, Any]:
    """One job as PBS tells it."""
    states = set(job["job_state"])
    letter = next((LETTERS[state] for state in LETTERS if state in states), "F")
    if letter == "Q" and job["hold"]:
        letter = "H"
    begun, ended = number(job["start_time"]), number(job["end_time"])
    told: dict[str, Any] = {
        "Job_Name": job["name"],
        "Job_Owner": f"{job['user_name']}@{SERVER}",
        "job_state": letter,
        "queue": job["partition"],
        "server": SERVER,
        "Hold_Types": "u" if letter == "H" else "n",
        "Resource_List": {"walltime": clock(60 * number(job["time_limit"]))},
        "substate": {"Q": 10, "H": 20, "R": 42}.get(letter, 50),
    }
    if letter in "QH":
        told["comment"] = f"Not Running: {job['state_reason']}"
    elif begun:
        told["stime"] = time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(begun))
        told["exec_host"] = "+".join(f"{node}/0" for node in job["nodes"].split(",") if node)
        told["comment"] = f"Job run at {told['stime']} on ({job['nodes']}:ncpus=1)"
    if letter == "F":
        told["Exit_status"], told["substate"] = exit_of(job, states)
        told["resources_used"] = {"walltime": clock(max(0, ended - begun) if begun else 0)}
        told["comment"] = f"{told.get('comment', '')} and finished"
    return told


def known() -> dict[str, dict[str, Any]]:
    """What the controller remembers, by number."""
    said = subprocess.run(
        ["/usr/bin/squeue", "--states=all", "--json"], check=False, capture_output=True, text=True
    )
    if said.returncode != 0:
        print(f"Connection refused\nqstat: cannot connect to server {SERVER} (errno=15010)",
              file=sys.stderr)  # fmt: skip
        sys.exit(255)
    return {str(job["job_id"]): job for job in json.loads(said.stdout)["jobs"]}


def qstat(words: list[str]) -> int:
    """`qstat [-x] -f -F json ID...`; nothing else is emulated."""
    history = "-x" in words
    if [word for word in words if word.startswith("-") and word != "-x"] != ["-f", "-F"]:
        print("qstat: this emulation knows `-x -f -F json ID...` only", file=sys.stderr)
        return 2
    code, jobs, found = 0, {}, known()
    for job in [word for word in words if word[0].isdigit()]:
        name = f"{job.partition('.')[0]}.{SERVER}"
        if name.partition(".")[0] not in found:
            print(f"qstat: Unknown Job Id {name}", file=sys.stderr)
            code = UNKNOWN_JOB
            continue
        told = attributes(found[name.partition(".")[0]])
        if told["job_state"] == "F" and not history:
            print(f"qstat: {name} Job has finished, use -x or -H to obtain historical job "
                  "information", file=sys.stderr)  # fmt: skip
            code = OVER
            continue
        jobs[name] = told
    body = {"timestamp": int(time.time()), "pbs_version": "2022.1.3", "pbs_server": SERVER}
    print(json.dumps({**body, **({"Jobs": jobs} if jobs else {})}, indent=4))
    return code


def qselect(words: list[str]) -> int:
    """`qselect -u USER`: jobs that are not over."""
    for job, told in known().items():
        if told["user_name"] == words[1] and attributes(told)["job_state"] != "F":
            print(f"{job}.{SERVER}")
    return 0


if __name__ == "__main__":
    if Path(sys.argv[0]).name == "qselect":
        pwd.getpwnam(sys.argv[2])
        sys.exit(qselect(sys.argv[1:]))
    sys.exit(qstat(sys.argv[1:]))
