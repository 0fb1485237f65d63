"""Blocks as batch jobs of Grid Engine: Parsl's GridEngineProvider, with qstat's states read anew.

Parsl takes a job that is on its way to its node (`t`) and one that is suspended (`s`, `S`, `T`) for
failed ones, so a block that is just beginning could be given up for good. Here only an error state
is a failure.

Belongs to the block thread.
"""

from __future__ import annotations

from parsl.jobs.states import JobState, JobStatus
from parsl.providers import GridEngineProvider

_STATE_COLUMN = 4


def state_of(letters: str) -> JobState:
    """What the letters in qstat's column `state` mean.

    Source: qstat(1) of Son of Grid Engine 8.1.9, the column "state" of the output format.
    """
    if "E" in letters:
        return JobState.FAILED
    if "d" in letters:
        return JobState.COMPLETED
    if "q" in letters or "w" in letters:  # also held ones, and those that were begun before (R)
        return JobState.PENDING
    if set(letters) & set("sST"):
        return JobState.HELD
    return JobState.RUNNING if set(letters) & set("rt") else JobState.UNKNOWN


def parse_qstat(text: str) -> dict[str, JobState]:
    """Read the table that `qstat` prints: jobs by their id."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) > _STATE_COLUMN and words[0].isdigit():
            found[words[0]] = state_of(words[_STATE_COLUMN])
    return found


class GridEngineBlocks(GridEngineProvider):  # type: ignore[misc]
    """See the module's docstring; takes what GridEngineProvider takes."""

    def _status(self) -> None:
        """As Parsl's: bring the states of all jobs up to date; one that is not listed is over."""
        code, stdout, _ = self.execute_wait("qstat")
        if code != 0:
            return
        listed = parse_qstat(stdout)
        for job, kept in self.resources.items():
            kept["status"] = JobStatus(listed.get(job, JobState.COMPLETED))
