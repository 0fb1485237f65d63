"""PBS Professional, OpenPBS and Torque: what qstat and pbsnodes say.

The parsers are pure. Source of the formats: qstat(1B) of PBS Professional 2022.1 and of Torque 6.1
(read, not recorded), and recordings of Slurm's own PBS commands, which print as Torque does.
"""

from __future__ import annotations

import re
from dataclasses import replace

from cep.profiles.detect.commands import Answer, Site
from cep.profiles.detect.facts import Queue, Scheduler, seconds_of

COMMANDS = ("qsub", "qstat", "qdel", "pbsnodes")
_FEW = 3


def find(site: Site, slurm: Scheduler | None) -> Scheduler | None:
    """Ask PBS about itself; None where it is not.

    Args:
        site: The host.
        slurm: What was found of Slurm, which has PBS commands of its own.
    """
    commands = {name: path for name in COMMANDS if (path := site.which(name)) is not None}
    # qstat and qsub alone may be those of Grid Engine, which has qconf.
    if "qstat" not in commands or "qsub" not in commands or site.which("qconf") is not None:
        return None
    version = site.ask("qstat", "--version")
    if version.code is None:
        found = Scheduler("pbs", "PBS", commands)
        found.troubles.append(version.words)
        return found
    kind, name = ("pbs", "PBS Professional") if is_pro(version) else ("torque", "Torque")
    found = Scheduler(kind, name, commands, version_of(version))
    full, table = site.ask("qstat", "-Qf"), None
    found.queues = queues_of_full(full.out)
    if not found.queues:
        table = site.ask("qstat", "-Q")
        found.queues = queues_of_table(table.out)
    if not found.queues:
        found.troubles.append(full.words or (table.words if table else "") or "It has no queues.")
        return found
    found.answers = True
    server = site.ask("qstat", "-Bf")
    default = default_queue(server.out)
    limits = limits_of_table(site.ask("qstat", "-q").out) if table is not None else {}
    found.queues = [
        replace(
            queue,
            default=queue.name == default,
            longest_s=queue.longest_s if queue.longest_s is not None else limits.get(queue.name),
        )
        for queue in found.queues
    ]
    if "pbsnodes" in commands:
        nodes = site.ask("pbsnodes", "-a")
        found.nodes = node_names(nodes.out)[:_FEW]
        if slurm is not None and "slurmstate=" in nodes.out:
            found.stands_for = slurm.profile
    return found


def is_pro(version: Answer) -> bool:
    """Whether `qstat --version` is that of PBS Professional or OpenPBS."""
    return "pbs_version" in version.out + version.err


def version_of(version: Answer) -> str:
    """The version that `qstat --version` tells; empty for none."""
    if version.code != 0:
        return ""
    found = re.search(r"(?:pbs_version|Version)\s*[=:]\s*(\S+)", version.out + version.err)
    return found[1] if found else ""


def queues_of_full(text: str) -> list[Queue]:
    """The execution queues of `qstat -Qf`."""
    found = []
    for name, keys in _blocks(text, "Queue"):
        if keys.get("queue_type", "Execution").lower() not in ("execution", "e"):
            continue  # a routing queue hands jobs on to one of the others
        working = all(keys.get(key, "True").lower() == "true" for key in ("enabled", "started"))
        found.append(
            Queue(
                name,
                open=working,
                longest_s=seconds_of(keys.get("resources_max.walltime", ""), 1),
                nodes=_number(keys.get("resources_max.nodect", "")),
            )
        )
    return found


def queues_of_table(text: str) -> list[Queue]:
    """The queues of `qstat -Q`."""
    found, begun = [], False
    for line in text.splitlines():
        words = line.split()
        if line.startswith("---"):
            begun = True
        elif begun and len(words) >= 5 and words[-1].upper().startswith("E"):
            found.append(Queue(words[0], open=words[3:5] == ["yes", "yes"]))
    return found


def limits_of_table(text: str) -> dict[str, int]:
    """The longest walltimes of `qstat -q`, by queue."""
    limits = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 5 and (seconds := seconds_of(words[3])) is not None and ":" in words[3]:
            limits[words[0]] = seconds
    return limits


def default_queue(text: str) -> str:
    """The default queue that `qstat -Bf` tells; empty for none."""
    found = re.search(r"^\s*default_queue = (\S+)", text, re.MULTILINE)
    return found[1] if found else ""


def node_names(text: str) -> list[str]:
    """The hosts of `pbsnodes -a`: lines that begin in the first column."""
    return [line.strip() for line in text.splitlines() if line[:1].strip() and "=" not in line]


def _blocks(text: str, what: str) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    for line in text.splitlines():
        head = re.fullmatch(rf"{what}:\s*(\S+)", line.rstrip())
        if head:
            found.append((head[1], {}))
        elif found and " = " in line:
            key, _, value = line.strip().partition(" = ")
            found[-1][1][key] = value.strip()
    return found


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None
