"""Run a scheduler's command within a time, and leave nothing of it behind.

A command may hang for minutes while the scheduler is busy. It is killed then with all it started,
and `SchedulerSilent` says so: that tells nothing about any job.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from cep.errors import EngineError

_MOST_WORDS = 200


class SchedulerSilent(EngineError):
    """The scheduler did not answer, or not in a way that can be understood."""


class CommandMissing(SchedulerSilent):
    """The command is not on this host, or cannot be run here."""


class NotUnderstood(ValueError):
    """A command printed something else than it should."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a command answered."""

    code: int
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """Its last words, for people; short."""
        return " ".join((self.stderr.strip() or self.stdout.strip()).split())[-_MOST_WORDS:]


def run(command: Sequence[str] | str, timeout_s: float | None) -> Said:
    """Run a command; a text is run by the shell.

    Args:
        command: What to run.
        timeout_s: Seconds that it may take; None for ever.

    Raises:
        CommandMissing: It cannot be run here.
        SchedulerSilent: It did not end in time and was killed.
    """
    name = command if isinstance(command, str) else command[0]
    name = name.split()[0]
    try:
        process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandMissing(
            f"{name} cannot be run on this host: {error.strerror or error}."
        ) from error
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise SchedulerSilent(f"{name} did not answer within {timeout_s:g} s.") from error
    return Said(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def bound_parsl_commands() -> None:
    """Let Parsl's providers run their commands by `run`: a hanging one would stay for ever."""
    from parsl.providers import cluster_provider

    def execute_wait(cmd: str, walltime: float | None = None) -> tuple[int, str, str]:
        said = run(cmd, walltime)
        return said.code, said.stdout, said.stderr

    cluster_provider.execute_wait = execute_wait
