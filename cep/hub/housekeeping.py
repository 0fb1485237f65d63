"""What the hub forgets, and when: results, tasks, task groups and functions, by age and by size.

Runs on the event loop and asks the store's threads, a few times a day; nothing here is in the way
of a submit or a result. Queries are plain SQLAlchemy Core.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, update

from cep.hub import locks, topology
from cep.hub.chunks import CHUNK, in_chunks
from cep.hub.schema import endpoints, functions, results, submits, task_groups, tasks

if TYPE_CHECKING:
    from cep.hub.options import HubOptions
    from cep.hub.services import Services

log = logging.getLogger(__name__)

PERIOD_S = 6 * 3600.0
DAY_S = 24 * 3600.0
_VACUUM_PAGES = 16384  # given back to the file system at a time: 64 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """How long things are kept; 0 means for ever, or any number of bytes.

    Attributes:
        unread_s: Results that no client has fetched, and all that belongs to them. A result that
            went to a task group's queue counts as unread: who reads that queue is not known.
        fetched_s: Results that a client has had from a REST route.
        results_bytes: All results together.
        functions_s: Functions since their last submit; those that an endpoint's list of allowed
            functions names are kept.
    """

    unread_s: float = 14 * DAY_S
    fetched_s: float = 3 * DAY_S
    results_bytes: int = 10 * 1024**3
    functions_s: float = 180 * DAY_S

    @classmethod
    def of(cls, options: HubOptions) -> Keeping:
        """What the hub was told at its start."""
        return cls(
            unread_s=options.keep_unread_days * DAY_S,
            fetched_s=options.keep_fetched_days * DAY_S,
            results_bytes=options.keep_results_bytes,
            functions_s=options.keep_functions_days * DAY_S,
        )


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What `forget_before` took away."""

    tasks: int
    queues: Sequence[tuple[str, str]]  # owner and id of task groups whose queue may go


async def keep_house(services: Services, keeping: Keeping) -> None:
    """Forget what is too old or too much, now and then, for ever."""
    while True:
        try:
            await forget(services, keeping)
        except Exception:  # housekeeping must not end the hub; it comes again
            log.exception("Housekeeping failed", extra={"event": "hub.housekeeping_failed"})
        await asyncio.sleep(PERIOD_S)


async def forget(services: Services, keeping: Keeping) -> None:
    """Forget once."""
    call, now = services.store.call, services.clock()
    await services.submitter.forget_old()
    await call(note_uses)
    gone = 0
    if keeping.fetched_s:
        gone += await call(forget_fetched, now - keeping.fetched_s)
    if keeping.results_bytes:
        while some := await call(forget_excess, keeping.results_bytes):
            gone += some
    if keeping.unread_s:
        old = await call(forget_before, now - keeping.unread_s)
        gone += old.tasks
        for owner, group in old.queues:
            await services.messaging.declare(topology.group_removal_operations(owner, group))
            services.submitter.forget_queue(group)
    unused = await call(
        forget_functions, now - keeping.functions_s if keeping.functions_s else None
    )
    await call(give_space_back)
    if gone or unused:
        log.info(
            "forgot %d old tasks with their results, and %d functions",
            gone,
            unused,
            extra={"event": "hub.forgotten"},
        )


def mark_fetched(connection: Connection, task_ids: Sequence[str], now: float) -> None:
    """Note that a client had these results; only the first time counts."""
    for chunk in in_chunks(task_ids):
        connection.execute(
            update(results)
            .where(results.c.task_id.in_(chunk), results.c.fetched_at.is_(None))
            .values(fetched_at=now)
        )


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


def forget_fetched(connection: Connection, before: float) -> int:
    """Delete tasks whose result was fetched before that time; return how many."""
    if not locks.my_turn(connection, locks.HOUSEKEEPING):
        return 0
    return _forget_tasks(
        connection,
        connection.execute(
            select(results.c.task_id).where(results.c.fetched_at < before, results.c.relayed)
        ).scalars(),
    )


def forget_excess(connection: Connection, most_bytes: int) -> int:
    """Delete some results while all of them are more than so many bytes; return how many.

    First those that were fetched, then those that a task group's queue holds as well, then the
    others, the oldest of each first. What is still on its way to a queue stays. Of several hubs
    one does it at a time, as with all that is forgotten.
    """
    if not locks.my_turn(connection, locks.HOUSEKEEPING):
        return 0
    size = func.length(results.c.body)
    total = connection.execute(select(func.sum(size))).scalar_one() or 0
    if total <= most_bytes:
        return 0
    rows = connection.execute(
        select(results.c.task_id, size)
        .join(tasks, tasks.c.task_id == results.c.task_id)
        .join(task_groups, task_groups.c.task_group_id == tasks.c.task_group_id)
        .where(results.c.relayed)
        .order_by(
            results.c.fetched_at.is_(None),
            ~task_groups.c.has_queue,
            tasks.c.completed_at,
        )
        .limit(CHUNK)
    ).all()
    ids: list[str] = []
    for task_id, length in rows:
        if total <= most_bytes:
            break
        ids.append(task_id)
        total -= length
    return _forget_tasks(connection, ids)


def note_uses(connection: Connection) -> None:
    """Note when functions were last submitted, while their tasks are still known."""
    last = (
        select(func.max(tasks.c.received_at))
        .where(tasks.c.function_id == functions.c.function_id)
        .scalar_subquery()
    )
    newer = exists().where(
        and_(
            tasks.c.function_id == functions.c.function_id,
            or_(functions.c.used_at.is_(None), tasks.c.received_at > functions.c.used_at),
        )
    )
    connection.execute(update(functions).where(newer).values(used_at=last))


def forget_functions(connection: Connection, before: float | None) -> int:
    """Delete deleted functions, and those not used since that time; return how many.

    What an endpoint allows by name stays, and so does what a task waits for.
    """
    if not locks.my_turn(connection, locks.HOUSEKEEPING):
        return 0
    old: ColumnElement[bool] = functions.c.deleted.is_(True)
    if before is not None:
        last = func.coalesce(functions.c.used_at, functions.c.created_at)
        old = or_(old, and_(last < before, functions.c.created_at < before))
    found = set(connection.execute(select(functions.c.function_id).where(old)).scalars())
    if found:
        found -= _allowed_functions(connection)
        found -= set(connection.execute(select(tasks.c.function_id).distinct()).scalars())
    for chunk in in_chunks(sorted(found)):
        connection.execute(delete(functions).where(functions.c.function_id.in_(chunk)))
    return len(found)


def give_space_back(connection: Connection) -> None:
    """Let a SQLite file become smaller; a database server does this by itself."""
    if connection.dialect.name == "sqlite":
        # Each page is one step of the statement, and Python 3.11 takes only the first step of one
        # without columns, unless it is a script.
        raw: Any = connection.connection.driver_connection
        raw.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")


def _allowed_functions(connection: Connection) -> set[str]:
    lists = connection.execute(
        select(endpoints.c.allowed_functions).where(
            ~endpoints.c.deleted, endpoints.c.allowed_functions.is_not(None)
        )
    ).scalars()
    return {function for text in lists for function in json.loads(text)}


def _forget_tasks(connection: Connection, task_ids: Iterator[str] | Sequence[str]) -> int:
    """Delete tasks with their results; submits and groups with nothing left go by their age."""
    ids = list(task_ids)
    for chunk in in_chunks(ids):
        connection.execute(delete(results).where(results.c.task_id.in_(chunk)))
        connection.execute(delete(tasks).where(tasks.c.task_id.in_(chunk)))
    return len(ids)
