"""Ask the scheduler whether it would take a script, without running anything.

Slurm has `sbatch --test-only`. PBS has no such thing, so the job is submitted held (`qsub -h`) and
deleted at once (`qdel`). Every command has a time-out. One thread.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from cep.engines.scheduler_command import CommandMissing, SchedulerSilent, run
from cep.errors import ConfigError, SoftwareError, TemporaryFailure, Unavailable

_WORDS_SHOWN = 500  # characters of a scheduler's answer
_TRIES = 3  # of deleting the held job


def ask(provider: str, command: str, script: Path, timeout_s: float) -> str:
    """Ask the scheduler; return its words.

    Args:
        provider: The provider's type.
        command: The command that would submit, as the preview has it; its last word is the script.
        script: A file with the script, which the scheduler can read.
        timeout_s: Seconds that each command may take.

    Raises:
        ConfigError: The scheduler refuses the job, or this provider's cannot be asked.
        TemporaryFailure: It does not answer in time.
        Unavailable: Its command is not on this host.
        SoftwareError: A held job could not be deleted; the message has its id.
    """
    words = shlex.split(command)[:-1]
    if provider == "SlurmProvider":
        return _run([words[0], "--test-only", *words[1:], str(script)], timeout_s)
    if provider in ("PBSProProvider", "TorqueProvider"):
        return _held([words[0], "-h", *words[1:], str(script)], timeout_s)
    raise ConfigError(
        f"The scheduler of {provider} cannot be asked without running something.",
        hint="Only Slurm and PBS can be. The script itself: cep render NAME --submit-script",
    )


def _held(words: Sequence[str], timeout_s: float) -> str:
    try:
        job = _run(words, timeout_s).splitlines()[-1:]
    except TemporaryFailure as error:
        raise TemporaryFailure(
            error.message,
            hint="It may have taken the held job all the same: look with qstat, delete with qdel.",
        ) from error
    if not job or not job[0].strip():
        raise SoftwareError(f"{shlex.join(words)} answered nothing, so its job cannot be deleted.")
    _delete(job[0].strip(), timeout_s)
    return f"It took a held job, {job[0].strip()}, which was deleted again."


def _delete(job: str, timeout_s: float) -> None:
    """Delete the held job; its time-out is told as well, for the job would stay."""
    deadline = time.monotonic() + timeout_s
    trouble: Exception | None = None
    for _ in range(_TRIES):
        try:
            _run(["qdel", job], max(1.0, deadline - time.monotonic()))
            return
        except (ConfigError, TemporaryFailure, Unavailable) as error:
            trouble = error
    raise SoftwareError(
        f"The held job {job} could not be deleted: {trouble}", hint=f"Delete it: qdel {job}"
    )


def _run(words: Sequence[str], timeout_s: float) -> str:
    try:
        said = run(words, timeout_s)
    except CommandMissing as error:
        raise Unavailable(
            f"The command {error.message}",
            hint="Run this where jobs are submitted, on a login node.",
        ) from error
    except SchedulerSilent as error:
        raise TemporaryFailure(
            error.message, hint="Is the scheduler down? Try again, or set a longer cmd_timeout."
        ) from error
    if said.code != 0:
        told = " ".join((said.stderr.strip() or said.stdout.strip() or "no words").split())
        raise ConfigError(
            f"The scheduler refuses the job: {told[:_WORDS_SHOWN]} ({words[0]} ended with "
            f"{said.code})."
        )
    return (said.stdout.strip() or said.stderr.strip())[:_WORDS_SHOWN]
