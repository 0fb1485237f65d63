"""How long to wait before the next try: exponential, jittered, capped, for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

FIRST_S = 0.2
# The promise is that tasks flow again within 5 s of the moment a broker answers, however long it
# was away: a wait of at most 4 s leaves one second to connect, open a channel and consume.
LONGEST_S = 4.0
GROWTH = 1.45
# A link that breaks sooner after it came up may be broken by what we do ourselves.
STABLE_S = 10.0


class BackOff:
    """Delays between tries of one link. Not thread-safe: the AMQP thread owns it.

    Args:
        clock: Seconds, monotonic.
        chance: A number in [0, 1), as `random.random`.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._clock = clock
        self._chance = chance
        self._next_s = FIRST_S
        self._up_since: float | None = None

    def up(self) -> None:
        """Note that the link works from now on."""
        self._up_since = self._clock()

    def failed(self) -> float:
        """Note a failure; return the seconds to wait, between half and all of the present step.

        A link that had worked for `STABLE_S` starts again with the shortest wait.
        """
        if self._up_since is not None and self._clock() - self._up_since >= STABLE_S:
            self._next_s = FIRST_S
        self._up_since = None
        step = self._next_s
        self._next_s = min(step * GROWTH, LONGEST_S)
        return step * (0.5 + 0.5 * self._chance())

    def reset(self) -> None:
        """Forget the failures so far: something was changed, so the next try is a first one."""
        self._next_s = FIRST_S
        self._up_since = None
