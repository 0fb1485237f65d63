"""When to stop for want of work: `idle_heartbeats_soft` and `idle_heartbeats_hard`."""

from __future__ import annotations


class IdleWatch:
    """Counts heartbeats without movement, as the published endpoint does.

    The soft limit counts beats with nothing to do, once a task has ever come. The hard limit
    counts beats without movement whatever is open, and holds only when there is a soft one.

    Args:
        soft: Heartbeats; 0 means never.
        hard: Heartbeats.
    """

    def __init__(self, soft: int, hard: int) -> None:
        self._soft = soft
        self._hard = hard
        self._beats = 0
        self._seen = 0

    def change(self, soft: int, hard: int) -> None:
        """Other limits, for what was counted already too."""
        self._soft = soft
        self._hard = hard

    def beat(self, movement: int, *, idle: bool) -> bool:
        """One heartbeat.

        Args:
            movement: A number that grows with every task received and every result made.
            idle: Nothing is waiting, running or unsent.

        Returns:
            Whether it is time to stop.
        """
        if movement != self._seen:
            self._seen = movement
            self._beats = 0
            return False
        self._beats += 1
        if self._soft <= 0:
            return False
        long_idle = idle and movement > 0 and self._beats >= self._soft
        return long_idle or self._beats >= self._hard
