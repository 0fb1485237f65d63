"""Ask Slurm about jobs: one question for all of them, and one more for each that has just ended.

Owned by whoever calls it; needs no Parsl, so that the command line can use it too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from cep.engines import slurm_words
from cep.engines.batch_queue import BatchQueue, Run
from cep.engines.job_words import JobWord
from cep.engines.scheduler_command import NotUnderstood, SchedulerSilent
from cep.engines.scheduler_command import run as run_command

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0  # as Parsl's cmd_timeout
#: Jobs that are asked about one by one in one look; the others wait for the next look.
_DETAILS_AT_ONCE = 10


class SlurmQueue(BatchQueue):
    """See the module's docstring.

    Args:
        clusters: As the provider's `clusters`, or None.
        timeout_s: Seconds that a command may take.
        run: Runs a command.
    """

    def __init__(
        self,
        clusters: str | None = None,
        timeout_s: float = TIMEOUT_S,
        run: Run = run_command,
    ) -> None:
        super().__init__(timeout_s, run)
        self._clusters = [f"--clusters={clusters}"] if clusters else []
        self._accounting = True  # until sacct says that there is none

    def look(self, jobs: Sequence[str]) -> list[JobWord]:
        """Ask about these jobs; squeue lists the others of this user in the same answer.

        Raises:
            SchedulerSilent: The controller does not answer, or not understandably.
        """
        self.listed = listed = self._list()
        words: dict[str, JobWord] = {}
        details = 0
        for job in jobs:
            word = listed.get(job)
            if word is None or word.ended:
                details += 1
                word = self._details(job, word) if details <= _DETAILS_AT_ONCE else word
            words[job] = word or JobWord()
        self._unknown &= set(jobs)
        return [words[job] for job in jobs]

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs.

        Raises:
            SchedulerSilent: scancel did not do it.
        """
        said = self._run(["scancel", *self._clusters, *jobs], self._timeout_s)
        if said.code != 0 and not slurm_words.is_unknown_job(said.stderr):
            raise SchedulerSilent(f"scancel failed: {said.words}")

    def refresh(self) -> None:
        """Set `listed` anew.

        Raises:
            SchedulerSilent: The controller does not answer, or not understandably.
        """
        self.listed = self._list()

    def _list(self) -> dict[str, JobWord]:
        argv = [*slurm_words.SQUEUE, f"--user={os.getuid()}", *self._clusters]
        said = self._run(argv, self._timeout_s)
        if said.code != 0:
            raise SchedulerSilent(f"squeue failed: {said.words}")
        try:
            return slurm_words.parse_squeue(said.stdout)
        except NotUnderstood as error:
            raise SchedulerSilent(f"{error}, which cannot be understood.") from error

    def _details(self, job: str, listed: JobWord | None) -> JobWord | None:
        """The end of a job that squeue says is over or does not list; None when nobody knows."""
        try:
            program, *rest = slurm_words.SCONTROL
            said = self._run([program, *self._clusters, *rest, job], self._timeout_s)
            if said.code == 0:
                word = slurm_words.parse_scontrol(said.stdout, job)
                self._unknown.discard(job)
                return word if listed is None or word.ended else listed
            unknown = slurm_words.is_unknown_job(said.stderr)
            return listed if listed is not None or not unknown else self._forgotten(job)
        except (SchedulerSilent, NotUnderstood) as error:
            log.debug("no details of job %s: %s", job, error)
            return listed

    def _forgotten(self, job: str) -> JobWord:
        """A job that the controller does not know: accounting may, else it has to say so twice."""
        word = self._accounted(job)
        return word if word is not None and word.ended else self._not_known([job])[job]

    def _accounted(self, job: str) -> JobWord | None:
        if not self._accounting:
            return None
        argv = [*slurm_words.SACCT, f"--jobs={job}", *self._clusters]
        said = self._run(argv, self._timeout_s)
        if said.code != 0:
            self._accounting = "accounting storage is disabled" not in said.stderr
            return None
        return slurm_words.parse_sacct(said.stdout).get(job)
