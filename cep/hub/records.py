"""Queries on clients, tokens, endpoints and functions.

Each function takes an open connection first and runs inside one transaction of a store's thread.
A change of a client or an endpoint sets the columns that it is about and returns the row as it is
then, since other hubs may change other columns of it at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from cep.errors import UsageError
from cep.hub.schema import clients, endpoints, functions, tokens
from cep.hub.upsert import insert_new


@dataclass(frozen=True, slots=True)
class Client:
    """An account of the hub: somebody who runs endpoints or submits functions."""

    client_id: str
    name: str
    secret_digest: str
    generation: int
    disabled: bool
    created_at: float


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A registered endpoint, as the store knows it."""

    endpoint_id: str
    owner: str
    name: str
    display_name: str | None
    public: bool
    allowed_functions: tuple[str, ...] | None
    registration: dict[str, Any]
    amqp_digest: str
    registered_at: float
    locked_until: float
    deleted: bool
    report_at: float | None
    online_until: float
    report: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Function:
    """A registered function."""

    function_id: str
    owner: str
    name: str
    packed: str
    code: str
    description: str | None
    metadata: Any
    public: bool
    created_at: float


def all_clients(connection: Connection) -> list[Client]:
    """Every client, oldest first."""
    rows = connection.execute(select(clients).order_by(clients.c.created_at))
    return [Client(**row._mapping) for row in rows]


def find_client(connection: Connection, client_id: str) -> Client | None:
    """Return the client of that id, or None."""
    row = connection.execute(select(clients).where(clients.c.client_id == client_id)).first()
    return None if row is None else Client(**row._mapping)


def find_client_named(connection: Connection, name: str) -> Client | None:
    """Return the client of that name, or None."""
    row = connection.execute(select(clients).where(clients.c.name == name)).first()
    return None if row is None else Client(**row._mapping)


def count_clients(connection: Connection) -> int:
    """How many clients there are."""
    return connection.execute(select(func.count()).select_from(clients)).scalar_one()


def add_client(connection: Connection, client: Client) -> None:
    """Add a client.

    Raises:
        UsageError: There is one with this name.
    """
    try:
        connection.execute(
            insert(clients).values(
                client_id=client.client_id,
                name=client.name,
                secret_digest=client.secret_digest,
                generation=client.generation,
                disabled=client.disabled,
                created_at=client.created_at,
            )
        )
    except IntegrityError as exc:
        raise UsageError(
            f"The hub has a client named {client.name!r} already.",
            hint="Choose another name, or rotate that client's secret.",
        ) from exc


def change_client(
    connection: Connection,
    client_id: str,
    *,
    secret_digest: str | None = None,
    disabled: bool | None = None,
    new_generation: bool = False,
) -> Client | None:
    """Change what is given, and forget the client's tokens; None when there is no such client."""
    values: dict[str, Any] = {}
    if secret_digest is not None:
        values["secret_digest"] = secret_digest
    if disabled is not None:
        values["disabled"] = disabled
    if new_generation:
        values["generation"] = clients.c.generation + 1
    connection.execute(update(clients).where(clients.c.client_id == client_id).values(**values))
    connection.execute(delete(tokens).where(tokens.c.client_id == client_id))
    return find_client(connection, client_id)


def remove_client(connection: Connection, client_id: str) -> None:
    """Remove a client and its tokens; its endpoints and functions are marked deleted."""
    connection.execute(delete(clients).where(clients.c.client_id == client_id))
    connection.execute(delete(tokens).where(tokens.c.client_id == client_id))
    connection.execute(
        update(endpoints).where(endpoints.c.owner == client_id).values(deleted=True, online_until=0)
    )
    connection.execute(update(functions).where(functions.c.owner == client_id).values(deleted=True))


def add_tokens(connection: Connection, rows: Sequence[dict[str, Any]], now: float) -> None:
    """Store issued tokens (digest, client_id, resource_server, expires_at); drop expired ones."""
    connection.execute(delete(tokens).where(tokens.c.expires_at < now))
    connection.execute(insert(tokens), list(rows))


def find_caller(connection: Connection, digest: str) -> tuple[Client, str, float] | None:
    """Return the client, the resource server and the expiry of a token, or None."""
    row = connection.execute(
        select(clients, tokens.c.resource_server, tokens.c.expires_at)
        .join(tokens, tokens.c.client_id == clients.c.client_id)
        .where(tokens.c.digest == digest)
    ).first()
    if row is None:
        return None
    values = dict(row._mapping)
    server, expires_at = values.pop("resource_server"), values.pop("expires_at")
    return Client(**values), server, expires_at


def find_token(connection: Connection, digest: str) -> tuple[str, str, float] | None:
    """Return client id, resource server and expiry of a token, or None."""
    row = connection.execute(
        select(tokens.c.client_id, tokens.c.resource_server, tokens.c.expires_at).where(
            tokens.c.digest == digest
        )
    ).first()
    return None if row is None else (row[0], row[1], row[2])


def drop_token(connection: Connection, digest: str) -> None:
    """Forget one token."""
    connection.execute(delete(tokens).where(tokens.c.digest == digest))


def all_endpoints(connection: Connection) -> list[Endpoint]:
    """Every endpoint, deleted ones included."""
    return [_endpoint(row) for row in connection.execute(select(endpoints))]


def find_endpoint(connection: Connection, endpoint_id: str) -> Endpoint | None:
    """Return an endpoint, a deleted one included, or None."""
    row = connection.execute(
        select(endpoints).where(endpoints.c.endpoint_id == endpoint_id)
    ).first()
    return None if row is None else _endpoint(row)


def present_endpoints(
    connection: Connection, *, owner: str | None = None, usable_by: str | None = None
) -> list[Endpoint]:
    """Endpoints that are not deleted: all, one client's, or those it may use; by name."""
    query = select(endpoints).where(~endpoints.c.deleted)
    if owner is not None:
        query = query.where(endpoints.c.owner == owner)
    if usable_by is not None:
        query = query.where(or_(endpoints.c.owner == usable_by, endpoints.c.public))
    rows = connection.execute(query.order_by(endpoints.c.name, endpoints.c.endpoint_id))
    return [_endpoint(row) for row in rows]


def endpoint_ids(connection: Connection) -> list[str]:
    """Ids of the endpoints that are not deleted."""
    return list(
        connection.execute(select(endpoints.c.endpoint_id).where(~endpoints.c.deleted)).scalars()
    )


def count_endpoints(connection: Connection, now: float) -> tuple[int, int]:
    """How many endpoints there are, and how many of them are online."""
    count = select(func.count()).select_from(endpoints).where(~endpoints.c.deleted)
    online = count.where(endpoints.c.online_until > now)
    return connection.execute(count).scalar_one(), connection.execute(online).scalar_one()


def put_registration(connection: Connection, endpoint: Endpoint) -> Endpoint | None:
    """Store a registration, anew or again; the last status report stays, and counts no more.

    Returns:
        The endpoint; None when it was deleted meanwhile, or belongs to another client.
    """
    values = {
        "owner": endpoint.owner,
        "name": endpoint.name,
        "display_name": endpoint.display_name,
        "public": endpoint.public,
        "allowed_functions": _json(endpoint.allowed_functions),
        "registration": json.dumps(endpoint.registration),
        "amqp_digest": endpoint.amqp_digest,
        "registered_at": endpoint.registered_at,
        "locked_until": endpoint.locked_until,
        "deleted": False,
        "online_until": 0.0,
    }
    row = {"endpoint_id": endpoint.endpoint_id, **values}
    if not insert_new(connection, endpoints, row):
        changed = connection.execute(
            update(endpoints)
            .where(
                endpoints.c.endpoint_id == endpoint.endpoint_id,
                endpoints.c.owner == endpoint.owner,
                ~endpoints.c.deleted,
            )
            .values(**values)
        )
        if changed.rowcount == 0:
            return None
    return find_endpoint(connection, endpoint.endpoint_id)


def change_endpoint(
    connection: Connection, endpoint_id: str, values: Mapping[str, Any]
) -> Endpoint | None:
    """Set columns of an endpoint; None when there is no such endpoint."""
    columns = {
        key: _json(value) if key == "allowed_functions" else value for key, value in values.items()
    }
    connection.execute(
        update(endpoints).where(endpoints.c.endpoint_id == endpoint_id).values(**columns)
    )
    return find_endpoint(connection, endpoint_id)


def note_reports(connection: Connection, rows: Sequence[tuple[str, float, float, str]]) -> None:
    """Store the last reports: (endpoint id, when it came, until when it counts, its JSON).

    An endpoint that is deleted or was stopped remotely has no say any more.
    """
    for endpoint_id, report_at, online_until, report in rows:
        connection.execute(
            update(endpoints)
            .where(
                endpoints.c.endpoint_id == endpoint_id,
                ~endpoints.c.deleted,
                endpoints.c.amqp_digest != "",
            )
            .values(report_at=report_at, online_until=online_until, report=report)
        )


def _endpoint(row: Row[Any]) -> Endpoint:
    values = dict(row._mapping)
    allowed = values["allowed_functions"]
    values["allowed_functions"] = None if allowed is None else tuple(json.loads(allowed))
    values["registration"] = json.loads(values["registration"])
    values["report"] = None if values["report"] is None else json.loads(values["report"])
    return Endpoint(**values)


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def add_function(connection: Connection, function: Function) -> None:
    """Add a function."""
    connection.execute(
        insert(functions).values(
            function_id=function.function_id,
            owner=function.owner,
            name=function.name,
            packed=function.packed,
            code=function.code,
            description=function.description,
            metadata=_json(function.metadata),
            public=function.public,
            created_at=function.created_at,
            deleted=False,
        )
    )


def find_function(connection: Connection, function_id: str) -> Function | None:
    """Return a function that is not deleted, or None."""
    row = connection.execute(
        select(functions).where(functions.c.function_id == function_id, ~functions.c.deleted)
    ).first()
    if row is None:
        return None
    values = dict(row._mapping)
    del values["deleted"], values["used_at"]
    if values["metadata"] is not None:
        values["metadata"] = json.loads(values["metadata"])
    return Function(**values)


def usable_functions(
    connection: Connection, client_id: str, function_ids: Sequence[str]
) -> dict[str, str]:
    """Return the packed code of those functions that exist and that the client may submit."""
    rows = connection.execute(
        select(functions.c.function_id, functions.c.packed).where(
            functions.c.function_id.in_(function_ids),
            ~functions.c.deleted,
            or_(functions.c.owner == client_id, functions.c.public),
        )
    )
    return {row[0]: row[1] for row in rows}


def known_functions(connection: Connection, function_ids: Sequence[str]) -> set[str]:
    """Return those of the ids that name a function, whoever's."""
    rows = connection.execute(
        select(functions.c.function_id).where(
            functions.c.function_id.in_(function_ids), ~functions.c.deleted
        )
    )
    return {row[0] for row in rows}


def delete_function(connection: Connection, function_id: str) -> None:
    """Mark a function deleted; tasks already submitted are not touched."""
    connection.execute(
        update(functions).where(functions.c.function_id == function_id).values(deleted=True)
    )
