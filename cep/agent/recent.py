"""Which tasks were taken in lately: a memory for what a service sends twice.

A service that loses its link to the broker cannot know whether a task had arrived, and sends it
again. By then the first copy may be run, answered and forgotten: the journal remembers an id only
until the broker has surely processed our ack, which says nothing of a second copy. So ids stay
here for a while after they were taken in, in memory only, and bounded.

Owned by the main thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

# A hub that was killed in the middle of a submit sends it again when it is back; a link finds its
# broker again within seconds. Ten minutes leave room for somebody to start what did not start.
KEEP_S = 600.0
MOST = 100_000  # some 10 MB


class Recent:
    """Remembers keys for at least half of `keep_s`, or the last half of `most`, and then forgets.

    Two generations, of which the older is dropped as a whole: no key costs more than its place in
    a set.

    Args:
        keep_s: Seconds after which a key is surely forgotten, once others come.
        most: The most keys that are kept.
        clock: Seconds that only run forward.
    """

    def __init__(
        self,
        keep_s: float = KEEP_S,
        most: int = MOST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turn_s = keep_s / 2
        self._turn_at = most // 2
        self._clock = clock
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()
        self._turned = clock()

    def __contains__(self, key: bytes | None) -> bool:
        return key in self._young or key in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, keys: Iterable[bytes]) -> None:
        """Remember these from now on."""
        now = self._clock()
        if now - self._turned >= self._turn_s:
            self._turn(now)
        for key in keys:
            if len(self._young) >= self._turn_at:
                self._turn(now)
            self._young.add(key)

    def _turn(self, now: float) -> None:
        self._old, self._young = self._young, set()
        self._turned = now
