"""Queries on submits, task groups, tasks and results.

Each function takes an open connection first and runs inside one transaction of a store's thread.
Where other hubs may work on the same rows (PostgreSQL), they are locked first: a statement after
the lock sees what the other one did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from cep.errors import UsageError
from cep.hub import locks
from cep.hub.schema import FAILED, SUCCESS, WAITING, results, submits, task_groups, tasks
from cep.hub.upsert import insert_new

_CHUNK = 500  # values in one IN list; SQLite's own bound is far above


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


@dataclass(frozen=True, slots=True)
class ArrivedResult:
    """A result message from an endpoint, opened just far enough."""

    task_id: str
    endpoint_id: str
    is_error: bool
    body: bytes


@dataclass(frozen=True, slots=True)
class RelayDue:
    """A stored result that its task group's queue must get."""

    task_id: str
    task_group_id: str
    owner: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch of arrived results.

    Attributes:
        due: Results to be relayed now.
        repeats: How many were known and relayed already.
        unknown: Ids of tasks that do not exist or belong to another endpoint.
    """

    due: Sequence[RelayDue]
    repeats: int
    unknown: Sequence[str]


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
        select(
            submits.c.submit_id,
            submits.c.client_id,
            submits.c.endpoint_id,
            submits.c.task_group_id,
            submits.c.digest,
            submits.c.created_at,
        )
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


def results_of_submit(connection: Connection, submit_id: int) -> list[RelayDue]:
    """Return the stored results of a submit whose group has a queue, to be relayed once more."""
    rows = connection.execute(
        select(tasks.c.task_id, tasks.c.task_group_id, task_groups.c.owner, results.c.body)
        .join(results, results.c.task_id == tasks.c.task_id)
        .join(task_groups, task_groups.c.task_group_id == tasks.c.task_group_id)
        .where(tasks.c.submit_id == submit_id, task_groups.c.has_queue)
    )
    return [RelayDue(*row) for row in rows]


def settle_results(connection: Connection, arrived: Sequence[ArrivedResult], now: float) -> Settled:
    """Store each result once, and say which must be relayed.

    A result whose task has one already is a repeat: the first stays, and it is relayed again only
    when nobody has seen it reach the task group's queue.
    """
    _lock_tasks(connection, {one.task_id for one in arrived})
    known = {
        row.task_id: row for row in _tasks_for_results(connection, [one.task_id for one in arrived])
    }
    due: list[RelayDue] = []
    unknown: list[str] = []
    stored: dict[str, ArrivedResult] = {}
    again: set[str] = set()
    repeats = 0
    for one in arrived:
        row = known.get(one.task_id)
        if row is None or row.endpoint_id != one.endpoint_id:
            unknown.append(one.task_id)
        elif row.relayed is None and one.task_id not in stored:
            stored[one.task_id] = one
            if row.has_queue:
                due.append(RelayDue(one.task_id, row.task_group_id, row.owner, one.body))
        elif row.relayed is False and one.task_id not in again:
            again.add(one.task_id)
        else:
            repeats += 1
    if again:
        due.extend(_stored_results(connection, sorted(again)))
    if stored:
        with_queue = {one.task_id for one in due}
        _insert_results(connection, list(stored.values()), with_queue, now)
    return Settled(due, repeats, unknown)


def _lock_tasks(connection: Connection, ids: set[str]) -> None:
    """Keep other hubs from settling these tasks; in one order, so that nobody waits in a circle."""
    if not locks.is_shared(connection):
        return
    for chunk in _chunks(sorted(ids)):
        connection.execute(
            select(tasks.c.task_id)
            .where(tasks.c.task_id.in_(chunk))
            .order_by(tasks.c.task_id)
            .with_for_update()
        )


@dataclass(frozen=True, slots=True)
class _ResultTarget:
    task_id: str
    endpoint_id: str
    task_group_id: str
    owner: str
    has_queue: bool
    relayed: bool | None  # None: no result yet


def _tasks_for_results(connection: Connection, ids: Sequence[str]) -> Iterator[_ResultTarget]:
    for chunk in _chunks(ids):
        rows = connection.execute(
            select(
                tasks.c.task_id,
                tasks.c.endpoint_id,
                tasks.c.task_group_id,
                task_groups.c.owner,
                task_groups.c.has_queue,
                results.c.relayed,
            )
            .join(task_groups, task_groups.c.task_group_id == tasks.c.task_group_id)
            .outerjoin(results, results.c.task_id == tasks.c.task_id)
            .where(tasks.c.task_id.in_(chunk))
        )
        for row in rows:
            yield _ResultTarget(*row)


def _stored_results(connection: Connection, ids: Sequence[str]) -> Iterator[RelayDue]:
    for chunk in _chunks(ids):
        rows = connection.execute(
            select(tasks.c.task_id, tasks.c.task_group_id, task_groups.c.owner, results.c.body)
            .join(results, results.c.task_id == tasks.c.task_id)
            .join(task_groups, task_groups.c.task_group_id == tasks.c.task_group_id)
            .where(tasks.c.task_id.in_(chunk))
        )
        for row in rows:
            yield RelayDue(*row)


def _insert_results(
    connection: Connection, arrived: Sequence[ArrivedResult], with_queue: set[str], now: float
) -> None:
    connection.execute(
        insert(results),
        [
            {"task_id": one.task_id, "body": one.body, "relayed": one.task_id not in with_queue}
            for one in arrived
        ],
    )
    for state, failed in ((SUCCESS, False), (FAILED, True)):
        ids = [one.task_id for one in arrived if one.is_error is failed]
        for chunk in _chunks(ids):
            connection.execute(
                update(tasks)
                .where(tasks.c.task_id.in_(chunk))
                .values(state=state, completed_at=now)
            )


def mark_relayed(connection: Connection, task_ids: Sequence[str]) -> None:
    """Note that the task groups' queues have these results."""
    for chunk in _chunks(task_ids):
        connection.execute(update(results).where(results.c.task_id.in_(chunk)).values(relayed=True))


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
    for chunk in _chunks(task_ids):
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


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What `forget_before` took away."""

    tasks: int
    queues: Sequence[tuple[str, str]]  # owner and id of task groups whose queue may go


def forget_before(connection: Connection, before: float) -> Forgotten:
    """Delete tasks that ended before that time, their results, and groups with nothing left.

    A group goes when it is older than that time itself and has no task. Of several hubs one does
    it at a time; the others have nothing to do.
    """
    if not locks.my_turn(connection, locks.HOUSEKEEPING):
        return Forgotten(0, ())
    old = select(tasks.c.task_id).where(tasks.c.completed_at < before)
    connection.execute(delete(results).where(results.c.task_id.in_(old)))
    gone = connection.execute(delete(tasks).where(tasks.c.completed_at < before)).rowcount
    connection.execute(
        delete(submits).where(
            submits.c.created_at < before,
            submits.c.submit_id.not_in(select(tasks.c.submit_id)),
        )
    )
    # From here on nobody begins to use a group; what somebody just began to use is seen.
    locks.hold(connection, locks.GROUPS, exclusively=True)
    idle = (
        task_groups.c.created_at < before,
        task_groups.c.task_group_id.not_in(select(tasks.c.task_group_id)),
    )
    queues = [
        (row[0], row[1])
        for row in connection.execute(
            select(task_groups.c.owner, task_groups.c.task_group_id).where(
                *idle, task_groups.c.has_queue
            )
        )
    ]
    connection.execute(delete(task_groups).where(*idle))
    return Forgotten(gone, queues)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]
