"""Slurm: what sinfo, scontrol, sacctmgr and sshare say.

The parsers are pure. Source of the formats: the manuals of 22.05 and 24.11, and recordings of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from cep.profiles.detect.commands import Site
from cep.profiles.detect.facts import Account, Queue, Scheduler, seconds_of

COMMANDS = ("sinfo", "sbatch", "squeue", "scontrol", "sacctmgr", "sshare")
PARTITIONS = ("sinfo", "-h", "-o", "%P|%a|%l|%D|%c|%m|%G|%f")
NODES = ("sinfo", "-h", "-N", "-o", "%o")
RULES = ("scontrol", "show", "partition", "-o")
_NOTHING = ("", "(null)", "N/A", "n/a")
_FEW = 3  # nodes whose way is looked at


def find(site: Site) -> Scheduler | None:
    """Ask Slurm about itself; None where it is not."""
    commands = {name: path for name in COMMANDS if (path := site.which(name)) is not None}
    if "sinfo" not in commands and "sbatch" not in commands:
        return None
    found = Scheduler("slurm", "Slurm", commands)
    if "sinfo" not in commands or "sbatch" not in commands:
        gone = "sinfo" if "sbatch" in commands else "sbatch"
        found.troubles.append(f"{gone} is not there, so Slurm cannot be used from this host.")
        return found
    version = site.ask("sinfo", "--version")
    found.version = version.out.strip() if version.answered else ""
    answer = site.ask(*PARTITIONS)
    found.queues = partitions(answer.out) if answer.answered else []
    if not found.queues:
        found.troubles.append(answer.words or f"sinfo shows no partition: {answer.out[:80]!r}")
        return found  # a controller that does not answer one command does not answer the others
    found.answers = True
    if "scontrol" in commands:
        rules = site.ask(*RULES)
        if rules.answered:
            found.queues = with_rules(found.queues, rules.out)
        else:
            found.troubles.append(rules.words)
    nodes = site.ask(*NODES)
    found.nodes = list(dict.fromkeys(nodes.out.split()))[:_FEW] if nodes.answered else []
    _accounts(site, found)
    return found


def _accounts(site: Site, found: Scheduler) -> None:
    user = site.user
    if "sacctmgr" in found.commands:
        answer = site.ask(
            "sacctmgr", "-n", "-P", "show", "assoc", f"user={user}", "format=Account,Partition,QOS"
        )
        if answer.answered:
            usual = site.ask("sacctmgr", "-n", "-P", "show", "user", user, "format=DefaultAccount")
            default = usual.out.strip() if usual.answered else ""
            found.accounts = accounts(answer.out, default)
        elif "accounting_storage" not in answer.err:  # else: this cluster keeps no accounts
            found.troubles.append(answer.words)
    if not found.accounts and "sshare" in found.commands:
        answer = site.ask("sshare", "-U", "-n", "-P", "-o", "Account,User")
        if answer.answered:
            found.accounts = [replace(one, source="sshare") for one in accounts(answer.out, "")]


def partitions(text: str) -> list[Queue]:
    """The partitions of `sinfo -h -o '%P|%a|%l|%D|%c|%m|%G|%f'`, one line for each kind of node."""
    found: dict[str, Queue] = {}
    for line in text.splitlines():
        parts = line.rstrip().split("|")
        if len(parts) != 8 or not parts[0].strip("* "):
            continue
        name = parts[0].strip().rstrip("*")
        here = Queue(
            name,
            default=parts[0].strip().endswith("*"),
            open=parts[1] == "up",
            longest_s=seconds_of(parts[2]),
            nodes=_number(parts[3]),
            cores=_number(parts[4]),
            memory_mb=_number(parts[5]),
            gpus=_gpus(parts[6]),
            features=_words(parts[7]),
        )
        found[name] = _joined(found[name], here) if name in found else here
    return list(found.values())


def _joined(one: Queue, other: Queue) -> Queue:
    return replace(
        one,
        nodes=(one.nodes or 0) + (other.nodes or 0),
        cores=_least(one.cores, other.cores),
        memory_mb=_least(one.memory_mb, other.memory_mb),
        gpus=tuple(dict.fromkeys((*one.gpus, *other.gpus))),
        features=tuple(dict.fromkeys((*one.features, *other.features))),
    )


def with_rules(queues: Iterable[Queue], text: str) -> list[Queue]:
    """The partitions with what `scontrol show partition -o` says of their rules."""
    rules = {one["PartitionName"]: one for one in records(text) if "PartitionName" in one}
    return [_with(queue, rules.get(queue.name, {})) for queue in queues]


def _with(queue: Queue, rule: Mapping[str, str]) -> Queue:
    allowed = rule.get("AllowAccounts", "ALL")
    return replace(
        queue,
        open=queue.open and rule.get("State", "UP") == "UP",
        accounts=() if allowed in ("ALL", *_NOTHING) else _words(allowed),
    )


def records(text: str) -> list[dict[str, str]]:
    """The records of `scontrol show ... -o`: one a line, NAME=VALUE joined by blanks."""
    return [
        dict(re.findall(r"(?:^|(?<=\s))([A-Za-z]\w*)=(\S*)", line))
        for line in text.splitlines()
        if "=" in line
    ]


def accounts(text: str, default: str) -> list[Account]:
    """The accounts of `sacctmgr -n -P show assoc` or `sshare -n -P`: the first column."""
    names = dict.fromkeys(line.split("|")[0].strip() for line in text.splitlines() if "|" in line)
    return [Account(name, name == default, "sacctmgr") for name in names if name]


def _gpus(text: str) -> tuple[str, ...]:
    """The GPUs of a list of generic resources: `gpu:a100:4(S:0-1),craynetwork:4`."""
    bare = re.sub(r"\([^)]*\)", "", text)
    return tuple(part for part in bare.split(",") if part.partition(":")[0] == "gpu")


def _words(text: str) -> tuple[str, ...]:
    return () if text in _NOTHING else tuple(word for word in text.split(",") if word)


def _number(text: str) -> int | None:
    """A number; `2+` means at least 2."""
    bare = text.strip().rstrip("+")
    return int(bare) if bare.isdigit() else None


def _least(one: int | None, other: int | None) -> int | None:
    known = [number for number in (one, other) if number is not None]
    return min(known) if known else None
