"""How many blocks are missing or too many now, and since when no task needs one.

Arithmetic without effects, owned by the block thread (`cep.engines.scaler`); only `tell` is called
by other threads.
"""

from __future__ import annotations

from cep.engines.blocks import ScalingRules


class BlockDemand:
    """See the module's docstring.

    Args:
        rules: How many blocks when.
        expected_workers_per_node: Until the first node has come.

    Attributes:
        rules: Those that hold now.
        idle_since: Clock value since which there is no task, None while there is one.
    """

    def __init__(self, rules: ScalingRules, expected_workers_per_node: int) -> None:
        self.rules = rules
        self.idle_since: float | None = None
        self._workers_per_node = max(1, expected_workers_per_node)
        self._initial = rules.init_blocks
        self._tasks = 0
        self._told: tuple[bool, int] = (False, 0)

    def tell(self, tasks: int) -> bool:
        """Take the number of unfinished tasks; True when that changes what is wanted."""
        self._tasks = tasks
        told = (tasks > 0, self.rules.wanted(tasks, self._workers_per_node))
        changed, self._told = told != self._told, told
        return changed

    def note_workers(self, workers: int) -> None:
        """A node has come with so many workers; the others are expected to have as many."""
        self._workers_per_node = max(1, workers)

    def note_time(self, now: float) -> None:
        """See whether idle time begins or ends."""
        if self._tasks > 0:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now

    def missing(self, active: int) -> int:
        """How many blocks more than these there should be; not above zero when enough."""
        wanted = self.rules.wanted(self._tasks, self._workers_per_node)
        if self._initial:
            wanted = min(max(wanted, self._initial), self.rules.max_blocks)
        return wanted - active

    def forget_initial(self) -> None:
        """The first blocks were asked for; from now on only tasks count."""
        self._initial = 0

    def excess(self, active: int) -> int:
        """How many of these blocks may go once they have been idle for long enough."""
        if self.rules.strategy == "none" or self._tasks > 0:
            return 0
        return active - self.rules.min_blocks

    def idle_at(self) -> float | None:
        """Clock value at which idle blocks are given back, None while there are tasks."""
        return None if self.idle_since is None else self.idle_since + self.rules.max_idle_s
