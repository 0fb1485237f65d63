"""Ask the scheduler whether it would take a script, without running anything.

Slurm has `sbatch --test-only`. PBS has no such thing, so the job is submitted held (`qsub -h`) and
deleted at once (`qdel`). Every command has a time-out. One thread; plain `subprocess`.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

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
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise Unavailable(
            f"The command {words[0]} cannot be run on this host: {error.strerror}.",
            hint="Run this where jobs are submitted, on a login node.",
        ) from error
    with process:
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise TemporaryFailure(
                f"{words[0]} did not answer within {timeout_s:g} s.",
                hint="Is the scheduler down? Try again, or set a longer cmd_timeout.",
            ) from error
    if process.returncode != 0:
        said = " ".join((err.strip() or out.strip() or "no words").split())[:_WORDS_SHOWN]
        raise ConfigError(
            f"The scheduler refuses the job: {said} ({words[0]} ended with {process.returncode})."
        )
    return (out.strip() or err.strip())[:_WORDS_SHOWN]


def _kill(process: subprocess.Popen[str]) -> None:
    """End the command and whatever it started, which may hold its output open."""
    import os
    import signal

    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
