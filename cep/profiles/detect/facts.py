"""What a survey of a site finds, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue or partition.

    Attributes:
        name: Its name.
        default: Jobs that name none go here.
        open: It takes and starts jobs now.
        longest_s: Longest time of a job in seconds; None for no limit, or unknown.
        nodes: Nodes in it; None for unknown.
        cores: Of one node, the least; None for unknown.
        memory_mb: Of one node in MB, the least; None for unknown.
        gpus: Of one node as the scheduler writes them; empty for none or unknown.
        features: Of its nodes, which jobs can ask for.
        accounts: The only accounts that may use it; empty for any.
    """

    name: str
    default: bool = False
    open: bool = True
    longest_s: int | None = None
    nodes: int | None = None
    cores: int | None = None
    memory_mb: int | None = None
    gpus: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The queue in a phrase."""
        told = ["default" if self.default else "", "" if self.open else "closed now"]
        if self.longest_s is not None:
            told.append(f"at most {walltime(self.longest_s)}")
        if self.nodes is not None:
            told.append(f"{self.nodes} nodes")
        if self.cores is not None:
            told.append(f"{self.cores} cores a node")
        if self.memory_mb is not None:
            told.append(f"{self.memory_mb} MB a node")
        told += self.gpus
        if self.accounts:
            told.append(f"accounts {', '.join(self.accounts)} only")
        return ", ".join(word for word in told if word) or "nothing more is known"


@dataclass(frozen=True, slots=True)
class Account:
    """An account of this user that jobs can be charged to.

    Attributes:
        name: Its name.
        default: Jobs that name none are charged to it.
        source: The command that tells it.
    """

    name: str
    default: bool = False
    source: str = ""


@dataclass(slots=True)
class Scheduler:
    """A batch system whose commands are on this host.

    Attributes:
        profile: The profile that uses it.
        name: Its name, for people.
        commands: Which of its commands are here, and where.
        version: As it says; empty for unknown.
        answers: Its queues, or for one without queues its machines, could be read.
        queues: Them.
        accounts: Of this user.
        nodes: Host names or addresses of a few compute nodes.
        troubles: What did not work, as sentences.
        stands_for: The profile of the system that these commands only stand in front of; empty
            for none.
    """

    profile: str
    name: str
    commands: dict[str, str]
    version: str = ""
    answers: bool = False
    queues: list[Queue] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    nodes: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    stands_for: str = ""


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface of this host.

    Attributes:
        name: Its name.
        addresses: IP addresses.
        reach: `yes` with evidence that compute nodes are there, `likely`, `unknown` or `no`.
        reason: Why.
    """

    name: str
    addresses: tuple[str, ...]
    reach: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A program or an environment of the host.

    Attributes:
        name: Its name.
        path: Where it is.
        version: As it says; empty for unknown.
        trouble: Why it cannot be used, as a sentence; empty for nothing.
    """

    name: str
    path: str
    version: str = ""
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """This host itself.

    Attributes:
        name: Its name.
        cores: That this process may use.
        memory_mb: In all.
        gpus: One phrase for each.
        python: The interpreter that runs this.
        modules: Lmod or environment-modules; None without.
        containers: Programs that run containers.
    """

    name: str
    cores: int
    memory_mb: int
    gpus: tuple[str, ...]
    python: Tool
    modules: Tool | None
    containers: tuple[Tool, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a survey found."""

    host: Host
    schedulers: tuple[Scheduler, ...]
    interfaces: tuple[Interface, ...]

    def as_json(self) -> dict[str, Any]:
        """The facts as `profiles detect --json` tells them; every name is always there."""
        return asdict(self)


def walltime(seconds: int) -> str:
    """A time as HH:MM:SS."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def seconds_of(text: str, lone: int = 60) -> int | None:
    """The seconds of a time as schedulers write it; None for no limit or another text.

    Taken are `MM`, `MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM` and `D-HH:MM:SS`. Source: sinfo(1),
    pbs_resources(7B), queue_conf(5).

    Args:
        text: The time.
        lone: Seconds that a number alone counts: Slurm's are minutes, those of others seconds.
    """
    days, dash, clock = text.strip().partition("-")
    if not dash:
        days, clock = "0", days
    parts = clock.split(":")
    if not days.isdigit() or not 1 <= len(parts) <= 3 or not all(p.isdigit() for p in parts):
        return None
    numbers = [int(part) for part in parts]
    if dash:
        hours, minutes, seconds = [*numbers, 0, 0][:3]
    elif len(numbers) == 1:
        return numbers[0] * lone
    elif len(numbers) == 3:
        hours, minutes, seconds = numbers
    else:
        hours, (minutes, seconds) = 0, numbers
    return ((int(days) * 24 + hours) * 60 + minutes) * 60 + seconds
