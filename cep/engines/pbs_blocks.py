"""Blocks as batch jobs of PBS Professional, OpenPBS and Torque.

Parsl's providers write the script and call `qsub`; what is asked and cancelled is ours. Parsl
reads no exit status, takes a job that it is told nothing of for a completed one, and with Torque
says of a refused submission no more than that there is no job.

Belongs to the block thread.
"""

from __future__ import annotations

import shlex
from typing import Any

from parsl.providers import PBSProProvider, TorqueProvider
from parsl.providers.cluster_provider import ClusterProvider
from parsl.providers.errors import SubmitException

from cep.engines import pbs_words
from cep.engines.batch_blocks import BatchBlocks
from cep.engines.job_words import JobWord, last_lines
from cep.engines.pbs_ends import refined
from cep.engines.pbs_queue import Dialect, PbsQueue
from cep.engines.scheduler_command import Said, SchedulerSilent
from cep.errors import EngineError

_SUBMITS = "qsub "  # how the command begins by which Parsl submits; the script is its last word


class PbsBlocks(BatchBlocks):
    """What the blocks of both have in common; see the module's docstring."""

    cmd_timeout: float
    _said: Said | None
    _script: str
    _marks: str

    def _begin(self, dialect: Dialect, tag: str) -> None:
        self._said, self._script, self._marks = None, "", ""
        self._take_over(PbsQueue(dialect, self.cmd_timeout), tag)

    def execute_wait(self, cmd: str, timeout: float | None = None) -> tuple[int, str, str]:
        """As Parsl's; a submission gets our options, which go before those of the script.

        The paths of the output are among them: Slurm's wrapper of qsub puts it into the present
        directory, whatever the script says. The answer is kept, for Parsl's Torque provider keeps
        it to itself.
        """
        if cmd.startswith(_SUBMITS):
            self._script = script = cmd.rsplit(maxsplit=1)[-1]
            output = f"-o {shlex.quote(script)}.stdout -e {shlex.quote(script)}.stderr"
            cmd = f"{_SUBMITS}{self._marks} {output} {cmd[len(_SUBMITS) :].strip()}"
        code, stdout, stderr = ClusterProvider.execute_wait(self, cmd, timeout)
        self._said = Said(code, stdout, stderr)
        return code, stdout, stderr

    def submit(self, command: str, tasks_per_node: int, job_name: str = "parsl") -> str:
        """Submit a block.

        Returns:
            The job's id.

        Raises:
            SchedulerSilent: qsub did not answer, or wants to be asked later. If the job came to be
                nevertheless, `words` finds and cancels it.
            EngineError: qsub refused it.
        """
        name = self._name_of(job_name)
        # A job that is run again would come back as a block that was given up already.
        self._marks = f"-N {shlex.quote(name)} -r n" if name else "-r n"
        before, self._said = set(self.resources), None
        try:
            super().submit(command, tasks_per_node, job_name)  # type: ignore[misc]
        except SchedulerSilent:
            self._note_unanswered()
            raise
        except SubmitException:
            pass  # told below, in the scheduler's words
        for line in set(self.resources) - before:  # Parsl takes every line for a job
            del self.resources[line]
        return self._submitted()

    def _submitted(self) -> str:
        """The job's id out of qsub's answer."""
        said = self._said or Said(1, "", "nothing was said")
        lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
        if said.code == 0 and lines and pbs_words.is_id(lines[-1]):
            self.resources[lines[-1]] = {
                "job_id": lines[-1],
                "job_stdout_path": f"{self._script}.stdout",
                "job_stderr_path": f"{self._script}.stderr",
            }
            return lines[-1]
        if said.code == 0 or pbs_words.is_passing(said.stderr + said.stdout):
            self._note_unanswered()
            raise SchedulerSilent(f"qsub gave no job: {said.words}")
        raise EngineError(f"qsub refused it: {said.words}")

    def _with_output(self, job: str, word: JobWord) -> JobWord:
        known = super()._with_output(job, word)
        if not known.ended:
            return known
        return refined(known, last_lines(known.stderr_path))


class PbsProBlocks(PbsBlocks, PBSProProvider):  # type: ignore[misc]
    """Blocks of PBS Professional or OpenPBS.

    Args:
        tag: Marks the jobs of this life of this endpoint: `ENDPOINT_ID.LIFE`; empty for none.
        arguments: What PBSProProvider takes.
    """

    def __init__(self, *, tag: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._begin("pro", tag)


class TorqueBlocks(PbsBlocks, TorqueProvider):  # type: ignore[misc]
    """Blocks of Torque.

    Args:
        tag: Marks the jobs of this life of this endpoint: `ENDPOINT_ID.LIFE`; empty for none.
        arguments: What TorqueProvider takes.
    """

    def __init__(self, *, tag: str = "", **arguments: Any) -> None:
        super().__init__(**arguments)
        self._begin("torque", tag)
