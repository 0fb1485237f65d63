"""Queries on results: each is stored once, and relayed to its task group's queue.

As in `cep.hub.ledger`, each function takes an open connection first and runs inside one
transaction of a store's thread, and rows that other hubs may work on are locked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, insert, select, update

from cep.hub import locks
from cep.hub.chunks import in_chunks
from cep.hub.schema import FAILED, SUCCESS, results, task_groups, tasks


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


def results_of_submit(connection: Connection, submit_id: int) -> list[RelayDue]:
    """Return the stored results of a submit whose group has a queue, to be relayed once more."""
    return _stored_results(connection, tasks.c.submit_id == submit_id, task_groups.c.has_queue)


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
    for chunk in in_chunks(sorted(again)):
        due += _stored_results(connection, tasks.c.task_id.in_(chunk))
    if stored:
        with_queue = {one.task_id for one in due}
        _insert_results(connection, list(stored.values()), with_queue, now)
    return Settled(due, repeats, unknown)


def _lock_tasks(connection: Connection, ids: set[str]) -> None:
    """Keep other hubs from settling these tasks; in one order, so that nobody waits in a circle."""
    if not locks.is_shared(connection):
        return
    for chunk in in_chunks(sorted(ids)):
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
    for chunk in in_chunks(ids):
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


def _stored_results(connection: Connection, *which: ColumnElement[bool]) -> list[RelayDue]:
    rows = connection.execute(
        select(tasks.c.task_id, tasks.c.task_group_id, task_groups.c.owner, results.c.body)
        .join(results, results.c.task_id == tasks.c.task_id)
        .join(task_groups, task_groups.c.task_group_id == tasks.c.task_group_id)
        .where(*which)
    )
    return [RelayDue(*row) for row in rows]


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
        for chunk in in_chunks(ids):
            connection.execute(
                update(tasks)
                .where(tasks.c.task_id.in_(chunk))
                .values(state=state, completed_at=now)
            )


def mark_relayed(connection: Connection, task_ids: Sequence[str]) -> None:
    """Note that the task groups' queues have these results."""
    for chunk in in_chunks(task_ids):
        connection.execute(update(results).where(results.c.task_id.in_(chunk)).values(relayed=True))
