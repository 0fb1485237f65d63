"""The agent, built to kill itself at a named point: a test's entry, never installed.

`CRASH_AT=POINT:N` names the point and the arrival. With `CRASH_FILE` instead, the same words are
read from that file at each SIGUSR2, so that a running agent can be told. The installed agent has
no such variables.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from cep.agent.__main__ import main
from cep.journal import crash

point = ""
left = 0


def arm(words: str) -> None:
    """Choose the point and the arrival from now on."""
    global point, left  # noqa: PLW0603 - one process, one counter
    point, _, number = words.partition(":")
    left = int(number or 0)


def reach(name: str) -> None:
    """End this process, as kill -9 does, at the chosen arrival."""
    global left  # noqa: PLW0603 - one process, one counter
    if name == point:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    crash.reach = reach
    arm(os.environ.pop("CRASH_AT", ""))
    if file := os.environ.pop("CRASH_FILE", ""):
        signal.signal(signal.SIGUSR2, lambda _number, _frame: arm(Path(file).read_text()))
    sys.exit(main(sys.argv[1:]))
