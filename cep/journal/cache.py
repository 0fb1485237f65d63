"""Bodies kept in memory between their commit and their first use, within a bound.

The oldest are used first, so when the memory is full it is the new ones that stay on disk only.
Runs on the agent's main thread.
"""

from __future__ import annotations

from typing import Generic, TypeVar

CACHE_BYTES = 64 * 1024 * 1024


class Budget:
    """Bytes that several caches share."""

    def __init__(self, limit_bytes: int) -> None:
        self.left = limit_bytes


Item = TypeVar("Item")


class BodyCache(Generic[Item]):
    """Things by sequence number, each counted with its size against a shared budget."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._items: dict[int, tuple[Item, int]] = {}

    def put(self, seq: int, item: Item, size: int) -> None:
        """Keep one, if there is room."""
        if size <= self._budget.left:
            self._budget.left -= size
            self._items[seq] = (item, size)

    def take(self, seq: int) -> Item | None:
        """Return one and forget it."""
        found = self._items.pop(seq, None)
        if found is None:
            return None
        self._budget.left += found[1]
        return found[0]
