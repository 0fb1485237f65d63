"""The hub's own routes for `cep hub`: clients, state, and the client that `hub env` speaks of.

Answered within this host only, to whoever has the secret of the running hub (a file of mode 0600 in
its state directory).
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Iterator
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
from cep.safety.files import replace_text

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
    endpoints, online = await services.directory.counts()
    counts = services.relay.counts
    return JSONResponse(
        {
            "version": cep.__version__,
            "pid": os.getpid(),
            "url": services.addresses.url,
            "amqp_port": services.addresses.amqp_port,
            "started_at": services.started_at,
            "clients": await services.access.count(),
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
    clients = await services.access.clients()
    return JSONResponse({"clients": [_client_answer(one) for one in clients]})


async def _add(request: Request) -> Response:
    services = _check(request)
    services.audit.require()
    made = await services.access.add(name_field(await read_object(request), "name"))
    services.audit.note("client-add", request, client=made.client_id, name=made.name)
    return JSONResponse(_credentials_answer(made))


def _note(event: str, request: Request, client: Client) -> None:
    services_of(request).audit.note(event, request, client=client.client_id, name=client.name)


async def _target(request: Request, services: Services) -> Client:
    services.audit.require()
    return await services.access.find(str(request.path_params["client"]))


async def _rotate(request: Request) -> Response:
    services = _check(request)
    client = await _target(request, services)
    made = await services.access.rotate(client)
    _note("client-rotate", request, client)
    await services.accounts.remove(topology.client_user(client.client_id))
    return JSONResponse(_credentials_answer(made))


async def _disable(request: Request) -> Response:
    services = _check(request)
    client = await _target(request, services)
    await services.access.disable(client)
    _note("client-disable", request, client)
    cut = await _cut_off(services, client)
    return JSONResponse({**_client_answer(client), "disabled": True, "connections_closed": cut})


async def _enable(request: Request) -> Response:
    services = _check(request)
    client = await _target(request, services)
    await services.access.enable(client)
    _note("client-enable", request, client)
    endpoints = await services.directory.owned_by(client.client_id)
    await services.accounts.resume(one.endpoint_id for one in endpoints if one.amqp_digest)
    return JSONResponse({**_client_answer(client), "disabled": False})


async def _remove(request: Request) -> Response:
    services = _check(request)
    client = await _target(request, services)
    endpoints = await services.directory.owned_by(client.client_id)
    await services.access.remove(client)
    _note("client-remove", request, client)
    services.directory.forget_owner(client.client_id)
    await services.accounts.remove(topology.client_user(client.client_id))
    for endpoint in endpoints:
        await retire_endpoint(request, endpoint)
    return JSONResponse(_client_answer(client))


async def _cut_off(services: Services, client: Client) -> int:
    """Close all connections of the client and of its endpoints; they cannot come back."""
    endpoints = await services.directory.owned_by(client.client_id)
    await services.directory.set_offline(endpoints)
    users = [topology.client_user(client.client_id)]
    users.extend(topology.endpoint_user(one.endpoint_id) for one in endpoints)
    return await services.accounts.suspend(users)


async def _env(request: Request) -> Response:
    services = _check(request)
    services.audit.require()
    made = await env_client(services, request.app.state.files.env_client)
    services.audit.note("client-env", request, client=made.client_id, name=made.name)
    return JSONResponse({**_credentials_answer(made), "url": services.addresses.url})


async def env_client(services: Services, file: Path) -> Credentials:
    """Return the client that `hub env` speaks of: the same one as long as it works.

    Args:
        services: The running hub.
        file: Where its secret is kept, since the store has only a digest; hubs that share a store
            derive it instead.
    """
    if services.shared:
        return await _shared_env_client(services)
    try:
        kept = json.loads(file.read_text("utf-8"))
        client = await services.access.check_secret(kept["client_id"], kept["client_secret"])
        return Credentials(client.client_id, kept["client_secret"], client.name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, NotAllowed):
        made = await _make_env_client(services)
    login = {"client_id": made.client_id, "client_secret": made.client_secret}
    replace_text(file, json.dumps(login), synced=False)
    return made


def _env_names() -> Iterator[str]:
    yield ENV_CLIENT_NAME
    yield from (f"{ENV_CLIENT_NAME}-{number}" for number in range(2, 1000))


async def _shared_env_client(services: Services) -> Credentials:
    for name in _env_names():
        made = await services.access.derived_client(name)
        if made is not None:
            return made
    raise InputMissing("Every client that `hub env` made is disabled.")


async def _make_env_client(services: Services) -> Credentials:
    for name in _env_names():
        try:
            client = await services.access.find(name)
        except InputMissing:
            return await services.access.add(name)
        if not client.disabled:
            # Its secret is not in the file any more, so nobody can have the right one from here.
            return await services.access.rotate(client)
    raise InputMissing("Every client that `hub env` made is disabled.")


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
