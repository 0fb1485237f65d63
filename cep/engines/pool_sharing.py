"""Which worker of the process pool gets which waiting task. For the dispatcher thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from cep.engines.pace import Pace
from cep.engines.pool_link import Worker
from cep.model import Outcome, OutcomeKind, Task
from cep.wire.result import TASK_REFUSED

WINDOW = 2  # tasks in a worker's hands: one that runs, one that waits
# Tiny ones: what a worker does while this thread and the main thread have their turns. A socket may
# refuse more than some ten that are not read (net.unix.max_dgram_qlen); the rest follows then.
_TINY_WINDOW = 32
_LONGEST_NAMES = 8 * 1024  # characters of a task's result serializers, all together


def hand_out(pending: deque[Task], workers: Sequence[Worker], pace: Pace) -> None:
    """Give waiting tasks to workers, in order, to those with the least first.

    Args:
        pending: Tasks that wait; those handed out are removed from its front.
        workers: Those that are up.
        pace: Says which functions are tiny.

    Raises:
        OSError: The host has no descriptor or memory left for a large body.
    """
    for level in range(_TINY_WINDOW):
        for worker in workers:
            if not pending:
                return
            if len(worker.given) > level or worker.full or worker.room == 0:
                continue
            task = pending[0]
            tiny = pace.size(task.function_id) > 1
            if level >= WINDOW and not tiny:
                return
            if worker.send(task, tiny):
                pending.popleft()


def take_for_idle(workers: Sequence[Worker]) -> list[Task]:
    """Take back what waits behind running tasks, as much as there are workers with nothing to do.

    Args:
        workers: Those that are up.

    Returns:
        Tasks to hand out again, in order.
    """
    idle = sum(not worker.given and worker.room != 0 for worker in workers)
    taken: list[Task] = []
    if not idle:
        return taken
    for worker in sorted(workers, key=lambda one: len(one.given), reverse=True):
        if len(worker.given) < 2 or len(taken) >= idle:
            break
        taken += worker.take_back(min(idle - len(taken), len(worker.given) - 1))
    return taken


def refuse_long_names(task: Task) -> Outcome | None:
    """Refuse a task whose list of serializers would not fit into a packet."""
    names = task.result_serializers
    length = sum(len(one) + 1 for one in names) if names else 0
    if length <= _LONGEST_NAMES:
        return None
    return Outcome(
        task.seq,
        OutcomeKind.REFUSED,
        code=TASK_REFUSED,
        reason=(
            f"The task names result serializers of {length} characters in total; at most "
            f"{_LONGEST_NAMES} are taken."
        ),
    )
