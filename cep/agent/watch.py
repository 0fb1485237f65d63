"""The watchdog: a sign of life to the service manager, while every critical part gives one.

The main loop asks each part for an echo, which comes back by the mailbox, so a sign of life proves
that the main loop turns and that each part has come round since. A part that retries (a network
that is down, a broker that refuses) comes round like any other; only one that is stuck does not.
It is named before the service manager ends the process. Runs in the main thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cep.agent.notify import Notify

log = logging.getLogger(__name__)

TIMER = "watchdog"
# Of the manager's time: looked at four times, and a part has half of it for its echo.
LOOKS = 4
PATIENCE = 0.5

#: Asks a part: it calls the function given, soon and from any thread.
Ask: TypeAlias = Callable[[Callable[[], None]], None]


@dataclass(frozen=True, slots=True)
class CameRound:
    """A part has come round since it was asked."""

    part: str


class Watch:
    """See the module.

    Args:
        notify: The service manager.
        parts: How to ask each critical part, by its name for people.
        put: Takes `CameRound`, from any thread.
        set_timer: Sets `TIMER` so many seconds ahead.
        clock: A test's own clock.
    """

    def __init__(
        self,
        notify: Notify,
        parts: Mapping[str, Ask],
        put: Callable[[CameRound], None],
        set_timer: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notify = notify
        self._parts = parts
        self._put = put
        self._set_timer = set_timer
        self._clock = clock
        self._asked_at: dict[str, float] = {}
        self._named: set[str] = set()

    def begin(self) -> None:
        """Ask for the first time, if there is a watchdog."""
        if self._notify.watchdog_s is not None:
            self.look()

    def came_round(self, event: CameRound) -> None:
        """A part has answered."""
        self._asked_at.pop(event.part, None)
        if event.part in self._named:
            self._named.discard(event.part)
            log.warning("%s came round again", event.part, extra={"event": "watchdog.again"})

    def look(self) -> None:
        """Say that we live, unless a part is stuck; then ask those that have answered again."""
        span = self._notify.watchdog_s
        if span is None:
            return
        now = self._clock()
        late = {name for name, at in self._asked_at.items() if now - at > span * PATIENCE}
        stuck = [name for name in self._parts if name in late]
        if stuck:
            self._name(stuck, now)
        else:
            self._notify.alive()
        for name, ask in self._parts.items():
            if name not in self._asked_at:
                self._asked_at[name] = now
                ask(lambda name=name: self._put(CameRound(name)))  # type: ignore[misc]
        self._set_timer(span / LOOKS)

    def _name(self, stuck: list[str], now: float) -> None:
        longest = max(now - self._asked_at[name] for name in stuck)
        text = f"stuck: {' and '.join(stuck)} did not come round for {longest:.0f} s"
        self._notify.status(text)
        if not self._named.issuperset(stuck):
            self._named.update(stuck)
            log.critical(
                "%s; without it there is no sign of life, and the service manager will end and "
                "restart this process",
                text,
                extra={"event": "watchdog.stuck"},
            )
