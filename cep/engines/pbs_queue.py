"""Ask PBS Professional, OpenPBS or Torque about jobs: one question for all of them.

`qstat` has several forms. The best one is asked first; one that this site's qstat does not master
(invalid JSON, a wrapper that dies while it prints) is given up for the next, which is remembered.

Owned by whoever calls it; needs no Parsl, so that the command line can use it too.
"""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cep.engines import pbs_words
from cep.engines.batch_queue import NAME_PREFIX, BatchQueue, Run
from cep.engines.job_words import GONE, UNKNOWN, JobWord
from cep.engines.pbs_ends import PRO_ENDS, TORQUE_ENDS, word_of
from cep.engines.pbs_words import Fields, key_of
from cep.engines.scheduler_command import NotUnderstood, Said, SchedulerSilent
from cep.engines.scheduler_command import run as run_command

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
Dialect = Literal["pro", "torque"]
_JOBS_AT_ONCE = 100  # ids in one command
_UNKNOWN_JOB = 153  # exit status of qstat: PBSE_UNKJOBID (15001) modulo 256


@dataclass(frozen=True, slots=True)
class _Form:
    """One form of qstat."""

    options: tuple[str, ...]
    parse: Callable[[str], Mapping[str, Fields]]
    history: bool = False  # asks for jobs that are over, too (`-x`)


_FORMS: Mapping[Dialect, tuple[_Form, ...]] = {
    "pro": (
        _Form(("-f", "-F", "json"), pbs_words.parse_json, history=True),
        _Form(("-f",), pbs_words.parse_full, history=True),
    ),
    "torque": (
        _Form(("-f",), pbs_words.parse_full),
        _Form((), pbs_words.parse_table),
    ),
}


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one question brought.

    Attributes:
        told: What is told of jobs, by key.
        settled: The server said of these that it does not know them.
        complete: Nothing went wrong, so a job that is not told is none that this form lists.
        trouble: What went wrong otherwise.
    """

    told: Mapping[str, Fields]
    settled: frozenset[str] = frozenset()
    complete: bool = False
    trouble: str = ""


class PbsQueue(BatchQueue):
    """See the module's docstring.

    Args:
        dialect: Whose options and numbers are meant.
        timeout_s: Seconds that a command may take.
        run: Runs a command.
        clock: Time of day, in seconds.
    """

    def __init__(
        self,
        dialect: Dialect,
        timeout_s: float = TIMEOUT_S,
        run: Run = run_command,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(timeout_s, run)
        self._forms = _FORMS[dialect]
        self._ends = PRO_ENDS if dialect == "pro" else TORQUE_ENDS
        self._clock = clock
        self._form = 0  # the first one that is worth asking
        self._history = True  # until the server says that it keeps none

    def key(self, job: str) -> str:
        """The number of a job, without the server's name."""
        return key_of(job)

    # -- questions -----------------------------------------------------------------------------

    def look(self, jobs: Sequence[str]) -> list[JobWord]:
        """Ask about these jobs; a job that nothing is said of has the word `UNKNOWN`.

        Raises:
            SchedulerSilent: The server does not answer, or not understandably.
        """
        self.listed = None
        words: dict[str, JobWord] = {}
        for some in _chunks(jobs):
            words |= self._ask(some)
        told = {key for key, word in words.items() if word.state not in (UNKNOWN, GONE)}
        self._unknown &= {key_of(job) for job in jobs} - told
        return [words.get(key_of(job)) or JobWord() for job in jobs]

    def refresh(self) -> None:
        """Set `listed` anew.

        Raises:
            SchedulerSilent: The server does not answer, or not understandably.
        """
        self.listed = self._list()

    def _ask(self, jobs: Sequence[str]) -> dict[str, JobWord]:
        """What is said of these jobs, by key.

        A job that one form leaves out is asked for in the next one before that means anything:
        with several ids OpenPBS has told of the first one only in JSON (its issue 2672).
        """
        rest = {key_of(job): job for job in jobs}
        words: dict[str, JobWord] = {}
        trouble = ""
        for number, form in enumerate(self._forms[self._form :], self._form):
            answer = self._question(form, list(rest.values()))
            told = {key: self._word(answer.told[key]) for key in rest.keys() & answer.told.keys()}
            words |= told | self._not_known(rest.keys() & answer.settled)
            if told or (trouble and answer.complete):
                self._form = number  # those before it have failed, or left out what it tells
            rest = {key: job for key, job in rest.items() if key not in words}
            if not rest:
                break
            trouble = answer.trouble or trouble
            if answer.complete and number == len(self._forms) - 1:
                words |= self._not_known(rest.keys())
        if not words and trouble:
            raise SchedulerSilent(trouble)
        return words

    def _word(self, fields: Fields) -> JobWord:
        return word_of(fields, self._ends, self._clock())

    def _question(self, form: _Form, jobs: Sequence[str]) -> _Answer:
        """Ask in one form.

        Raises:
            SchedulerSilent: qstat did not end in time, did not reach the server, or is not here.
        """
        said = self._run(self._argv(form, jobs), self._timeout_s)
        if form.history and self._history and pbs_words.has_no_history(said.stderr):
            log.info(
                "the PBS server keeps no history of jobs (job_history_enable)",
                extra={"event": "blocks.no-history"},
            )
            self._history = False
            said = self._run(self._argv(form, jobs), self._timeout_s)
        if said.code != 0 and pbs_words.is_passing(said.stderr):
            raise SchedulerSilent(f"qstat failed: {said.words}")
        return _read(form, said)

    def _argv(self, form: _Form, jobs: Sequence[str]) -> list[str]:
        history = ["-x"] if form.history and self._history else []
        return ["qstat", *history, *form.options, *jobs]

    # -- all jobs of this user -----------------------------------------------------------------

    def _list(self) -> dict[str, JobWord]:
        """Our living jobs, whole names and all; of others, what else there is to know.

        Raises:
            SchedulerSilent: They cannot be found out now.
        """
        keys = [key_of(job) for job in self._ids_of_user()]
        words: dict[str, JobWord] = {}
        for some in _chunks(keys):
            told = self._ask_names(some)
            words |= {key: self._word(fields) for key, fields in told.items()}
        return words

    def _ask_names(self, keys: Sequence[str]) -> dict[str, Fields]:
        """As much as the forms tell that have whole names; in the end job by job."""
        told: dict[str, Fields] = {}
        rest = list(keys)
        for form in [form for form in self._forms if form.options]:  # the table cuts names off
            answer = self._question(form, rest)
            told |= answer.told
            rest = [key for key in rest if key not in told and key not in answer.settled]
            if not rest:
                return told
        for key in [] if answer.complete else rest:
            alone = self._question(form, [key])
            if not alone.told and not alone.complete:
                raise SchedulerSilent(alone.trouble)
            told |= alone.told
        return told

    def _ids_of_user(self) -> list[str]:
        """The living jobs of this user; only those that may be ours where names are told.

        Raises:
            SchedulerSilent: They cannot be found out now.
        """
        user = pwd.getpwuid(os.getuid()).pw_name
        program = "qstat" if shutil.which("qselect") is None else "qselect"
        said = self._run([program, "-u", user], self._timeout_s)
        if said.code != 0:
            raise SchedulerSilent(f"{program} failed: {said.words}")
        try:
            if program == "qselect":
                return pbs_words.parse_ids(said.stdout)
            told = pbs_words.parse_table_of_user(said.stdout)
        except NotUnderstood as error:
            raise SchedulerSilent(f"{error}, which cannot be understood.") from error
        return [
            key
            for key, fields in told.items()
            if fields["job_state"] not in "CF" and fields["job_name"].startswith(f"{NAME_PREFIX}.")
        ]

    # -- fewer ---------------------------------------------------------------------------------

    def cancel(self, jobs: Sequence[str]) -> None:
        """Delete jobs, some at a time.

        Raises:
            SchedulerSilent: qdel did not do it.
        """
        for some in _chunks(jobs):
            said = self._run(["qdel", *some], self._timeout_s)
            if said.code == 0:
                continue
            # Slurm's wrapper is silent about jobs that are over, and prints what went wrong.
            complaints = pbs_words.complaints_of(f"{said.stderr}\n{said.stdout}")
            serious = [line for line in complaints.others if not pbs_words.is_over(line)]
            if serious:
                raise SchedulerSilent(f"qdel failed: {' '.join(serious)[-200:]}")


def _read(form: _Form, said: Said) -> _Answer:
    """Understand an answer of qstat."""
    complaints = pbs_words.complaints_of(said.stderr)
    try:
        told = dict(form.parse(said.stdout))
    except NotUnderstood as error:
        if said.code != 0 and complaints.others:
            return _Answer({}, trouble=f"qstat failed: {said.words}")
        return _Answer({}, trouble=f"{error}, which cannot be understood.")
    for key in complaints.finished - told.keys():
        told[key] = {"job_state": "F"}
    known = said.code == 0 or (said.code == _UNKNOWN_JOB and not complaints.others)
    named = bool(complaints.unknown or complaints.finished) and not complaints.others
    if known or named:
        return _Answer(told, complaints.unknown, complete=True)
    return _Answer(told, complaints.unknown, trouble=f"qstat failed: {said.words}")


def _chunks(jobs: Sequence[str]) -> Iterator[Sequence[str]]:
    for begin in range(0, len(jobs), _JOBS_AT_ONCE):
        yield jobs[begin : begin + _JOBS_AT_ONCE]
