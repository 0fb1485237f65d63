"""What concerns the agent as a process: its title, its parent, the signals that stop it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from types import FrameType

import setproctitle

# SIGHUP: the terminal of a foreground agent was closed.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1  # prctl(2)


class StopRequested(BaseException):
    """A stop signal arrived before the main loop began; start-up unwinds in order."""


class StopSignals:
    """Turns stop signals into an exception while starting, and into events afterwards."""

    def __init__(self, put: Callable[[int], None]) -> None:
        self._put = put
        self._looping = False

    def install(self) -> None:
        """Take the stop signals over (main thread only)."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._arrived)

    def loop_begins(self) -> None:
        """From now on a signal is an event of the mailbox."""
        self._looping = True

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._looping:
            self._put(number)
        else:
            raise StopRequested(number)


def set_title(endpoint_id: str, name: str) -> None:
    """Show the endpoint in `ps`, in the words of the published endpoint."""
    setproctitle.setproctitle(f"Globus Compute Endpoint ({endpoint_id}, {name})")


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the process that started this one ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)
