"""Understand what the commands of PBS Professional, OpenPBS and Torque print. Pure functions.

They are tried on recorded outputs. Jobs are told apart by the number that their ids begin with
(`key_of`): a server has several names, and tables cut them off. Anything unexpected raises
`NotUnderstood`: an answer that is half understood could pass for the end of a job.

Source: qstat(1B), qselect(1B) and qdel(1B) of PBS Professional 2022.1 and Torque 6.1, and the
wrappers of Slurm 24.11 (slurm-wlm-torque).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cep.engines.scheduler_command import NotUnderstood
from cep.engines.slurm_words import is_passing as is_passing_for_slurm

#: What qstat tells of one job: attributes by name, in small letters (`resource_list.walltime`).
Fields = Mapping[str, str]

_ID = re.compile(r"(\d+(?:\[\d*\])?)(?:\.[\w.-]*)?")
_STATE = re.compile(r"[A-Z]")
_ATTRIBUTE = re.compile(r"([A-Za-z_][\w.-]*) = ?(.*)")
_BODY = {"timestamp", "pbs_version", "pbs_server"}
_NESTED = ("resource_list", "resources_used")
_UNKNOWN_JOB = re.compile(r"Unknown Job Id(?: Error)?:? (\S+)", re.IGNORECASE)
_FINISHED_JOB = re.compile(r"(\d\S*) Job has finished|Job has finished:? (\S+)")
#: A job that is over or ending needs no qdel; Torque says so of its state.
_OVER = re.compile(
    r"invalid state for job - (?:COMPLETE|EXITING)|nonexistent job id|Job has finished$"
)
_NO_HISTORY = re.compile(r"not configured to maintain job history|job_history_enable")
#: A submission is worth another try a little later.
_PASSING = (
    "cannot connect to server",
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "No route to host",
    "Communication failure",
    "End of File",
    "Premature end of message",
    "Server shutting down",
    "errno=15010",
    "errno=15031",
    "errno=15033",
)


@dataclass(frozen=True, slots=True)
class Complaints:
    """What qstat or qdel says of single jobs on its error output.

    Attributes:
        unknown: Jobs that the server does not know (any more), by key.
        finished: Jobs that are over, by key.
        others: The remaining lines.
    """

    unknown: frozenset[str]
    finished: frozenset[str]
    others: tuple[str, ...]


def key_of(job: str) -> str:
    """The part of a job's id that is the same in all its forms: `12` of `12.server.example.org`."""
    match = _ID.fullmatch(job)
    return job if match is None else match[1]


def is_id(text: str) -> bool:
    """Whether this can be a job's id."""
    return _ID.fullmatch(text) is not None


def parse_json(text: str) -> dict[str, Fields]:
    """Read `qstat -f -F json`; jobs by their key.

    Raises:
        NotUnderstood: It is no such answer. Some versions print invalid JSON, for instance when a
            variable of the job's environment has a value such as 005 (openpbs issue 1255).
    """
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotUnderstood(f"qstat printed {text[:80]!r}") from error
    jobs = answer.get("Jobs", {}) if isinstance(answer, dict) and _BODY & set(answer) else None
    if not isinstance(jobs, dict):
        raise NotUnderstood(f"qstat printed {text[:80]!r}")
    found = {}
    for job, attributes in jobs.items():
        if not is_id(job) or not isinstance(attributes, dict):
            raise NotUnderstood(f"qstat printed a job {job[:80]!r}")
        found[key_of(job)] = _checked(_flat(attributes), job)
    return found


def _flat(attributes: Mapping[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in attributes.items():
        if isinstance(value, dict):
            if name.lower() in _NESTED:
                flat |= {f"{name}.{key}".lower(): str(one) for key, one in value.items()}
        else:
            flat[name.lower()] = str(value)
    return flat


def parse_full(text: str) -> dict[str, Fields]:
    """Read `qstat -f`; jobs by their key.

    A record without a state, as a command leaves it that dies while it prints, is passed over.

    Raises:
        NotUnderstood: A line is not what it should be.
    """
    found: dict[str, dict[str, str]] = {}
    fields: dict[str, str] | None = None
    tabs, last = False, ""
    for line in text.splitlines():
        if not line.strip():
            continue
        if line.startswith("Job Id:"):
            job = line[7:].strip()
            if not is_id(job):
                raise NotUnderstood(f"qstat printed a job {job[:80]!r}")
            # Slurm's wrapper puts a tab where PBS has blanks; PBS goes on with a value after one.
            tabs, last = line.startswith("Job Id:\t"), ""
            fields = found[key_of(job)] = {}
            continue
        if fields is None or not line[0].isspace():
            raise NotUnderstood(f"qstat printed {line[:80]!r}")
        attribute = _ATTRIBUTE.match(line.lstrip())
        if attribute is not None and line.startswith("\t") == tabs:
            last = attribute[1].lower()
            fields[last] = attribute[2].strip()
        elif last:
            fields[last] += line.strip()
    return {key: _checked(told, key) for key, told in found.items() if "job_state" in told}


def _checked(fields: dict[str, str], job: str) -> Fields:
    if not _STATE.fullmatch(fields.get("job_state", "")):
        raise NotUnderstood(f"qstat printed no state of job {job}")
    return fields


def parse_table(text: str) -> dict[str, Fields]:
    """Read `qstat`, the table with a line for each job; jobs by their key.

    Of the times it tells nothing can be said: Torque's is that of the processors.

    Raises:
        NotUnderstood: A line is not what it should be.
    """
    found: dict[str, Fields] = {}
    for words in _rows(text):
        if len(words) != 6 or not is_id(words[0]) or not _STATE.fullmatch(words[4]):
            raise NotUnderstood(f"qstat printed {' '.join(words)[:80]!r}")
        found[key_of(words[0])] = {"job_state": words[4], "queue": words[5]}
    return found


def parse_table_of_user(text: str) -> dict[str, Fields]:
    """Read `qstat -u USER`; jobs by their key, with the beginning of their names.

    Raises:
        NotUnderstood: A line is not what it should be.
    """
    found: dict[str, Fields] = {}
    for words in _rows(text):
        state = words[-2] if len(words) >= 10 else ""
        if not is_id(words[0]) or not _STATE.fullmatch(state):
            raise NotUnderstood(f"qstat printed {' '.join(words)[:80]!r}")
        found[key_of(words[0])] = {"job_state": state, "job_name": words[3]}
    return found


def _rows(text: str) -> list[list[str]]:
    """The lines behind the rule of a table.

    Raises:
        NotUnderstood: There is text and no rule.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    rules = [number for number, words in enumerate(lines) if set("".join(words)) <= {"-"}]
    if lines and not rules:
        raise NotUnderstood(f"qstat printed {text.strip()[:80]!r}")
    return lines[rules[0] + 1 :] if rules else []


def parse_ids(text: str) -> list[str]:
    """Read `qselect`: ids, one on a line.

    Raises:
        NotUnderstood: A line is no id.
    """
    ids = text.split()
    for job in ids:
        if not is_id(job):
            raise NotUnderstood(f"qselect printed {text.strip()[:80]!r}")
    return ids


def complaints_of(text: str) -> Complaints:
    """Read the error output of qstat or qdel."""
    unknown, finished, others = set(), set(), []
    for line in text.splitlines():
        if match := _UNKNOWN_JOB.search(line):
            unknown.add(key_of(match[1]))
        elif match := _FINISHED_JOB.search(line):
            finished.add(key_of(match[1] or match[2]))
        elif line.strip():
            others.append(line.strip())
    return Complaints(frozenset(unknown), frozenset(finished), tuple(others))


def is_over(line: str) -> bool:
    """Whether a complaint of qdel says that there is nothing to delete any more."""
    return _OVER.search(line) is not None


def has_no_history(text: str) -> bool:
    """Whether an error output says that the server keeps nothing of jobs that are over."""
    return _NO_HISTORY.search(text) is not None


def is_passing(text: str) -> bool:
    """Whether an error output tells of a trouble of the scheduler's own that will pass."""
    return any(words in text for words in _PASSING) or is_passing_for_slurm(text)
