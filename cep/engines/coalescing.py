"""Which tasks may travel to a worker together: measured run times, and batches cut from a line.

Tiny tasks cost more to carry than to run. A function counts as tiny when it has run often enough
and never slowly; a batch holds as many tasks as fill the worker's budget. Plain data without
threads: the session calls it under its lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from cep.engines.htex_task import BATCH_BUDGET_S
from cep.model import Task

RUNS_TO_TRUST = 20
SLOWEST_TINY_S = 0.005
LARGEST_BATCH = 64
LARGEST_BODY = 64 * 1024  # bytes of a task message that may travel with others
_SHORTEST_S = BATCH_BUDGET_S / LARGEST_BATCH
_REMEMBERED = 128  # functions of the tasks that came last
_WEIGHT = 0.1  # of the newest run in the moving mean


@dataclass(slots=True)
class _Times:
    runs: int = 0
    mean_s: float = 0.0


class Coalescer:
    """Learns from run times and cuts batches.

    Args:
        enabled: False: every task travels alone.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._times: dict[str, _Times] = {}
        self._recent: deque[str] = deque(maxlen=_REMEMBERED)

    def ran(self, function_id: str, run_time_s: float) -> None:
        """Learn how long a task of a function took; a slow run makes it unknown again."""
        if not self._enabled:
            return
        times = self._times.setdefault(function_id, _Times())
        if run_time_s >= SLOWEST_TINY_S:
            times.runs = 0
            times.mean_s = 0.0
            return
        times.runs += 1
        weight = max(_WEIGHT, 1 / times.runs)
        times.mean_s += weight * (run_time_s - times.mean_s)

    def came(self, tasks: Iterable[Task]) -> None:
        """Remember which functions are asked for at the moment."""
        if self._enabled:
            self._recent.extend(task.function_id for task in tasks)

    def size_now(self) -> int:
        """How many tasks a message may hold, for all functions that are asked for now."""
        if not self._recent:
            return 1
        return min(self._size(function_id) for function_id in set(self._recent))

    def _size(self, function_id: str) -> int:
        times = self._times.get(function_id)
        if times is None or times.runs < RUNS_TO_TRUST:
            return 1
        return max(1, math.floor(BATCH_BUDGET_S / max(times.mean_s, _SHORTEST_S)))

    def cut(self, line: deque[Task], messages: int) -> list[Task]:
        """Take the tasks of the next message from the front of the line.

        Args:
            line: Waiting tasks, not empty.
            messages: How many more messages could be sent now; the line is shared among them.
        """
        batch = [line.popleft()]
        share = math.ceil((len(line) + 1) / max(1, messages))
        room = min(share, self._fit(batch[0]))
        while line and len(batch) < min(room, self._fit(line[0])):
            batch.append(line.popleft())
        return batch

    def _fit(self, task: Task) -> int:
        if task.resource_specification is not None or len(task.body) > LARGEST_BODY:
            return 1
        return self._size(task.function_id)
