"""From what PBS tells of a job to words: its state, why it waits, and how it ended.

Pure functions. PBS has letters for states and one number for all ends, which says less than
Slurm's words; the words here are Slurm's where they mean the same. What cannot be told apart is
not guessed: a job of which only the end is known is `FINISHED`.

Sources: PBS Professional 2024.1 reference guide, tables 8-1 (states), 8-2 (substates), 11-1 and
11-2 (exit status); OpenPBS src/include/job.h and, for -24 to -29, the resource limits of its
execution daemon; Torque 6.1.2 administrator guide, "Job exit status".
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from cep.engines.job_words import FINISHED, JobWord
from cep.engines.pbs_words import Fields

_STATES = {
    "B": "BEGUN",  # an array with at least one job that runs
    "E": "EXITING",
    "H": "HELD",
    "M": "MOVED",  # to another server, which knows more
    "Q": "QUEUED",
    "R": "RUNNING",
    "S": "SUSPENDED",
    "T": "TRANSIT",
    "U": "SUSPENDED",  # its workstation is in use
    "W": "WAITING",
}
_OVER = frozenset("CFX")  # Torque's, PBS Professional's, and that of one job of an array
_TERMINATED = "91"  # substate of a job that was deleted
_SIGTERM = 15
_HIGHEST_SIGNAL = 64
_KILLED = re.compile(r"=>> PBS: job killed: (.+?)(?: / |$)")
_SLURM_CANCELLED = re.compile(r"CANCELLED AT \S+(?P<limit> DUE TO TIME LIMIT)?")
_TIME = re.compile(r"(?:(\d+):)?(?:(\d+):)?(\d+):(\d+)")
_DATE = "%a %b %d %H:%M:%S %Y"

_LAUNCH, _NODE = "LAUNCH_FAILED", "NODE_FAIL"
#: Word and name for the exit status that PBS itself gives; what is not listed is FAILED.
PRO_ENDS: Mapping[int, tuple[str, str]] = {
    -1: (_LAUNCH, "JOB_EXEC_FAIL1"),
    -2: (_LAUNCH, "JOB_EXEC_FAIL2"),
    -3: (_LAUNCH, "JOB_EXEC_RETRY"),
    -4: (_NODE, "JOB_EXEC_INITABT"),
    -10: (_LAUNCH, "JOB_EXEC_FAILUID"),
    -13: (_LAUNCH, "JOB_EXEC_FAIL_PASSWORD"),
    -14: (_NODE, "JOB_EXEC_RERUN_SIS_FAIL"),
    -16: (_LAUNCH, "JOB_EXEC_FAILHOOK_RERUN"),
    -17: (_LAUNCH, "JOB_EXEC_FAILHOOK_DELETE"),
    -19: (_LAUNCH, "JOB_EXEC_HOOK_DELETE"),
    -20: (_NODE, "JOB_EXEC_RERUN_MS_FAIL"),
    -21: (_LAUNCH, "JOB_EXEC_FAIL_SECURITY"),
    -22: (_LAUNCH, "JOB_EXEC_HOOKERROR"),
    -23: (_LAUNCH, "JOB_EXEC_FAIL_KRB5"),
    -24: ("FAILED", "JOB_EXEC_KILL_NCPUS_BURST"),
    -25: ("FAILED", "JOB_EXEC_KILL_NCPUS_SUM"),
    -26: ("OUT_OF_MEMORY", "JOB_EXEC_KILL_VMEM"),
    -27: ("OUT_OF_MEMORY", "JOB_EXEC_KILL_MEM"),
    -28: ("TIMEOUT", "JOB_EXEC_KILL_CPUT"),
    -29: ("TIMEOUT", "JOB_EXEC_KILL_WALLTIME"),
}
TORQUE_ENDS: Mapping[int, tuple[str, str]] = {
    -1: (_LAUNCH, "JOB_EXEC_FAIL1"),
    -2: (_LAUNCH, "JOB_EXEC_FAIL2"),
    -3: (_LAUNCH, "JOB_EXEC_RETRY"),
    -4: (_NODE, "JOB_EXEC_INITABT"),
    -8: (_LAUNCH, "JOB_EXEC_CMDFAIL"),
    -9: (_LAUNCH, "JOB_EXEC_STDOUTFAIL"),
    -10: ("OUT_OF_MEMORY", "JOB_EXEC_OVERLIMIT_MEM"),
    -11: ("TIMEOUT", "JOB_EXEC_OVERLIMIT_WT"),
    -12: ("TIMEOUT", "JOB_EXEC_OVERLIMIT_CPUT"),
}


@dataclass(frozen=True, slots=True)
class _End:
    state: str
    name: str = ""
    exit_code: int | None = None
    signal: int | None = None


def word_of(fields: Fields, ends: Mapping[int, tuple[str, str]], now: float) -> JobWord:
    """What PBS says of one job.

    Args:
        fields: As qstat tells them.
        ends: `PRO_ENDS` or `TORQUE_ENDS`.
        now: Time of day, in seconds.
    """
    letter = fields["job_state"]
    common = JobWord(
        name=fields.get("job_name", ""),
        nodes=_nodes(fields.get("exec_host", "")),
        ran_s=_ran_s(fields, letter, now),
    )
    if letter not in _OVER:
        state = _STATES.get(letter, letter)
        return replace(common, state=state, reason=_why_waiting(fields, letter))
    end = _end(fields, ends)
    reason = "; ".join(part for part in (end.name, fields.get("comment", "")) if part)
    return replace(
        common, state=end.state, reason=reason, exit_code=end.exit_code, signal=end.signal
    )


def refined(word: JobWord, last_lines: str) -> JobWord:
    """The word for a job, with what the scheduler has written into the job's own error output.

    PBS writes there which limit was exceeded, and Slurm, behind PBS commands, that it cancelled
    the job: `qstat` tells of both no more than the end, or a signal.

    Args:
        word: What the scheduler's commands say.
        last_lines: The last lines of the job's error output.
    """
    if word.state not in (FINISHED, "CANCELLED", "FAILED"):
        return word
    if match := _KILLED.search(last_lines):
        said = match[1]
        limit = re.match(r"(walltime|cput|pcput|mem|vmem|pmem|pvmem)\b", said)
        state = word.state
        if limit is not None:
            state = "OUT_OF_MEMORY" if limit[1].endswith("mem") else "TIMEOUT"
        return replace(word, state=state, reason=said)
    if word.state == FINISHED and (match := _SLURM_CANCELLED.search(last_lines)):
        return replace(word, state="TIMEOUT" if match["limit"] else "CANCELLED")
    return word


def _why_waiting(fields: Fields, letter: str) -> str:
    """Why a job does not run; the comment of one that does only says where."""
    if letter in "RE":
        return ""
    comment = fields.get("comment", "")
    holds = fields.get("hold_types", "n")
    if letter == "H" and holds != "n" and not comment:
        return f"Hold_Types {holds}"
    return comment


def _end(fields: Fields, ends: Mapping[int, tuple[str, str]]) -> _End:
    """How a job ended.

    A status below 128 is that of the script. From there on a signal ended it: 256 and the signal
    when it was the script's shell itself, 128 and the signal when the shell says it of a command.
    """
    text = fields.get("exit_status", "")
    deleted = fields.get("substate") == _TERMINATED
    if not re.fullmatch(r"-?\d+", text):
        return _End("CANCELLED" if deleted else FINISHED)
    status = int(text)
    if status < 0:
        state, name = ends.get(status, ("FAILED", "PBS could not run it"))
        return _End(state, f"{name} ({status})")
    if status == 0:
        return _End("CANCELLED" if deleted else "COMPLETED", exit_code=0)
    signal = status - 256 if status >= 256 else status - 128
    if not 0 < signal <= _HIGHEST_SIGNAL:
        return _End("CANCELLED" if deleted else "FAILED", exit_code=status)
    if _used_up(fields):
        return _End("TIMEOUT", signal=signal)
    if status < 256:
        return _End("CANCELLED" if deleted else "FAILED", exit_code=status, signal=signal)
    stopped = deleted or signal == _SIGTERM  # what qdel sends first
    return _End("CANCELLED" if stopped else "FAILED", signal=signal)


def _used_up(fields: Fields) -> bool:
    """Whether the job had run as long as it might."""
    used = seconds_of(fields.get("resources_used.walltime", ""))
    limit = seconds_of(fields.get("resource_list.walltime", ""))
    return used is not None and limit is not None and used >= limit > 0


def _ran_s(fields: Fields, letter: str, now: float) -> float | None:
    """Seconds that a job has run: as PBS counts them, which is late, or since its start."""
    used = seconds_of(fields.get("resources_used.walltime", ""))
    if letter != "R":
        return used
    begun = _moment(fields.get("stime", "") or fields.get("start_time", ""))
    since = None if begun is None else max(0.0, now - begun)
    return max((one for one in (used, since) if one is not None), default=None)


def seconds_of(text: str) -> float | None:
    """Read `00:05:00`, `36:00:00` or `1:00:00:00` as seconds; None for anything else."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return float(text) if text.strip().isdigit() else None
    parts = [int(part) for part in text.strip().split(":")]
    days, hours, minutes, seconds = ([0] * (4 - len(parts))) + parts
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def _moment(text: str) -> float | None:
    try:
        return time.mktime(time.strptime(text, _DATE))
    except (ValueError, OverflowError):
        return None


def _nodes(exec_host: str) -> str:
    """Where it runs: `n1+n2` of `n1/0*2+n2/0*2`."""
    hosts = [part.partition("/")[0] for part in exec_host.split("+") if part]
    return "+".join(dict.fromkeys(hosts))
