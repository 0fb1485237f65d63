"""Blocks as batch jobs of Slurm: Parsl's SlurmProvider, asked and watched in our own way.

Parsl knows a job's state and no more, takes a job that squeue does not list for a completed one,
and asks `sacct` when it is made, which may hang. Here the scheduler's reason, exit status and times
come along, and no answer means nothing. Jobs are called `cep.ENDPOINT.LIFE.BLOCK`, so those that
an earlier life left, or a submission that was given up, are found and cancelled.

Belongs to the block thread.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from parsl.providers import SlurmProvider
from parsl.providers.errors import SubmitException

from cep.engines.job_words import JobWord
from cep.engines.scheduler_command import SchedulerSilent, bound_parsl_commands
from cep.engines.slurm_queue import NAME_PREFIX, SlurmQueue
from cep.engines.slurm_words import is_passing
from cep.errors import EngineError

log = logging.getLogger(__name__)

_BLOCK = re.compile(r"block-(\d+)$")
_ASKS_ACCOUNTING = "sacct -X"  # what Parsl's constructor runs


class SlurmBlocks(SlurmProvider):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        tag: Marks the jobs of this life of this endpoint: `ENDPOINT.LIFE`; empty for none.
        arguments: What SlurmProvider takes.
    """

    def __init__(self, *, tag: str = "", **arguments: Any) -> None:
        bound_parsl_commands()
        super().__init__(**arguments)
        self._tag = tag
        self._queue = SlurmQueue(self.clusters, self.cmd_timeout)
        self._options: str = self.scheduler_options
        self._cleaned = not tag

    def execute_wait(self, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
        """As Parsl's, but for the question about accounting, which nobody needs here."""
        if cmd == _ASKS_ACCOUNTING:
            return 1, "", "not asked"
        code, stdout, stderr = super().execute_wait(cmd, timeout)
        return code, stdout, stderr

    # -- more ----------------------------------------------------------------------------------

    def submit(self, command: str, tasks_per_node: int, job_name: str = "parsl.slurm") -> str:
        """Submit a block.

        Returns:
            The job's id.

        Raises:
            SchedulerSilent: sbatch did not answer, or wants to be asked later. If the job came to
                be nevertheless, `look` finds and cancels it.
            EngineError: sbatch refused it.
        """
        # A requeued job would come back as a block that the endpoint has given up already.
        ours = "#SBATCH --no-requeue\n"
        block = _BLOCK.search(job_name)
        if self._tag and block is not None:
            ours += f"#SBATCH --job-name={NAME_PREFIX}.{self._tag}.{block[1]}\n"
        self.scheduler_options: str = f"{self._options.rstrip()}\n{ours}"
        try:
            return str(super().submit(command, tasks_per_node, job_name))
        except SubmitException as error:
            words = " ".join(str(error.stderr or error.stdout or error).split())
            if error.retcode == 0 or is_passing(words):
                raise SchedulerSilent(f"sbatch gave no job: {words}") from error
            raise EngineError(f"sbatch refused it: {words}") from error

    # -- questions -----------------------------------------------------------------------------

    def words(self, jobs: Sequence[str]) -> list[JobWord]:
        """What Slurm says of these jobs.

        Raises:
            SchedulerSilent: It says nothing, or nothing that can be understood.
        """
        found = self._queue.look(jobs)
        self._end_strays()
        return [self._with_output(job, word) for job, word in zip(jobs, found, strict=True)]

    def end_leftovers(self) -> None:
        """Cancel the jobs that earlier lives of this endpoint have left.

        Raises:
            SchedulerSilent: They could not be found or cancelled now.
        """
        if not self._cleaned:
            self._queue.refresh()
            self._end_strays()

    def _end_strays(self) -> None:
        """Cancel jobs of this endpoint that are no block: of others' lives at first, then of ours.

        Later on a job of another life belongs to an agent that has taken the endpoint over.
        """
        if not self._tag:
            return
        endpoint_id = self._tag.partition(".")[0]
        ours = f"{NAME_PREFIX}.{self._tag}."
        strays = [
            job
            for job, word in self._queue.of_endpoint(endpoint_id).items()
            if job not in self.resources and (not self._cleaned or word.name.startswith(ours))
        ]
        if strays:
            log.warning(
                "cancelling jobs that are no blocks of this endpoint (any more): %s",
                ", ".join(strays),
                extra={"event": "blocks.strays"},
            )
            self._queue.cancel(strays)
        self._cleaned = True

    def _with_output(self, job: str, word: JobWord) -> JobWord:
        kept = self.resources.get(job)
        return word if kept is None else replace(word, stderr_path=kept["job_stderr_path"])

    # -- fewer ---------------------------------------------------------------------------------

    def cancel(self, job_ids: Sequence[str]) -> list[bool]:
        """Cancel blocks.

        Raises:
            SchedulerSilent: scancel did not do it.
        """
        self._queue.cancel(job_ids)
        return [True for _ in job_ids]
