"""Which worker of the process pool gets which waiting task. For the dispatcher thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from cep.engines.pace import Pace
from cep.engines.pool_link import Worker
from cep.model import Outcome, OutcomeKind, Task
from cep.wire.result import TASK_REFUSED
from cep.worker import packets

WINDOW = 2  # tasks in a worker's hands: one that runs, one that waits
# Tiny ones: what a worker does while this thread and the main thread have their turns.
_TINY_WINDOW = 32
_REFILL_AT = _TINY_WINDOW // 2  # with as many left it gets more, so that they travel together
_LONGEST_NAMES = 8 * 1024  # characters of a task's result serializers, all together


def hand_out(pending: deque[Task], workers: Sequence[Worker], pace: Pace) -> None:
    """Give waiting tasks to workers, in order, to the one with the least first.

    Args:
        pending: Tasks that wait; those handed out are removed from its front.
        workers: Those that are up.
        pace: Says which functions are tiny, and how many of a function may travel together.

    Raises:
        OSError: The host has no descriptor or memory left for a large body, or for claims.
    """
    while pending:
        open_to = [one for one in workers if not one.full and one.room != 0]
        if not open_to:
            return
        worker = min(open_to, key=_in_hand)
        held = len(worker.given)
        most = pace.size(pending[0].function_id)
        if held >= (WINDOW if most == 1 else _REFILL_AT):
            return
        share = min(most, -(-len(pending) // len(workers)), _TINY_WINDOW - held)
        if worker.room is not None:
            share = min(share, worker.room)
        tasks = _together(pending, share, pace)
        if worker.send(tasks, most > 1):
            for _task in tasks:
                pending.popleft()


def _in_hand(worker: Worker) -> int:
    return len(worker.given)


def _together(pending: deque[Task], most: int, pace: Pace) -> list[Task]:
    """Return the first waiting task, and those behind it that may travel with it."""
    tasks = [pending[0]]
    size = packets.size(pending[0].body, pending[0].result_serializers)
    for task in islice(pending, 1, most):
        size += packets.size(task.body, task.result_serializers)
        if size > packets.TOGETHER_LIMIT or len(tasks) >= pace.size(task.function_id):
            break
        tasks.append(task)
    return tasks


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
