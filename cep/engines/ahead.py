"""Short tasks that are sent to a manager before one of its workers is free.

Between two tasks of a worker, its answer travels to the interchange and the next task back: 1.3 ms
in which the worker has nothing to do. A task that waits in the manager begins without that way.
It is sent ahead only where it cannot be worse off there than in the interchange:

* one manager is connected: no other could begin it sooner;
* the agent marked it (`SHORT`): its function has proved short, it has no priority, and workers
  note what they begin, so that it is known not to have begun when the manager dies;
* once another manager comes, this one drains, or a task is cancelled or comes with a priority,
  the manager hands back what it has not begun (`GIVE_BACK`);
* the manager begins it within `KEPT_S` or hands it back: one that was stopped for longer may have
  been taken for lost, and its tasks be running elsewhere.

What is handed back has not begun and costs no attempt. The forms of the messages, used by the
agent, the interchange and the pool; standard library only, and no state.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Mapping
from typing import Any

#: In a task's context: it may be sent ahead.
SHORT = "cep_short"
#: In a manager's registration: so many tasks it takes ahead. A manager of Parsl's does not say it.
TAKES = "cep_ahead"
#: In an answer: the task was handed back.
NOT_BEGUN = "cep_not_begun"
#: Much longer than short tasks take, much shorter than a manager's silence until it is lost.
KEPT_S = 10.0

_BEGIN_BY = "cep_begin_by"  # in a task; the clock of this host, which all who read it share
_GIVE_BACK = "cep_give_back"
#: Message to a manager, in the form of its tasks.
GIVE_BACK = pickle.dumps([{"task_id": 0, _GIVE_BACK: True}])


def takes(workers: int) -> int:
    """How many tasks a manager takes ahead: few workers are free within the same millisecond."""
    return max(1, workers // 4)


def sent_ahead(task: Mapping[str, Any]) -> dict[str, Any]:
    """The task as it is sent ahead now."""
    return {**task, _BEGIN_BY: time.monotonic() + KEPT_S}


def is_ahead(task: Mapping[str, Any]) -> bool:
    """Whether a task that a manager has was sent ahead."""
    return _BEGIN_BY in task


def is_late(task: Mapping[str, Any]) -> bool:
    """Whether a task waited for so long that it must not begin."""
    return _BEGIN_BY in task and time.monotonic() > float(task[_BEGIN_BY])


def asks_back(task: Mapping[str, Any]) -> bool:
    """Whether this is no task, but the request to give back."""
    return _GIVE_BACK in task


def handed_back(task: Mapping[str, Any]) -> bytes:
    """The answer to a task that has not begun and will not begin here."""
    return pickle.dumps({"type": "result", "task_id": task["task_id"], NOT_BEGUN: True})
