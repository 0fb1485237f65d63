"""What the queue of every batch system is asked for, whatever its commands are called.

Owned by whoever makes one; needs no Parsl, so that the command line can use it too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence

from cep.engines.job_words import GONE, JobWord
from cep.engines.scheduler_command import Said
from cep.engines.scheduler_command import run as run_command

NAME_PREFIX = "cep"
"""How the names of our jobs begin: `cep.ENDPOINT_ID.LIFE.BLOCK`."""

Run = Callable[[Sequence[str], float | None], Said]


class BatchQueue(ABC):
    """See the module's docstring.

    Args:
        timeout_s: Seconds that a command may take.
        run: Runs a command.

    Attributes:
        listed: The living jobs of this user by id, and perhaps ended ones; None when the last
            question was not about all of them.
    """

    def __init__(self, timeout_s: float, run: Run = run_command) -> None:
        self._timeout_s = timeout_s
        self._run = run
        self._unknown: set[str] = set()  # not known to the scheduler at the last look
        self.listed: Mapping[str, JobWord] | None = None

    @abstractmethod
    def look(self, jobs: Sequence[str]) -> list[JobWord]:
        """Ask about these jobs; a job that nothing is said of has the word `UNKNOWN`.

        Raises:
            SchedulerSilent: The scheduler does not answer, or not understandably.
        """

    @abstractmethod
    def refresh(self) -> None:
        """Set `listed` anew.

        Raises:
            SchedulerSilent: The scheduler does not answer, or not understandably.
        """

    @abstractmethod
    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs; those that are over or unknown need nothing.

        Raises:
            SchedulerSilent: It was not done.
        """

    def key(self, job: str) -> str:
        """What two ways to write the same job's id have in common."""
        return job

    def of_endpoint(self, endpoint_id: str) -> dict[str, JobWord]:
        """Those of `listed` that live and carry the name of this endpoint."""
        beginning = f"{NAME_PREFIX}.{endpoint_id}."
        return {
            job: word
            for job, word in (self.listed or {}).items()
            if word.name.startswith(beginning) and not word.ended
        }

    def _not_known(self, jobs: Collection[str]) -> dict[str, JobWord]:
        """The words for jobs that the scheduler says it does not know: GONE, the second time.

        A scheduler that has just started, or lost its state, should not end a block at once.

        Args:
            jobs: Their keys.
        """
        gone = JobWord(GONE, "the scheduler does not know the job any more")
        words = {job: gone if job in self._unknown else JobWord() for job in jobs}
        self._unknown |= set(jobs)
        return words
