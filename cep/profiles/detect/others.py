"""LSF, Grid Engine and HTCondor: what bqueues, qconf and condor_status say.

The parsers are pure. Source of the formats: the manuals of LSF 10.1, Grid Engine 8.1 and HTCondor
23.0, read and not recorded: none of the three was at hand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from cep.profiles.detect.commands import Site
from cep.profiles.detect.facts import Queue, Scheduler, seconds_of

_MOST_QUEUES = 20  # Grid Engine is asked about each with a command of its own
_FEW = 3
MACHINES = ("condor_status", "-af:,", "Machine", "TotalSlotCpus", "TotalSlotMemory")


def find_lsf(site: Site) -> Scheduler | None:
    """Ask LSF about itself; None where it is not."""
    found = _begin(site, "lsf", "LSF", ("bsub", "bqueues", "bjobs", "bparams", "bhosts", "lsid"))
    if found is None:
        return None
    answer = site.ask("bqueues", "-l")
    found.queues = lsf_queues(answer.out) if answer.answered else []
    if not found.queues:
        found.troubles.append(answer.words or "bqueues shows no queue.")
        return found
    found.answers = True
    if "lsid" in found.commands:
        words = re.search(r"LSF.*?(\d+(?:\.\d+)+)", site.ask("lsid").out)
        found.version = words[1] if words else ""
    if "bparams" in found.commands:
        found.queues = _with_default(found.queues, lsf_defaults(site.ask("bparams").out))
    if "bhosts" in found.commands:
        lines = site.ask("bhosts").out.splitlines()[1:]
        found.nodes = [line.split()[0] for line in lines if line.split()[1:2] == ["ok"]][:_FEW]
    return found


def lsf_queues(text: str) -> list[Queue]:
    """The queues of `bqueues -l`."""
    found = []
    parts = re.split(r"^QUEUE:[ \t]*(\S+)", text, flags=re.MULTILINE)[1:]
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        status = re.search(r"\b(Open|Closed):(Active|Inact)\w*", block)
        limit = re.search(r"^\s*RUNLIMIT\s*\n\s*([\d.]+) min", block, re.MULTILINE)
        found.append(
            Queue(
                name,
                open=status is None or status[0].startswith("Open:Active"),
                longest_s=int(float(limit[1]) * 60) if limit else None,
            )
        )
    return found


def lsf_defaults(text: str) -> list[str]:
    """The default queues that `bparams` tells, the first of them first."""
    found = re.search(r"^Default Queues:\s*(.+)$", text, re.MULTILINE)
    return found[1].split() if found else []


def find_gridengine(site: Site) -> Scheduler | None:
    """Ask Grid Engine about itself; None where it is not."""
    found = _begin(site, "gridengine", "Grid Engine", ("qsub", "qconf", "qstat", "qhost"))
    if found is None:
        return None
    answer = site.ask("qconf", "-sql")
    names = answer.out.split() if answer.answered else []
    if not names:
        found.troubles.append(answer.words or "qconf shows no queue.")
        return found
    found.answers = True
    found.queues = [
        gridengine_queue(name, site.ask("qconf", "-sq", name).out) for name in names[:_MOST_QUEUES]
    ]
    if len(names) > _MOST_QUEUES:
        found.troubles.append(f"Only the first {_MOST_QUEUES} of {len(names)} queues are told.")
    first = site.ask("qstat", "-help").out.splitlines()[:1]
    found.version = first[0].strip() if first else ""
    return found


def gridengine_queue(name: str, text: str) -> Queue:
    """A queue as `qconf -sq NAME` tells it."""
    keys = dict(re.findall(r"^(\w+)\s+(\S+)", text, re.MULTILINE))
    slots = keys.get("slots", "").partition(",")[0]
    return Queue(
        name,
        open=keys.get("initial_state") != "disabled",
        longest_s=seconds_of(keys.get("h_rt", ""), 1),
        cores=int(slots) if slots.isdigit() and slots != "0" else None,
    )


def find_htcondor(site: Site) -> Scheduler | None:
    """Ask HTCondor about itself; None where it is not."""
    commands = ("condor_submit", "condor_status", "condor_q", "condor_version")
    found = _begin(site, "htcondor", "HTCondor", commands)
    if found is None:
        return None
    answer = site.ask(*MACHINES)
    machines = condor_machines(answer.out)
    if not answer.answered or not machines:
        found.troubles.append(answer.words or "condor_status shows no machine.")
        return found
    found.answers = True
    found.queues = []  # it has none; machines are told as one
    cores = [cores for cores, _ in machines.values() if cores]
    memory = [memory for _, memory in machines.values() if memory]
    found.queues.append(
        Queue(
            "all machines",
            default=True,
            nodes=len(machines),
            cores=min(cores, default=None),
            memory_mb=min(memory, default=None),
        )
    )
    found.nodes = list(machines)[:_FEW]
    if "condor_version" in found.commands:
        words = re.search(r"\$CondorVersion:\s*(\S+)", site.ask("condor_version").out)
        found.version = words[1] if words else ""
    return found


def condor_machines(text: str) -> dict[str, tuple[int, int]]:
    """Cores and memory in MB of each machine that `condor_status -af:,` tells."""
    found: dict[str, tuple[int, int]] = {}
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3 and parts[0]:
            here = tuple(int(part) if part.isdigit() else 0 for part in parts[1:])
            before = found.get(parts[0], (0, 0))
            found[parts[0]] = (max(before[0], here[0]), max(before[1], here[1]))
    return found


def _begin(site: Site, profile: str, name: str, names: Sequence[str]) -> Scheduler | None:
    """A scheduler whose submitting and whose telling command (the first two) are looked for."""
    commands = {one: path for one in names if (path := site.which(one)) is not None}
    submits, tells = names[:2]
    mark = tells if profile == "gridengine" else submits  # qsub has several makers
    if mark not in commands:
        return None
    found = Scheduler(profile, name, commands)
    gone = [one for one in (submits, tells) if one not in commands]
    if gone and gone[0] == submits:
        found.troubles.append(f"{gone[0]} is not there, so {name} cannot be used from this host.")
    return found


def _with_default(queues: list[Queue], defaults: list[str]) -> list[Queue]:
    return [replace(queue, default=queue.name in defaults[:1]) for queue in queues]
