"""The interchange as the agent's child: start, configure, notice its death, end.

Free of Parsl, so that the child loads its modules while the agent loads its own, or registers
(`cep.engines.base.LoadsAhead`). `life` reads as ended when the process is gone; its standard
input, which stays open, tells it that the agent lives.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cep.config.settings import HtexSettings
from cep.engines.worker_logs import EXECUTOR_SUFFIX

COMMAND = (sys.executable, "-m", "cep.engines.interchange_main")
DEFAULT_LABEL = "GlobusComputeEngine"
#: Environment variable that marks all processes of one endpoint, by its run directory.
MARK_VARIABLE = "CEP_ENDPOINT_DIR"


def label_of(settings: HtexSettings) -> str:
    """The executor's label, which names its directory and its jobs."""
    return f"{settings.label or DEFAULT_LABEL}{EXECUTOR_SUFFIX}"


def mark_of(run_dir: Path) -> dict[str, str]:
    """The variables by which all processes of one endpoint are recognised.

    Args:
        run_dir: The endpoint's run directory, resolved.
    """
    # setproctitle would write over the mark in /proc/PID/environ without SPT_NOENV.
    return {MARK_VARIABLE: str(run_dir), "SPT_NOENV": "1"}


class InterchangeProcess:
    """See the module's docstring.

    Args:
        directory: Where its output goes; made when missing.
        mark: Environment variables by which left-overs are recognised.
    """

    def __init__(self, directory: Path, mark: Mapping[str, str]) -> None:
        self._output = directory / "interchange.out"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.life, theirs = os.pipe()
        try:
            with self._output.open("wb") as output:
                self.process = subprocess.Popen(
                    COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **mark},
                    cwd=directory,
                    pass_fds=(theirs,),
                )
        except BaseException:
            os.close(self.life)
            raise
        finally:
            os.close(theirs)

    @classmethod
    def of(cls, run_dir: Path, settings: HtexSettings) -> InterchangeProcess:
        """Launch the interchange of an endpoint; it loads, and waits for its configuration.

        Args:
            run_dir: The endpoint's run directory.
            settings: The engine's.

        Raises:
            OSError: It cannot be launched.
        """
        place = run_dir.resolve()
        return cls(place / label_of(settings), mark_of(place))

    def configure(self, config: Mapping[str, Any]) -> None:
        """Send what it needs to begin."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(pickle.dumps(dict(config)))
            self.process.stdin.flush()

    def last_words(self) -> str:
        """The last lines that it wrote, for an error message."""
        with contextlib.suppress(OSError):
            lines = self._output.read_text(errors="replace").strip().splitlines()
            return " / ".join(lines[-3:])
        return ""

    def end(self, timeout_s: float) -> None:
        """Tell it that the agent is done, and kill it when it does not end in time; idempotent."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.life >= 0:
            os.close(self.life)
            self.life = -1
