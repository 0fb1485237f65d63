"""Which tasks travel to a worker together: batches cut from the front of a line.

Tiny tasks cost more to carry than to run (`cep.engines.pace` learns which those are). Plain data
without threads: the session calls it under its lock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable

from cep.engines.pace import Pace
from cep.model import Task

LARGEST_BODY = 64 * 1024  # bytes of a task message that may travel with others
_REMEMBERED = 128  # functions of the tasks that came last


class Coalescer:
    """Learns from run times and cuts batches.

    Args:
        enabled: False: every task travels alone.
    """

    def __init__(self, enabled: bool) -> None:
        self._pace = Pace(enabled)
        self._recent: deque[str] = deque(maxlen=_REMEMBERED)

    def ran(self, function_id: str, run_time_s: float) -> None:
        """Learn how long a task of a function took."""
        self._pace.ran(function_id, run_time_s)

    def came(self, tasks: Iterable[Task]) -> None:
        """Remember which functions are asked for at the moment."""
        self._recent.extend(task.function_id for task in tasks)

    def size_now(self) -> int:
        """How many tasks a message may hold, for all functions that are asked for now."""
        if not self._recent:
            return 1
        return min(self._pace.size(function_id) for function_id in set(self._recent))

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

    def short(self, tasks: Iterable[Task]) -> bool:
        """Whether all of these have functions that proved short."""
        return all(self._pace.short(function_id) for function_id in {t.function_id for t in tasks})

    def _fit(self, task: Task) -> int:
        if task.resource_specification is not None or len(task.body) > LARGEST_BODY:
            return 1
        return self._pace.size(task.function_id)
