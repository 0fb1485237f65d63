"""Endpoints: register, list, status, stop remotely, delete, and the functions they allow."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cep.hub import topology
from cep.hub.records import Client, Endpoint
from cep.hub.relay import ENDPOINT_DELETED
from cep.hub.rest.errors import Refusal, unprocessable
from cep.hub.rest.requests import (
    as_uuid,
    compute_client,
    field,
    find_endpoint,
    manages,
    name_field,
    path_uuid,
    read_object,
    services_of,
    uuid_field,
    uuid_list,
)
from cep.hub.services import Services

_LONGEST_NAME = 128  # globus-compute-endpoint 4.19


def _checked_registration(body: dict[str, Any]) -> dict[str, Any]:
    name = name_field(body, "endpoint_name")
    if len(name) > _LONGEST_NAME:
        raise unprocessable(f"The endpoint's name is longer than {_LONGEST_NAME} characters.")
    metadata = field(body, "metadata", dict) or {}
    if field(body, "multi_user", bool) or metadata.get("user_config_template"):
        raise Refusal(
            422,
            "TEMPLATES_NOT_SUPPORTED",
            "This hub serves single-user endpoints, whose config.yaml has an 'engine'; it does not "
            "start user endpoints from a template.",
        )
    for key in ("authentication_policy", "high_assurance"):
        if body.get(key):
            raise Refusal(
                422,
                "POLICIES_NOT_SUPPORTED",
                f"This hub cannot enforce '{key}'; take it out of the endpoint's configuration.",
                key,
            )
    return {
        **body,
        "endpoint_name": name,
        "display_name": field(body, "display_name", str),
        "metadata": metadata,
        "public": bool(field(body, "public", bool)),
        "allowed_functions": uuid_list(body, "allowed_functions"),
        "admins": uuid_list(body, "admins"),
        "subscription_uuid": uuid_field(body, "subscription_uuid"),
    }


async def _register(request: Request) -> Response:
    client = await compute_client(request)
    body = _checked_registration(await read_object(request))
    endpoint_id = None
    if "endpoint_id" in request.path_params:
        endpoint_id = path_uuid(request, "endpoint_id", "endpoint")
        await _check_known(request, client, endpoint_id)
    services = services_of(request)
    services.audit.require()
    endpoint, password = await services.directory.register(client.client_id, body, endpoint_id)
    if endpoint is None:
        raise _deleted(str(endpoint_id))
    user = topology.endpoint_user(endpoint.endpoint_id)
    await services.messaging.declare(services.layout.endpoint(endpoint.endpoint_id))
    # What is connected now is an earlier life: its exclusive consumer must make room at once.
    await services.accounts.admit_endpoint(endpoint.endpoint_id, password)
    await _check_admitted(services, endpoint)
    url = services.addresses.amqp_url(user, password, request.url.hostname)
    blocks = topology.queue_blocks(endpoint.endpoint_id, url)
    services.audit.note(
        "register", request, endpoint=endpoint.endpoint_id, name=body["endpoint_name"]
    )
    return JSONResponse({"endpoint_id": endpoint.endpoint_id, **blocks})


def _deleted(endpoint_id: str) -> Refusal:
    return Refusal(
        404, "ENDPOINT_NOT_FOUND", f"The endpoint {endpoint_id} was deleted.", endpoint_id
    )


async def _check_admitted(services: Services, endpoint: Endpoint) -> None:
    """Cut an endpoint off again that lost its right to come in while it was let in.

    Whoever takes the right away changes the store first and the broker's users then; here it is
    the other way round, so that one of the two sees the other.
    """
    present = await services.directory.find(endpoint.endpoint_id)
    owner = await services.access.known(endpoint.owner)
    user = topology.endpoint_user(endpoint.endpoint_id)
    if present is None or present.deleted or not present.amqp_digest or owner is None:
        await services.accounts.remove(user)
        raise _deleted(endpoint.endpoint_id)
    if owner.disabled:
        await services.accounts.suspend([user])
        raise Refusal(401, "NOT_AUTHENTICATED", "The client is disabled.")


async def _check_known(request: Request, client: Client, endpoint_id: str) -> None:
    """A known endpoint must be the client's and not locked; an unknown id is taken as it is."""
    directory = services_of(request).directory
    known = await directory.find(endpoint_id)
    if known is None:
        return
    if known.deleted:
        raise _deleted(endpoint_id)
    if known.owner != client.client_id:
        raise Refusal(
            403,
            "ENDPOINT_FORBIDDEN",
            f"The endpoint {endpoint_id} belongs to somebody else.",
            endpoint_id,
        )
    if directory.is_locked(known):
        raise Refusal(
            423,
            "ENDPOINT_LOCKED",
            f"The endpoint {endpoint_id} was stopped remotely a moment ago; try again in a minute.",
            endpoint_id,
        )


def _description(endpoint: Endpoint, client: Client) -> dict[str, Any]:
    return {
        "uuid": endpoint.endpoint_id,
        "name": endpoint.name,
        "display_name": endpoint.display_name,
        "owner": endpoint.owner,
        "public": endpoint.public,
        "mine": endpoint.owner == client.client_id,
    }


async def _list(request: Request) -> Response:
    client = await compute_client(request)
    directory = services_of(request).directory
    role = request.query_params.get("role", "owner")
    if role not in ("owner", "any"):
        raise unprocessable(f"The role {role!r} is neither 'owner' nor 'any'.")
    mine = role == "owner"
    found = await (directory.owned_by if mine else directory.usable_by)(client.client_id)
    return JSONResponse([_description(one, client) for one in found])


async def _details(request: Request) -> Response:
    client = await compute_client(request)
    endpoint = await find_endpoint(request, client)
    answer = _description(endpoint, client)
    if manages(client, endpoint):
        answer["metadata"] = endpoint.registration.get("metadata")
        answer["subscription_uuid"] = endpoint.registration.get("subscription_uuid")
        answer["admins"] = endpoint.registration.get("admins")
    answer["allowed_functions"] = endpoint.allowed_functions
    return JSONResponse(answer)


async def _status(request: Request) -> Response:
    client = await compute_client(request)
    endpoint = await find_endpoint(request, client)
    online = services_of(request).directory.is_online(endpoint)
    details = dict(endpoint.report or {})
    if not manages(client, endpoint):
        details.pop("ep_info", None)
    return JSONResponse({"status": "online" if online else "offline", "details": details})


async def _lock(request: Request) -> Response:
    client = await compute_client(request)
    endpoint = await find_endpoint(request, client, to_manage=True)
    services = services_of(request)
    services.audit.require()
    await services.directory.lock(endpoint)
    services.audit.note("endpoint-lock", request, endpoint=endpoint.endpoint_id)
    await services.accounts.remove(topology.endpoint_user(endpoint.endpoint_id))
    return JSONResponse({"endpoint_id": endpoint.endpoint_id, "status": "locked"})


async def _delete(request: Request) -> Response:
    client = await compute_client(request)
    endpoint = await find_endpoint(request, client, to_manage=True)
    await delete_endpoint(request, endpoint)
    return JSONResponse({"endpoint_id": endpoint.endpoint_id, "result": "deleted"})


async def delete_endpoint(request: Request, endpoint: Endpoint) -> None:
    """Cut the endpoint off, answer what waits for it, and take its queue away."""
    services = services_of(request)
    services.audit.require()
    await services.directory.delete(endpoint)
    services.audit.note("endpoint-delete", request, endpoint=endpoint.endpoint_id)
    await retire_endpoint(request, endpoint)


async def retire_endpoint(request: Request, endpoint: Endpoint) -> None:
    """Cut off an endpoint that is marked deleted, answer its tasks, take its queue away."""
    services = services_of(request)
    await services.accounts.remove(topology.endpoint_user(endpoint.endpoint_id))
    await services.relay.fail_waiting(
        endpoint, ENDPOINT_DELETED, f"The endpoint {endpoint.endpoint_id} was deleted."
    )
    await services.messaging.declare(topology.removal_operations(endpoint.endpoint_id))


def _allow_list(endpoint: Endpoint) -> dict[str, Any]:
    allowed = endpoint.allowed_functions
    return {
        "endpoint_id": endpoint.endpoint_id,
        "restricted": allowed is not None,
        "functions": list(allowed or ()),
    }


async def _allowed(request: Request) -> Response:
    client = await compute_client(request)
    return JSONResponse(_allow_list(await find_endpoint(request, client)))


async def _allow(request: Request) -> Response:
    client = await compute_client(request)
    endpoint = await find_endpoint(request, client, to_manage=True)
    added = uuid_list(await read_object(request), "func")
    if not added:
        raise unprocessable("The field 'func' is not a list of function UUIDs.")
    functions = dict.fromkeys((*(endpoint.allowed_functions or ()), *added))
    return await _set_allowed(request, endpoint, list(functions))


async def _disallow(request: Request) -> Response:
    client = await compute_client(request)
    endpoint = await find_endpoint(request, client, to_manage=True)
    gone = as_uuid(request.path_params["function_id"], "The function's id")
    remaining = [one for one in endpoint.allowed_functions or () if one != gone]
    restricted = endpoint.allowed_functions is not None
    return await _set_allowed(request, endpoint, remaining if restricted else None)


async def _set_allowed(
    request: Request, endpoint: Endpoint, functions: list[str] | None
) -> Response:
    changed = await services_of(request).directory.allow(endpoint, functions)
    return JSONResponse(_allow_list(changed))


_ONE = "/v2/endpoints/{endpoint_id}"

routes = [
    Route("/v3/endpoints", _register, methods=["POST"]),
    Route("/v3/endpoints/{endpoint_id}", _register, methods=["PUT"]),
    Route("/v2/endpoints", _list, methods=["GET"]),
    Route(_ONE, _details, methods=["GET"]),
    Route(_ONE, _delete, methods=["DELETE"]),
    Route(f"{_ONE}/status", _status, methods=["GET"]),
    Route(f"{_ONE}/lock", _lock, methods=["POST"]),
    Route("/v3/endpoints/{endpoint_id}/lock", _lock, methods=["POST"]),
    Route("/v3/endpoints/{endpoint_id}/allowed_functions", _allowed, methods=["GET"]),
    Route(f"{_ONE}/whitelist", _allowed, methods=["GET"]),
    Route(f"{_ONE}/whitelist", _allow, methods=["POST"]),
    Route(f"{_ONE}/whitelist/{{function_id}}", _disallow, methods=["DELETE"]),
]
