"""How much one client, one address and all of them together may ask of the hub: token buckets.

Everything is in memory, per hub process, and bounded. docs/hub.md has the table of all limits.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

_KEYS = 10_000  # buckets remembered at most; the one longest untouched is forgotten first

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Rates:
    """The numbers; a rate is tokens per second, a burst what may come at once.

    The SDK submits batches of up to 128 tasks, one request after another for each executor, and a
    request takes some milliseconds: a busy client makes about a hundred requests a second.

    Attributes:
        requests: Requests of one client.
        wrong_logins: Wrong credentials of any kind, by one address; right ones always count.
        client_body_bytes: Bodies of one client that are held at one time.
        body_bytes: Bodies of all clients that are held at one time.
        body_silence_s: Seconds without a byte of an unfinished body.
        body_grace_s: Seconds that any body may take.
        body_rate: Bytes per second that a body needs beyond the grace.
    """

    requests: float = 200.0
    requests_burst: float = 2000.0
    wrong_logins: float = 5.0
    wrong_logins_burst: float = 100.0
    client_body_bytes: int = 256 * MIB
    body_bytes: int = 1024 * MIB
    body_silence_s: float = 30.0
    body_grace_s: float = 60.0
    body_rate: float = 4096.0


class Buckets:
    """One token bucket for each key.

    Args:
        rate: Tokens that come back per second.
        burst: Tokens of a full bucket.
        clock: Seconds, monotonic.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take a token; returns 0, or the seconds until there is one again."""
        now = self._clock()
        level, since = self._levels.pop(key, (self._burst, now))
        level = min(self._burst, level + (now - since) * self._rate)
        wait = 0.0
        if level >= 1.0:
            level -= 1.0
        else:
            wait = (1.0 - level) / self._rate
        self._levels[key] = (level, now)
        if len(self._levels) > _KEYS:
            self._levels.popitem(last=False)
        return wait


class Bodies:
    """Bytes of request bodies that are in memory now, in all and by client."""

    def __init__(self, total: int, by_client: int) -> None:
        self._total = total
        self._by_client = by_client
        self._held = 0
        self._of: dict[str, int] = {}

    def hold(self, client: str, size: int) -> bool:
        """Count bytes; False (and nothing counted) when they are too many."""
        theirs = self._of.get(client, 0) + size
        if theirs > self._by_client or self._held + size > self._total:
            return False
        self._of[client] = theirs
        self._held += size
        return True

    def release(self, client: str, size: int) -> None:
        """Give counted bytes back."""
        self._held -= size
        left = self._of.get(client, 0) - size
        if left > 0:
            self._of[client] = left
        else:
            self._of.pop(client, None)

    @property
    def held(self) -> int:
        """Bytes held now."""
        return self._held


class RequestLimits:
    """The limits of the REST routes, with their state."""

    def __init__(self, rates: Rates | None = None) -> None:
        self.rates = rates or Rates()
        self.requests = Buckets(self.rates.requests, self.rates.requests_burst)
        self.wrong_logins = Buckets(self.rates.wrong_logins, self.rates.wrong_logins_burst)
        self.bodies = Bodies(self.rates.body_bytes, self.rates.client_body_bytes)


def retry_after(wait_s: float) -> int:
    """Whole seconds for a Retry-After header."""
    return max(1, math.ceil(wait_s))
