"""Queries on submits, task groups and tasks; those on results are in `cep.hub.settlement`.

Each function takes an open connection first and runs inside one transaction of a store's thread.
Where other hubs may work on the same rows (PostgreSQL), they are locked first: a statement after
the lock sees what the other one did. What goes by its age is in `cep.hub.housekeeping`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from cep.errors import UsageError
from cep.hub import locks
from cep.hub.chunks import in_chunks
from cep.hub.schema import WAITING, results, submits, task_groups, tasks
from cep.hub.upsert import insert_new


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task about to be stored."""

    task_id: str
    function_id: str


@dataclass(frozen=True, slots=True)
class NewSubmit:
    """A submit about to be stored."""

    client_id: str
    endpoint_id: str
    task_group_id: str
    digest: str
    create_queue: bool
    tasks: Sequence[NewTask]
    now: float


@dataclass(frozen=True, slots=True)
class StoredSubmit:
    """A submit whose client has no answer, as found at start or for a retry."""

    submit_id: int
    client_id: str
    endpoint_id: str
    task_group_id: str
    digest: str
    created_at: float


#: The columns of a `StoredSubmit`, in its order.
STORED_SUBMIT = (
    submits.c.submit_id,
    submits.c.client_id,
    submits.c.endpoint_id,
    submits.c.task_group_id,
    submits.c.digest,
    submits.c.created_at,
)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task and, when it has ended, its result message."""

    task_id: str
    function_id: str
    endpoint_id: str
    task_group_id: str
    owner: str
    state: str
    received_at: float
    completed_at: float | None
    body: bytes | None


def group_owner(connection: Connection, task_group_id: str) -> str | None:
    """Return the client that made the task group, or None when there is none."""
    return connection.execute(
        select(task_groups.c.owner).where(task_groups.c.task_group_id == task_group_id)
    ).scalar_one_or_none()


def add_submit(connection: Connection, new: NewSubmit) -> int:
    """Store a submit with its tasks and its task group; return the submit's number.

    Raises:
        UsageError: The task group belongs to another client.
    """
    _join_group(connection, new)
    key = connection.execute(
        insert(submits).values(
            client_id=new.client_id,
            endpoint_id=new.endpoint_id,
            task_group_id=new.task_group_id,
            digest=new.digest,
            sent=False,
            answered=False,
            created_at=new.now,
        )
    ).inserted_primary_key
    assert key is not None
    submit_id = int(key[0])
    connection.execute(
        insert(tasks),
        [
            {
                "task_id": task.task_id,
                "submit_id": submit_id,
                "position": position,
                "function_id": task.function_id,
                "endpoint_id": new.endpoint_id,
                "task_group_id": new.task_group_id,
                "state": WAITING,
                "received_at": new.now,
            }
            for position, task in enumerate(new.tasks)
        ],
    )
    return submit_id


def _join_group(connection: Connection, new: NewSubmit) -> None:
    """Make the submit's task group, or see that the client may use it."""
    # Housekeeping takes empty groups away; it must see this one as used, or be over.
    locks.hold(connection, locks.GROUPS, exclusively=False)
    made = insert_new(
        connection,
        task_groups,
        {
            "task_group_id": new.task_group_id,
            "owner": new.client_id,
            "has_queue": new.create_queue,
            "created_at": new.now,
        },
    )
    if not made:
        owner, has_queue = connection.execute(
            select(task_groups.c.owner, task_groups.c.has_queue).where(
                task_groups.c.task_group_id == new.task_group_id
            )
        ).one()
        if owner != new.client_id:
            raise UsageError(f"The task group {new.task_group_id} belongs to somebody else.")
        if new.create_queue and not has_queue:
            mark_queue(connection, new.task_group_id)


def mark_queue(connection: Connection, task_group_id: str) -> None:
    """Note that the task group has a result queue."""
    connection.execute(
        update(task_groups)
        .where(task_groups.c.task_group_id == task_group_id)
        .values(has_queue=True)
    )


def mark_sent(connection: Connection, submit_id: int) -> None:
    """Note that the broker has every task of the submit."""
    connection.execute(update(submits).where(submits.c.submit_id == submit_id).values(sent=True))


def mark_answered(connection: Connection, submit_id: int) -> None:
    """Note that the client has its answer: the same body again is another submit."""
    connection.execute(
        update(submits).where(submits.c.submit_id == submit_id).values(answered=True)
    )


def unanswered_submits(connection: Connection, since: float) -> list[StoredSubmit]:
    """Return submits made after `since` whose client got no answer, oldest first."""
    rows = connection.execute(
        select(*STORED_SUBMIT)
        .where(~submits.c.answered, submits.c.created_at >= since)
        .order_by(submits.c.submit_id)
    )
    return [StoredSubmit(*row) for row in rows]


def submit_task_ids(connection: Connection, submit_id: int) -> list[str]:
    """Return the ids of a submit's tasks in the order of its payloads."""
    return list(
        connection.execute(
            select(tasks.c.task_id).where(tasks.c.submit_id == submit_id).order_by(tasks.c.position)
        ).scalars()
    )


def waiting_tasks(connection: Connection, endpoint_id: str) -> list[str]:
    """Return the ids of the endpoint's tasks that have no result."""
    return list(
        connection.execute(
            select(tasks.c.task_id).where(
                tasks.c.endpoint_id == endpoint_id, tasks.c.state == WAITING
            )
        ).scalars()
    )


def find_tasks(connection: Connection, task_ids: Sequence[str], owner: str) -> list[TaskRow]:
    """Return those of the tasks that exist and belong to the client, with their results."""
    found: list[TaskRow] = []
    for chunk in in_chunks(task_ids):
        rows = connection.execute(
            select(
                tasks.c.task_id,
                tasks.c.function_id,
                tasks.c.endpoint_id,
                tasks.c.task_group_id,
                task_groups.c.owner,
                tasks.c.state,
                tasks.c.received_at,
                tasks.c.completed_at,
                results.c.body,
            )
            .join(task_groups, task_groups.c.task_group_id == tasks.c.task_group_id)
            .outerjoin(results, results.c.task_id == tasks.c.task_id)
            .where(tasks.c.task_id.in_(chunk), task_groups.c.owner == owner)
        )
        found.extend(TaskRow(*row) for row in rows)
    return found


def group_tasks(connection: Connection, task_group_id: str) -> list[str]:
    """Return the ids of the group's tasks that were submitted in full, in order."""
    return list(
        connection.execute(
            select(tasks.c.task_id)
            .join(submits, submits.c.submit_id == tasks.c.submit_id)
            .where(tasks.c.task_group_id == task_group_id, submits.c.sent)
            .order_by(tasks.c.submit_id, tasks.c.position)
        ).scalars()
    )
