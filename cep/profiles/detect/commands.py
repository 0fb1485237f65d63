"""Run a site's commands, the one place that does: bounded in time and output, no terminal.

A command that does not answer in time is ended with everything it started, and that is told.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Protocol

TIMEOUT_S = 10.0  # of one command; a busy controller of Slurm answers within 5 s as a rule
_LARGEST = 4 * 1024 * 1024  # bytes of output that are read


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said.

    Attributes:
        argv: The command.
        out: Standard output.
        err: Standard error.
        code: Exit code; None when it is not there, could not be run, or did not end in time.
        trouble: Why there is no exit code, as a sentence; empty with one.
    """

    argv: tuple[str, ...]
    out: str = ""
    err: str = ""
    code: int | None = 0
    trouble: str = ""

    @property
    def answered(self) -> bool:
        """Whether it ran to its end without an error."""
        return self.code == 0

    @property
    def words(self) -> str:
        """Why there is no good answer, in a sentence; empty with one."""
        if self.trouble or self.answered:
            return self.trouble
        said = " ".join((self.err.strip() or self.out.strip()).split())[:200]
        return f"{self.argv[0]} ended with {self.code}" + (f": {said}" if said else " in silence")


class Site(Protocol):
    """How commands are found and run; tests have one that plays back.

    Attributes:
        user: Name of the account that commands run as.
    """

    user: str

    def which(self, name: str) -> str | None:
        """Where a command is; None for nowhere."""

    def ask(self, *argv: str) -> Answer:
        """Run a command to its end."""


def _account_name() -> str:
    """The name of this process's account, whatever variables say; its number without a name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class ThisHost:
    """The host this runs on.

    Args:
        timeout_s: Of each command.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.user = _account_name()

    def which(self, name: str) -> str | None:
        """Where a command is; None for nowhere."""
        return shutil.which(name)

    def ask(self, *argv: str) -> Answer:
        """Run a command; blocks for `timeout_s` at most."""
        environment = {**os.environ, "LC_ALL": "C", "PAGER": "cat"}
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as exc:
                return Answer(argv, code=None, trouble=f"{argv[0]} cannot be run: {exc}")
            try:
                code: int | None = process.wait(self.timeout_s)
                trouble = ""
            except subprocess.TimeoutExpired:
                code, trouble = None, f"{argv[0]} did not answer within {self.timeout_s:g} s"
            finally:
                if process.returncode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read(_LARGEST).decode("utf-8", "replace"))
        return Answer(argv, texts[0], texts[1], code, trouble)
