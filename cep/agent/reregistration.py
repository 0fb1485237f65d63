"""Registering again when the broker refuses our credentials: the service may have newer ones.

Owned by the main thread. The request itself runs in a thread of its own, so that a slow service
stops nothing, and its answer comes back through the mailbox.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from cep.agent.mailbox import RegisteredAgain, RegistrationFailed, Timers
from cep.errors import CepError, SoftwareError
from cep.model import Registered

log = logging.getLogger(__name__)

TIMER = "register"
RETRY_S = 10.0
RECENT_S = 60.0


class Reregistration:
    """One request at a time, however many links were refused.

    Args:
        register: Asks the service; blocks.
        put: Takes the answer, from another thread.
        timers: Of the main loop, which calls `ask` when `TIMER` is due.
    """

    def __init__(
        self,
        register: Callable[[], Registered],
        put: Callable[[RegisteredAgain | RegistrationFailed], None],
        timers: Timers,
    ) -> None:
        self._register = register
        self._put = put
        self._timers = timers
        self._under_way = False
        self._succeeded_at = time.monotonic() - RECENT_S

    def wanted(self) -> None:
        """A link was refused."""
        if self._under_way:
            return  # one answer serves all links
        self._under_way = True
        # Two agents with one id would take the credentials from each other without end.
        recent = time.monotonic() - self._succeeded_at < RECENT_S
        self._timers.set(TIMER, RETRY_S if recent else 0.0)

    def ask(self) -> None:
        """Send the request."""
        threading.Thread(target=self._ask, name="register", daemon=True).start()

    def succeeded(self) -> None:
        """The answer is used."""
        self._under_way = False
        self._succeeded_at = time.monotonic()

    def try_later(self) -> None:
        """The service does not answer for now."""
        self._timers.set(TIMER, RETRY_S)

    def _ask(self) -> None:
        try:
            self._put(RegisteredAgain(self._register()))
        except CepError as error:
            self._put(RegistrationFailed(error))
        except Exception as exc:  # a thread's top: the loop must hear of it
            log.exception("registering again failed", extra={"event": "service.broken"})
            self._put(RegistrationFailed(SoftwareError(f"Registering again failed: {exc}.")))
