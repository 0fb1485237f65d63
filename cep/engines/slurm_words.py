"""Understand what Slurm's commands print. Pure functions, tried on recorded outputs.

The formats are ours to choose where a command lets us: `SQUEUE` and `SACCT` are the arguments that
give what is parsed here. They exist since Slurm 20.02 at least. Anything unexpected raises
`NotUnderstood`: an answer that is half understood could pass for the end of a job.

Source: squeue(1), scontrol(1) and sacct(1) of Slurm 22.05 and 24.11.
"""

from __future__ import annotations

import re

from cep.engines.job_words import JobWord
from cep.engines.scheduler_command import NotUnderstood

#: All jobs of one user that the controller remembers; the name comes last, it may hold anything.
SQUEUE = ("squeue", "--noheader", "--states=all", "--format=%i|%T|%r|%M|%N|%j")
SACCT = (
    "sacct",
    "--noheader",
    "--parsable2",
    "--allocations",
    "--format=JobIDRaw,State,ExitCode,Reason,Elapsed,NodeList",
)
SCONTROL = ("scontrol", "--oneliner", "show", "job")
_ID = re.compile(r"\d+(?:_\S+|\+\d+)?")
_STATE = re.compile(r"[A-Z_]+")
_TIME = re.compile(r"(?:(?:(?P<d>\d+)-)?(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+)")
_NOTHING = frozenset({"", "None", "(null)", "N/A", "None assigned", "Unknown"})
#: sbatch and its like say one of these when they will do what is asked a little later.
_PASSING = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Connection timed out",
    "Zero Bytes were transmitted or received",
    "temporarily unable to accept job",
    "backup controller",
    "Resource temporarily unavailable",
)


def parse_squeue(text: str) -> dict[str, JobWord]:
    """Read the answer to `SQUEUE`; jobs by their id.

    Raises:
        NotUnderstood: A line is not what was asked for.
    """
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("CLUSTER: "):  # with --clusters, per cluster
            continue
        fields = line.split("|", 5)
        if len(fields) != 6 or not _ID.fullmatch(fields[0]) or not _STATE.fullmatch(fields[1]):
            raise NotUnderstood(f"squeue printed {line[:80]!r}")
        job, state, reason, ran, nodes, name = fields
        found[job] = JobWord(
            state, _said(reason), ran_s=parse_time(ran), nodes=_said(nodes), name=name
        )
    return found


def parse_scontrol(text: str, job: str) -> JobWord:
    """Read the answer to `SCONTROL` for one job.

    Raises:
        NotUnderstood: It is not about this job, or says no state.
    """
    state = _field(text, "JobState")
    if _field(text, "JobId") != job or state is None or not _STATE.fullmatch(state):
        raise NotUnderstood(f"scontrol printed {text[:80]!r}")
    code, number = _exit(_field(text, "ExitCode") or "")
    stderr = _said(_field(text, "StdErr") or "")
    return JobWord(
        state,
        _said(_field(text, "Reason") or ""),
        exit_code=code,
        signal=number,
        ran_s=parse_time(_field(text, "RunTime") or ""),
        nodes=_said(_field(text, "NodeList") or ""),
        name=_field(text, "JobName") or "",
        stderr_path=stderr or None,
    )


def parse_sacct(text: str) -> dict[str, JobWord]:
    """Read the answer to `SACCT`; jobs by their id, of a requeued one the last run.

    Raises:
        NotUnderstood: A line is not what was asked for.
    """
    found = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        fields = line.split("|")
        state = fields[1].split(" ")[0] if len(fields) > 1 else ""  # "CANCELLED by 1500"
        if len(fields) != 6 or not _ID.fullmatch(fields[0]) or not _STATE.fullmatch(state):
            raise NotUnderstood(f"sacct printed {line[:80]!r}")
        code, number = _exit(fields[2])
        found[fields[0]] = JobWord(
            state,
            _said(fields[3]),
            exit_code=code,
            signal=number,
            ran_s=parse_time(fields[4]),
            nodes=_said(fields[5]),
        )
    return found


def is_unknown_job(text: str) -> bool:
    """Whether an error output says that the controller knows no such job (any more)."""
    return "Invalid job id specified" in text


def is_passing(text: str) -> bool:
    """Whether an error output tells of a trouble of the scheduler's own that will pass."""
    return any(words in text for words in _PASSING)


def parse_time(text: str) -> float | None:
    """Read `5:00`, `01:02:03` or `1-02:03:04` as seconds; None for anything else."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(match[name] or 0) for name in "dhms")
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _exit(text: str) -> tuple[int | None, int | None]:
    code, colon, number = text.partition(":")
    if not colon or not code.isdigit() or not number.isdigit():
        return None, None
    return int(code), int(number)


def _said(text: str) -> str:
    return "" if text.strip() in _NOTHING else text.strip()


def _field(text: str, name: str) -> str | None:
    match = re.search(rf"(?:^|\s){name}=(\S*)", text)
    return None if match is None else match[1]
