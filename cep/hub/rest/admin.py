"""The hub's own routes for `cep hub`: clients, state, and the client that `hub env` speaks of.

Answered within this host only, to whoever has the secret of the running hub (a file of mode 0600 in
its state directory).
"""

from __future__ import annotations

import hmac
import json
import os
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import cep
from cep.errors import InputMissing, NotAllowed
from cep.hub import topology
from cep.hub.auth import Credentials
from cep.hub.options import is_loopback
from cep.hub.records import Client
from cep.hub.rest.endpoints import retire_endpoint
from cep.hub.rest.errors import Refusal
from cep.hub.rest.requests import name_field, read_object, services_of, wrong_login
from cep.hub.running import SECRET_HEADER
from cep.hub.services import Services

ENV_CLIENT_NAME = "hub-env"


def _check(request: Request) -> Services:
    services = services_of(request)
    peer = "" if request.client is None else request.client.host
    here = request.scope.get("server") or ("",)  # a hub on one address is reached by that one
    secret = request.headers.get(SECRET_HEADER, "")
    if not (is_loopback(peer) or peer == here[0]) or not hmac.compare_digest(
        secret.encode(), services.admin_secret.encode()
    ):
        raise wrong_login(request, Refusal(404, "NO_SUCH_ROUTE", "Not Found."))
    return services


def _client_answer(client: Client) -> dict[str, Any]:
    return {
        "client_id": client.client_id,
        "name": client.name,
        "disabled": client.disabled,
        "created_at": client.created_at,
    }


def _credentials_answer(made: Credentials) -> dict[str, Any]:
    return {
        "client_id": made.client_id,
        "client_secret": made.client_secret,
        "name": made.name,
    }


async def _status(request: Request) -> Response:
    services = _check(request)
    endpoints, online = services.directory.counts()
    counts = services.relay.counts
    return JSONResponse(
        {
            "version": cep.__version__,
            "pid": os.getpid(),
            "url": services.addresses.url,
            "amqp_port": services.addresses.amqp_port,
            "started_at": services.started_at,
            "clients": sum(1 for _ in services.access.clients),
            "endpoints": endpoints,
            "endpoints_online": online,
            "results": counts.results,
            "results_repeated": counts.repeats,
            "messages_dropped": counts.dropped,
            "status_reports": counts.reports,
        }
    )


async def _list(request: Request) -> Response:
    services = _check(request)
    return JSONResponse({"clients": [_client_answer(one) for one in services.access.clients]})


async def _add(request: Request) -> Response:
    services = _check(request)
    made = await services.access.add(name_field(await read_object(request), "name"))
    return JSONResponse(_credentials_answer(made))


def _target(request: Request, services: Services) -> Client:
    return services.access.find(str(request.path_params["client"]))


async def _rotate(request: Request) -> Response:
    services = _check(request)
    client = _target(request, services)
    made = await services.access.rotate(client)
    services.drop_connections(topology.client_user(client.client_id))
    return JSONResponse(_credentials_answer(made))


async def _disable(request: Request) -> Response:
    services = _check(request)
    client = _target(request, services)
    await services.access.disable(client)
    cut = await _cut_off(services, client)
    return JSONResponse({**_client_answer(client), "disabled": True, "connections_closed": cut})


async def _enable(request: Request) -> Response:
    services = _check(request)
    client = _target(request, services)
    await services.access.enable(client)
    return JSONResponse({**_client_answer(client), "disabled": False})


async def _remove(request: Request) -> Response:
    services = _check(request)
    client = _target(request, services)
    await services.access.remove(client)
    services.drop_connections(topology.client_user(client.client_id))
    for endpoint in services.directory.drop_owner(client.client_id):
        await retire_endpoint(request, endpoint)
    return JSONResponse(_client_answer(client))


async def _cut_off(services: Services, client: Client) -> int:
    """Close all connections of the client and of its endpoints; they cannot come back."""
    endpoints = services.directory.owned_by(client.client_id)
    await services.directory.set_offline(endpoints)
    users = [topology.client_user(client.client_id)]
    users.extend(topology.endpoint_user(one.endpoint_id) for one in endpoints)
    return sum(services.drop_connections(user) for user in users)


async def _env(request: Request) -> Response:
    services = _check(request)
    made = await env_client(services, request.app.state.files.env_client)
    return JSONResponse({**_credentials_answer(made), "url": services.addresses.url})


async def env_client(services: Services, file: Path) -> Credentials:
    """Return the client that `hub env` speaks of: the same one as long as it works.

    Args:
        services: The running hub.
        file: Where its secret is kept, since the store has only a digest.
    """
    try:
        kept = json.loads(file.read_text("utf-8"))
        client = services.access.check_secret(kept["client_id"], kept["client_secret"])
        return Credentials(client.client_id, kept["client_secret"], client.name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, NotAllowed):
        made = await _make_env_client(services)
    _write_private(file, {"client_id": made.client_id, "client_secret": made.client_secret})
    return made


async def _make_env_client(services: Services) -> Credentials:
    for number in range(1, 1000):
        name = ENV_CLIENT_NAME if number == 1 else f"{ENV_CLIENT_NAME}-{number}"
        try:
            client = services.access.find(name)
        except InputMissing:
            return await services.access.add(name)
        if not client.disabled:
            # Its secret is not in the file any more, so nobody can have the right one from here.
            return await services.access.rotate(client)
    raise InputMissing("Every client that `hub env` made is disabled.")


def _write_private(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file that only this user may read, in one step."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
    fresh.replace(path)


_BASE = "/cep/admin"

routes = [
    Route(f"{_BASE}/status", _status, methods=["GET"]),
    Route(f"{_BASE}/env", _env, methods=["POST"]),
    Route(f"{_BASE}/clients", _list, methods=["GET"]),
    Route(f"{_BASE}/clients", _add, methods=["POST"]),
    Route(f"{_BASE}/clients/{{client}}/rotate", _rotate, methods=["POST"]),
    Route(f"{_BASE}/clients/{{client}}/disable", _disable, methods=["POST"]),
    Route(f"{_BASE}/clients/{{client}}/enable", _enable, methods=["POST"]),
    Route(f"{_BASE}/clients/{{client}}", _remove, methods=["DELETE"]),
]
