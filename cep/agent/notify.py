"""What the agent tells the service manager that started it: sd_notify(3), by the sdnotify package.

Without one (`NOTIFY_SOCKET` was not set) every call does nothing. Used by the main thread only. The
variables were taken out of the environment before (`cep.agent.credentials`), so nothing that the
agent starts can speak in its name.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import Any

from cep.errors import CepError
from cep.safety.text import printable, redact

log = logging.getLogger(__name__)

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"
# The manager reads its socket at once; the agent does not wait for one that hangs.
SEND_S = 1.0
# `systemctl status` shows one line, and whoever has a narrow terminal the beginning of it.
STATUS_LENGTH = 240


class Notify:
    """The agent's voice towards the service manager.

    Args:
        notifier: An `sdnotify.SystemdNotifier`, connected; None: nobody listens.
        watchdog_s: Within so many seconds the manager expects a sign of life; None: it does not.
    """

    def __init__(self, notifier: Any = None, watchdog_s: float | None = None) -> None:
        self._notifier = notifier
        self.watchdog_s = None if notifier is None else watchdog_s

    @classmethod
    def of(cls, taken: Mapping[str, str]) -> Notify:
        """Build from the variables that this very process was started with."""
        address = taken.get(SOCKET_VARIABLE)
        if not address:
            return cls()
        try:
            notifier = _connect(address)
        except OSError as error:
            log.warning("the service manager's socket %s cannot be used: %s", address, error)
            return cls()
        return cls(notifier, _watchdog_s(taken))

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return self._notifier is not None

    def ready(self, status: str) -> None:
        """Tasks can be taken now; `systemctl start` returns."""
        self._say("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`."""
        self._say(_status(text))

    def reloading(self, status: str) -> None:
        """A new configuration is being read; the next `ready` ends that.

        Both words in one message: without the time, or with it in a message of its own, some
        versions wait for the end of the reload until their time-out. Source: sd_notify(3).
        """
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={now}", _status(status))

    def stopping(self, status: str, within_s: float) -> None:
        """An orderly stop has begun, and may take so long."""
        self._say("STOPPING=1", _extend(within_s), _status(status))

    def extend(self, within_s: float, status: str | None = None) -> None:
        """The start or the stop makes progress: the next word comes within so many seconds."""
        self._say(_extend(within_s), *([] if status is None else [_status(status)]))

    def alive(self) -> None:
        """A sign of life for the watchdog."""
        self._say("WATCHDOG=1")

    def failed(self, error: CepError) -> None:
        """Leave the reason of the end in `systemctl status`."""
        self._say(_status(f"failed: {error.message}"))

    def _say(self, *lines: str) -> None:
        if self._notifier is None:
            return
        try:
            self._notifier.notify("\n".join(lines))
        except OSError as error:  # its manager is being replaced; the next word may arrive
            log.debug("the service manager was not told: %s", error)


def _connect(address: str) -> Any:
    """Connect to the manager; sdnotify knows the address only from the environment."""
    from sdnotify import SystemdNotifier

    before = os.environ.get(SOCKET_VARIABLE)
    os.environ[SOCKET_VARIABLE] = address
    try:
        notifier = SystemdNotifier(debug=True)  # an error is raised, not swallowed
    finally:
        if before is None:
            del os.environ[SOCKET_VARIABLE]
        else:
            os.environ[SOCKET_VARIABLE] = before
    notifier.socket.settimeout(SEND_S)
    return notifier


def _watchdog_s(taken: Mapping[str, str]) -> float | None:
    """Seconds of the watchdog, if one is meant for this process; sd_watchdog_enabled(3)."""
    if taken.get(WATCHDOG_PID_VARIABLE, str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(taken.get(WATCHDOG_VARIABLE, "0"))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None


def _status(text: str) -> str:
    line = printable(redact(" ".join(text.split())))
    return f"STATUS={line[:STATUS_LENGTH]}"


def _extend(within_s: float) -> str:
    return f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}"
