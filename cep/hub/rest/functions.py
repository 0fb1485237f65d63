"""Functions: register, look up, delete; and containers, which this hub does not keep."""

from __future__ import annotations

import uuid

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cep.errors import WireError
from cep.hub import records
from cep.hub.records import Client, Function
from cep.hub.rest.errors import Refusal, unprocessable
from cep.hub.rest.requests import (
    FUNCTION_BODY,
    compute_client,
    field,
    name_field,
    path_uuid,
    read_object,
    services_of,
)
from cep.wire.buffers import PURE_TEXT_INSPECT_CODE, pack_buffers, unpack_buffers


def _packed(name: str, code: str, *, serialized: bool) -> str:
    if not serialized:
        # The worker runs the source and looks the name up in it.
        return pack_buffers([f"{PURE_TEXT_INSPECT_CODE}{name}:{code}"])
    try:
        buffers = unpack_buffers(code)
    except WireError as exc:
        raise unprocessable(f"The field 'function_code' cannot be read. {exc.message}") from exc
    if len(buffers) != 1:
        raise unprocessable(
            f"The field 'function_code' holds {len(buffers)} packed buffers instead of one."
        )
    return code


async def _register(request: Request) -> Response:
    client = await compute_client(request)
    body = await read_object(request, FUNCTION_BODY)
    name = name_field(body, "function_name")
    code = field(body, "function_code", str)
    if not code:
        raise unprocessable("The field 'function_code' is missing or empty.")
    serialized = field(body, "serialized", bool)
    metadata = body.get("meta") if body.get("meta") is not None else body.get("metadata")
    function = Function(
        function_id=str(uuid.uuid4()),
        owner=client.client_id,
        name=name,
        packed=_packed(name, code, serialized=serialized is not False),
        code=code,
        description=field(body, "description", str),
        metadata=metadata,
        public=bool(field(body, "public", bool)),
        created_at=services_of(request).clock(),
    )
    await services_of(request).store.call(records.add_function, function)
    return JSONResponse({"function_uuid": function.function_id})


async def _find(request: Request, client: Client, *, to_manage: bool) -> Function:
    function_id = path_uuid(request, "function_id", "function")
    found = await services_of(request).store.call(records.find_function, function_id)
    if found is None:
        raise Refusal(
            404, "FUNCTION_NOT_FOUND", f"There is no function {function_id}.", function_id
        )
    if found.owner != client.client_id and (to_manage or not found.public):
        raise Refusal(
            403,
            "FUNCTION_FORBIDDEN",
            f"The function {function_id} belongs to somebody else.",
            function_id,
        )
    return found


async def _details(request: Request) -> Response:
    client = await compute_client(request)
    found = await _find(request, client, to_manage=False)
    return JSONResponse(
        {
            "function_uuid": found.function_id,
            "function_name": found.name,
            "function_code": found.code,
            "description": found.description,
            "metadata": found.metadata,
            "public": found.public,
        }
    )


async def _delete(request: Request) -> Response:
    client = await compute_client(request)
    found = await _find(request, client, to_manage=True)
    await services_of(request).store.call(records.delete_function, found.function_id)
    return JSONResponse({"function_uuid": found.function_id, "result": "deleted"})


async def _no_containers(request: Request) -> Response:
    await compute_client(request)
    raise Refusal(
        400,
        "CONTAINERS_NOT_SUPPORTED",
        "This hub keeps no containers. Name the container in the endpoint's config.yaml "
        "(engine: container_type, container_uri).",
    )


routes = [
    Route("/v3/functions", _register, methods=["POST"]),
    Route("/v2/functions", _register, methods=["POST"]),
    Route("/v2/functions/{function_id}", _details, methods=["GET"]),
    Route("/v2/functions/{function_id}", _delete, methods=["DELETE"]),
    Route("/v2/containers", _no_containers, methods=["POST"]),
    Route("/v2/get_containers", _no_containers, methods=["POST"]),
    Route("/v2/containers/build", _no_containers, methods=["POST"]),
    Route("/v2/containers/build/{container_id}", _no_containers, methods=["GET"]),
    Route("/v2/containers/{container_id}/{container_type}", _no_containers, methods=["GET"]),
]
