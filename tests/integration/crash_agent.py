"""The agent, built to kill itself at a named point: a test's entry, never installed.

`CRASH_AT=POINT:N` names the point and the arrival. The installed agent has no such variable.
"""

from __future__ import annotations

import os
import signal
import sys

from cep.agent.__main__ import main
from cep.journal import crash

POINT, _, NUMBER = os.environ.pop("CRASH_AT").partition(":")
left = int(NUMBER)


def reach(name: str) -> None:
    """End this process, as kill -9 does, at the chosen arrival."""
    global left  # noqa: PLW0603 - one process, one counter
    if name == POINT:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    crash.reach = reach
    sys.exit(main(sys.argv[1:]))
