"""Queries on submits without an answer, of which several hubs on one database must know.

Each function takes an open connection first and runs inside one transaction. PostgreSQL only: a
hub that is alone has all this in memory (`submit`).
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, or_, select, update

from cep.hub.ledger import STORED_SUBMIT, StoredSubmit
from cep.hub.locks import hub_is_alive
from cep.hub.schema import open_submits, submits


def open_submit(
    connection: Connection, submit_id: int, *, client_id: str, digest: str, hub: int
) -> None:
    """Note that this hub works on a submit."""
    connection.execute(
        insert(open_submits).values(
            submit_id=submit_id, client_id=client_id, digest=digest, hub=hub, orphaned=False
        )
    )


def orphan(connection: Connection, submit_id: int, hub: int) -> None:
    """Note that the client of this hub's submit is gone: any hub may take it over."""
    connection.execute(
        update(open_submits)
        .where(open_submits.c.submit_id == submit_id, open_submits.c.hub == hub)
        .values(orphaned=True)
    )


def close(connection: Connection, submit_id: int) -> None:
    """Forget a submit: its client has its answer."""
    connection.execute(delete(open_submits).where(open_submits.c.submit_id == submit_id))


def forget_before(connection: Connection, before: float) -> None:
    """Forget submits made before that time; nobody repeats them any more."""
    young = select(submits.c.submit_id).where(submits.c.created_at >= before)
    connection.execute(delete(open_submits).where(open_submits.c.submit_id.not_in(young)))


def keep(connection: Connection, submit_id: int, hub: int) -> bool:
    """Take this hub's own orphaned submit up again; False when another hub was faster."""
    done = connection.execute(
        update(open_submits)
        .where(open_submits.c.submit_id == submit_id, open_submits.c.hub == hub)
        .values(orphaned=False)
    )
    return done.rowcount == 1


def take_over(
    connection: Connection, *, client_id: str, digest: str, since: float, hub: int
) -> StoredSubmit | None:
    """Take over the oldest equal submit whose client is gone or whose hub is dead.

    The row is locked, so that of two hubs that are asked at once one gets it.
    """
    row = connection.execute(
        select(*STORED_SUBMIT)
        .join(open_submits, open_submits.c.submit_id == submits.c.submit_id)
        .where(
            open_submits.c.client_id == client_id,
            open_submits.c.digest == digest,
            open_submits.c.hub != hub,
            submits.c.created_at >= since,
            or_(open_submits.c.orphaned, ~hub_is_alive(open_submits.c.hub)),
        )
        .order_by(submits.c.submit_id)
        .limit(1)
        .with_for_update(of=open_submits, skip_locked=True)
    ).first()
    if row is None:
        return None
    connection.execute(
        update(open_submits)
        .where(open_submits.c.submit_id == row.submit_id)
        .values(hub=hub, orphaned=False)
    )
    return StoredSubmit(*row)
