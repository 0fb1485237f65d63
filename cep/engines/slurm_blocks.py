"""Blocks as batch jobs of Slurm: Parsl's SlurmProvider, asked and watched in our own way.

Parsl also asks `sacct` when the provider is made, which may hang; nobody needs the answer here.

Belongs to the block thread.
"""

from __future__ import annotations

from typing import Any

from parsl.providers import SlurmProvider
from parsl.providers.errors import SubmitException

from cep.engines.batch_blocks import BatchBlocks
from cep.engines.scheduler_command import SchedulerSilent
from cep.engines.slurm_queue import SlurmQueue
from cep.engines.slurm_words import is_passing
from cep.errors import EngineError

_ASKS_ACCOUNTING = "sacct -X"  # what Parsl's constructor runs


class SlurmBlocks(BatchBlocks, SlurmProvider):  # type: ignore[misc]
    """See the module's docstring.

    Args:
        tag: Marks the jobs of this life of this endpoint: `ENDPOINT_ID.LIFE`; empty for none.
        arguments: What SlurmProvider takes.
    """

    def __init__(self, *, tag: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._options: str = self.scheduler_options
        self._take_over(SlurmQueue(self.clusters, self.cmd_timeout), tag)

    def execute_wait(self, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
        """As Parsl's, but for the question about accounting, which nobody needs here."""
        if cmd == _ASKS_ACCOUNTING:
            return 1, "", "not asked"
        code, stdout, stderr = super().execute_wait(cmd, timeout)
        return code, stdout, stderr

    def submit(self, command: str, tasks_per_node: int, job_name: str = "parsl.slurm") -> str:
        """Submit a block.

        Returns:
            The job's id.

        Raises:
            SchedulerSilent: sbatch did not answer, or wants to be asked later. If the job came to
                be nevertheless, `words` finds and cancels it.
            EngineError: sbatch refused it.
        """
        # A requeued job would come back as a block that the endpoint has given up already.
        ours = "#SBATCH --no-requeue\n"
        if name := self._name_of(job_name):
            ours += f"#SBATCH --job-name={name}\n"
        self.scheduler_options: str = f"{self._options.rstrip()}\n{ours}"
        try:
            return str(super().submit(command, tasks_per_node, job_name))
        except SubmitException as error:
            words = " ".join(str(error.stderr or error.stdout or error).split())
            if error.retcode == 0 or is_passing(words):
                raise SchedulerSilent(f"sbatch gave no job: {words}") from error
            raise EngineError(f"sbatch refused it: {words}") from error
