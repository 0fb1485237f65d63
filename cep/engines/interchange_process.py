"""The interchange as the agent's child: start, configure, notice its death, end.

Free of Parsl, so that the child loads its modules while the agent loads its own. `life` reads as
ended when the process is gone; its standard input, which stays open, tells it that the agent
lives.
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

COMMAND = (sys.executable, "-m", "cep.engines.interchange_main")


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
