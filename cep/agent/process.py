"""What concerns the agent as a process: its title, its parent, the signals that it obeys."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from types import FrameType

import setproctitle

STOP_SIGNALS = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
# Of a daemon it asks for a reload; where there is a terminal it says that this was closed.
HANGUP = signal.SIGHUP

_PR_SET_PDEATHSIG = 1  # prctl(2)


class StopRequested(BaseException):
    """A stop signal arrived before the main loop began; start-up unwinds in order."""


class Signals:
    """Turns stop signals into an exception while starting, and into events afterwards.

    A SIGHUP that asks for a reload is an event from the first moment on: what was read of the
    configuration before may be older than the signal.

    Args:
        put: Takes the number of a signal.
    """

    def __init__(self, put: Callable[[int], None]) -> None:
        self._put = put
        self._looping = False

    def install(self) -> None:
        """Take the signals over (main thread only)."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._arrived)
        if not has_terminal():
            signal.signal(HANGUP, lambda number, _frame: self._put(number))
        elif signal.getsignal(HANGUP) is not signal.SIG_IGN:  # as `nohup` wants it
            signal.signal(HANGUP, self._hung_up)

    def loop_begins(self) -> None:
        """From now on a signal is an event of the mailbox."""
        self._looping = True

    def _hung_up(self, _number: int, frame: FrameType | None) -> None:
        """The terminal was closed, which asks for an orderly stop."""
        self._arrived(signal.SIGTERM, frame)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        if self._looping:
            self._put(number)
        else:
            raise StopRequested(number)


def has_terminal() -> bool:
    """Whether this process belongs to a terminal, which sends SIGHUP when it is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def set_title(endpoint_id: str, name: str) -> None:
    """Show the endpoint in `ps`, in the words of the published endpoint."""
    setproctitle.setproctitle(f"Globus Compute Endpoint ({endpoint_id}, {name})")


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the process that started this one ends."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the kernel knew
        os.kill(os.getpid(), signal.SIGTERM)
