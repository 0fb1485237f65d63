"""What the SDK asks of Globus Auth: client-credential tokens, and who it is.

Source: globus-sdk 4.9 and 3.65 as seen on the wire.
"""

from __future__ import annotations

import base64
import binascii
from urllib.parse import parse_qs, unquote_plus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from cep.errors import NotAllowed
from cep.hub.records import Client
from cep.hub.rest.errors import Refusal, bad_request, too_many
from cep.hub.rest.requests import any_caller, limits_of, read_body, services_of, wrong_login
from cep.wire.envelope import read_uuid

_FORM_LIMIT = 64 * 1024
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


async def _form(request: Request) -> dict[str, str]:
    raw = await read_body(request, _FORM_LIMIT)
    try:
        fields = parse_qs(raw.decode("utf-8"), keep_blank_values=True, max_num_fields=50)
    except ValueError as exc:
        raise bad_request("The request's body is not a form.") from exc
    return {name: values[-1] for name, values in fields.items()}


def _login(request: Request, form: dict[str, str]) -> tuple[str, str]:
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "basic":
        try:
            text = base64.b64decode(encoded, validate=True).decode("utf-8")
        except (binascii.Error, ValueError) as exc:
            raise _refused_client("The Authorization header is not HTTP Basic.") from exc
        user, _, password = text.partition(":")
        return unquote_plus(user), unquote_plus(password)
    return form.get("client_id", ""), form.get("client_secret", "")


def _refused_client(message: str) -> Refusal:
    return Refusal(401, "INVALID_CLIENT", message)


async def _check_client(request: Request, form: dict[str, str]) -> Client:
    client_id, secret = _login(request, form)
    request.state.caller = client_id  # for the audit: who it says it is
    try:
        client = await services_of(request).access.check_secret(client_id, secret)
    except NotAllowed as exc:
        raise wrong_login(request, _refused_client(exc.message)) from exc
    wait_s = limits_of(request).requests.take(client.client_id)
    if wait_s:
        raise too_many("This client sends too many requests.", wait_s)
    return client


async def _token(request: Request) -> Response:
    form = await _form(request)
    client = await _check_client(request, form)
    grant = form.get("grant_type", "")
    if grant != "client_credentials":
        raise Refusal(
            400,
            "UNSUPPORTED_GRANT_TYPE",
            f"The grant type {grant[:64]!r} is not served: this hub knows client credentials "
            "only (GLOBUS_COMPUTE_CLIENT_ID and GLOBUS_COMPUTE_CLIENT_SECRET).",
        )
    services = services_of(request)
    services.audit.require()
    answer = await services.access.issue(client, form.get("scope", ""))
    services.audit.note("login", request)
    return JSONResponse(answer, headers=_NO_STORE)


async def _revoke(request: Request) -> Response:
    form = await _form(request)
    await _check_client(request, form)
    await services_of(request).access.revoke(form.get("token", ""))
    return JSONResponse({"active": False})


def _username(client: Client) -> str:
    # Globus Auth names client identities this way.
    return f"{client.client_id}@clients.auth.globus.org"


async def _userinfo(request: Request) -> Response:
    client = (await any_caller(request)).client
    return JSONResponse(
        {
            "sub": client.client_id,
            "identity_set": [{"sub": client.client_id, "username": _username(client)}],
            "preferred_username": _username(client),
            "name": client.name,
            "email": None,
        }
    )


async def _identities(request: Request) -> Response:
    await any_caller(request)
    access = services_of(request).access
    wanted = [
        read_uuid(one.strip().partition("@")[0])
        for name in ("ids", "usernames")
        for one in request.query_params.get(name, "").split(",")
    ]
    found = [await access.known(one) for one in wanted if one is not None]
    return JSONResponse(
        {
            "identities": [
                {
                    "id": one.client_id,
                    "username": _username(one),
                    "name": one.name,
                    "email": None,
                    "status": "used",
                }
                for one in found
                if one is not None
            ]
        }
    )


routes = [
    Route("/v2/oauth2/token", _token, methods=["POST"]),
    Route("/v2/oauth2/token/revoke", _revoke, methods=["POST"]),
    Route("/v2/oauth2/userinfo", _userinfo, methods=["GET"]),
    Route("/v2/api/identities", _identities, methods=["GET"]),
]
