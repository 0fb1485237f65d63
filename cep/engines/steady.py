"""A clock for Parsl's processes that nobody can set.

Parsl's interchange and managers measure each other's silence by the time of day. When that is set
forward (by a time service at boot, after a suspend, by hand), every manager seems to have been
silent for hours, and its tasks are given up; when it is set back, no heartbeat is sent until the
old moment comes again. Owns no state beside the moment it was made; any thread may ask.
"""

from __future__ import annotations

import time
from typing import Any


class SteadyTime:
    """Stands for the module `time` in a module of Parsl: `time()` starts right and only runs on."""

    def __init__(self) -> None:
        self._began = time.time() - time.monotonic()

    def time(self) -> float:
        """Return seconds since 1970, as if nobody had set the clock since this was made."""
        return self._began + time.monotonic()

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
