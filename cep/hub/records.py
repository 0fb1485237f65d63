"""Queries on clients, tokens, endpoints and functions.

Each function takes an open connection first and runs inside one transaction of the store's thread.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, or_, select, update

from cep.errors import UsageError
from cep.hub.schema import clients, endpoints, functions, tokens


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


def add_client(connection: Connection, client: Client) -> None:
    """Add a client.

    Raises:
        UsageError: There is one with this name.
    """
    taken = connection.execute(select(clients.c.client_id).where(clients.c.name == client.name))
    if taken.first() is not None:
        raise UsageError(
            f"The hub has a client named {client.name!r} already.",
            hint="Choose another name, or rotate that client's secret.",
        )
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


def change_client(connection: Connection, client: Client) -> None:
    """Store a client's new secret, generation and state, and forget its tokens."""
    connection.execute(
        update(clients)
        .where(clients.c.client_id == client.client_id)
        .values(
            secret_digest=client.secret_digest,
            generation=client.generation,
            disabled=client.disabled,
        )
    )
    connection.execute(delete(tokens).where(tokens.c.client_id == client.client_id))


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


def put_endpoint(connection: Connection, endpoint: Endpoint) -> None:
    """Insert an endpoint or replace everything known of it."""
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
        "deleted": endpoint.deleted,
        "report_at": endpoint.report_at,
        "online_until": endpoint.online_until,
        "report": _json(endpoint.report),
    }
    changed = connection.execute(
        update(endpoints).where(endpoints.c.endpoint_id == endpoint.endpoint_id).values(**values)
    )
    if changed.rowcount == 0:
        connection.execute(insert(endpoints).values(endpoint_id=endpoint.endpoint_id, **values))


def note_reports(connection: Connection, rows: Sequence[tuple[str, float, float, str]]) -> None:
    """Store the last reports: (endpoint id, when it came, until when it counts, its JSON)."""
    for endpoint_id, report_at, online_until, report in rows:
        connection.execute(
            update(endpoints)
            .where(endpoints.c.endpoint_id == endpoint_id)
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
