"""What a batch system says of one job, in its own words.

Plain values without Parsl. A state is the scheduler's word in capitals (Slurm's are listed in
squeue(1), "JOB STATE CODES"); schedulers that Parsl asks have Parsl's words. What is not known is
`UNKNOWN`, and that never means that a job has ended.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

UNKNOWN = "UNKNOWN"
#: The scheduler knows the job no more, so it is over; how it ended nobody can say.
GONE = "GONE"
#: The scheduler says that the job is over, and nothing of how.
FINISHED = "FINISHED"
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        FINISHED,
        GONE,
        "LAUNCH_FAILED",
        "MISSING",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "SCALED_IN",
        "TIMEOUT",
    }
)
#: The job is over for its processes, and the batch system clears away after it: its end has no
#: word yet. Slurm and PBS say so (squeue(1), qstat(1)).
ENDING = frozenset({"COMPLETING", "EXITING"})
#: These ends are the block's own fault even when its workers had come.
CRASHED = frozenset({"BOOT_FAIL", "FAILED", "LAUNCH_FAILED", "MISSING", "OUT_OF_MEMORY"})
_TOO_LARGE = (
    "more memory was used than the job has: ask for more (mem_per_node, scheduler_options) or run "
    "fewer workers on a node (max_workers_per_node)"
)
_NO_SHELL_WORD = 127  # sh(1): the command was not found
_LAST_LINES = 5
_LAST_BYTES = 4096
_SIGNALS_FROM = 128  # a shell's exit status for signal n is this and n


@dataclass(frozen=True, slots=True)
class JobWord:
    """See the module.

    Attributes:
        state: The scheduler's word.
        reason: Why it waits or ended, as the scheduler says it; may be empty.
        exit_code: Exit status of the job's script, once known.
        signal: The signal that ended it, once known.
        ran_s: Seconds that it has run.
        nodes: Where, as the scheduler writes it.
        name: The job's name.
        stderr_path: File with what it wrote to its error output.
    """

    state: str = UNKNOWN
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    ran_s: float | None = None
    nodes: str = ""
    name: str = ""
    stderr_path: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is over for certain."""
        return self.state in ENDED

    @property
    def ending(self) -> bool:
        """Whether how it ended is about to be known."""
        return self.state in ENDING

    def end(self, job: str) -> str:
        """How it ended, as `TIMEOUT after 00:05:00 in job 1234`."""
        parts = [self.state]
        # What else the scheduler ended has its signal, or that signal's status if the script lived
        # long enough to give it; neither says more than the state.
        by_itself = self.state in ("FAILED", "CANCELLED")
        if self.exit_code and (by_itself or self.exit_code <= _SIGNALS_FROM):
            parts.append(f"with exit status {self.exit_code}")
        elif self.signal and by_itself:
            parts.append(f"by signal {self.signal}")
        if self.ran_s is not None:
            parts.append(f"after {clock(self.ran_s)}")
        parts.append(f"in job {job}")
        return " ".join(parts)

    def end_with_advice(self, job: str) -> str:
        """The end, and what to do about it where that is certain; for the tasks that it took."""
        return f"{self.end(job)}; {_TOO_LARGE}" if self.state == "OUT_OF_MEMORY" else self.end(job)

    def story(self, job: str) -> str:
        """The end with the scheduler's reason, what it means, and the last lines of its error."""
        parts = [self.end_with_advice(job)]
        if self.reason and self.reason != self.state:
            parts.append(f"the scheduler's reason: {self.reason}")
        lines = last_lines(self.stderr_path)
        if self.exit_code == _NO_SHELL_WORD or "No such file or directory" in lines:
            parts.append(
                "a program cannot be seen on the node; what the endpoint runs has to be installed "
                "where all nodes see it"
            )
        if lines:
            parts.append(f"last lines of its error output: {lines}")
        return "; ".join(parts)


def clock(seconds: float) -> str:
    """Seconds as Slurm writes them: `00:05:00`, `1-02:00:00`."""
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    return f"{f'{days}-' if days else ''}{hours:02}:{minutes:02}:{left:02}"


def last_lines(path: str | None) -> str:
    """The last lines of a file, joined by ` / `; empty when it cannot be read."""
    if path is None:
        return ""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _LAST_BYTES))
        text = file.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " / ".join(lines[-_LAST_LINES:])
    return ""
