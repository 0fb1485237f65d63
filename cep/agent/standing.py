"""How the agent stands, told to whoever asks: `status.json`, the control socket, systemd.

Owned by the main loop. `status.json` is written when the loop says so; the service manager's line
follows by itself, at most every few seconds, and only if it changed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from cep.agent import watch
from cep.agent.parts import Parts
from cep.agent.picture import line, of_reload, picture
from cep.agent.report import write_atomically
from cep.agent.watch import Watch

log = logging.getLogger(__name__)

TIMER = "service-status"
STOP_TIMER = "service-stop"
# systemd passes each line on to whoever watches the unit; people read no faster.
STATUS_EVERY_S = 5.0
# While a stop makes progress it may go on for this long; the word is repeated far more often.
STOP_STEP_S = 45.0
STOP_EVERY_S = 5.0


class Standing:
    """See the module.

    Args:
        parts: The agent.
        word: Tells the loop's state: as in `picture`.
        trouble: Tells what is wrong with the journal's disk.
    """

    def __init__(
        self, parts: Parts, word: Callable[[], str], trouble: Callable[[], str | None]
    ) -> None:
        self._p = parts
        self._word = word
        self._trouble = trouble
        self._since = datetime.now(timezone.utc)
        self._told = ""
        self._told_at = float("-inf")
        self._stopping = False
        self._ready = False
        self._reload: dict[str, Any] | None = None
        self.watch = Watch(
            parts.notify,
            {"the AMQP thread": parts.links.beat, "the engine": parts.engine.beat},
            parts.mailbox.put,
            lambda in_s: parts.timers.set(watch.TIMER, in_s),
        )

    def picture(self) -> dict[str, Any]:
        """What `status.json` and the control socket show."""
        return picture(self._p, self._word(), self._since, self._trouble(), self._reload)

    def write(self) -> None:
        """Renew `status.json`."""
        try:
            write_atomically(self._p.paths.status_json, self.picture())
        except OSError as exc:
            log.debug("status.json could not be written: %s", exc)

    def ready(self) -> None:
        """Tasks can be taken: `systemctl start` may return, and the watchdog begins."""
        self.write()
        self._ready = True
        self._say_ready()
        self.watch.begin()

    def _say_ready(self) -> None:
        if self._p.notify.wanted:
            self._told = self._line()
            self._p.notify.ready(self._told)

    def reloading(self) -> None:
        """The configuration is being read again."""
        if self._ready and not self._stopping:
            self._p.notify.reloading(f"reloading; {self._line()}")

    def reloaded(self, outcome: dict[str, Any]) -> None:
        """The reload has ended, well or not.

        Args:
            outcome: `changed` and `restart_needed`, or `error`; kept until the next one.
        """
        self._reload = of_reload(outcome)
        self.write()
        if self._ready and not self._stopping:
            self._say_ready()

    def follow(self) -> None:
        """After each turn of the loop: tell the manager how things stand, if it is time."""
        if not self._p.notify.wanted:
            return
        rest = self._told_at + STATUS_EVERY_S - time.monotonic()
        if rest > 0:
            self._p.timers.set_if_unset(TIMER, rest)
            return
        self._told_at = time.monotonic()
        text = self._line()
        if text != self._told:
            self._told = text
            self._p.notify.status(text)

    def stopping(self) -> None:
        """An orderly stop has begun."""
        self.write()
        if not self._stopping:
            self._stopping = True
            self._p.timers.cancel(watch.TIMER)
            self._p.notify.stopping(self._line(), STOP_STEP_S)
            self.still_stopping()

    def still_stopping(self) -> None:
        """The loop turns, and the drain has its own limit: the stop makes progress."""
        if self._p.notify.wanted:
            self._p.notify.extend(STOP_STEP_S)
            self._p.timers.set(STOP_TIMER, STOP_EVERY_S)

    def _line(self) -> str:
        return line(self._p, self._word(), self._trouble(), self._reload)
