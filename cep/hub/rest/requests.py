"""Reading requests: who asks, the body within its limit, and fields of the right type.

Everything a client can send wrong ends in a `Refusal` with a 4xx status here.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeVar

from starlette.requests import ClientDisconnect, Request

from cep.errors import NotAllowed
from cep.hub.auth import COMPUTE_RESOURCE_SERVER, Caller
from cep.hub.limits import Rates, RequestLimits
from cep.hub.records import Client, Endpoint
from cep.hub.rest import guard
from cep.hub.rest.errors import Refusal, bad_request, too_large, too_many, unprocessable
from cep.hub.services import Services
from cep.wire.envelope import DEEPEST, deeper_than, read_uuid

T = TypeVar("T")

MIB = 1 << 20
SMALL_BODY = 1 * MIB
FUNCTION_BODY = 16 * MIB
SUBMIT_BODY = 64 * MIB  # as the endpoint's own default limit for one task
_PARSE_IN_THREAD = 256 * 1024  # above it, parsing would hold the event loop for milliseconds
_LONGEST_NAME = 4096
_CLIENT = "cep.client"


def services_of(request: Request) -> Services:
    """The parts of the hub that answers this request."""
    found = request.app.state.services
    assert isinstance(found, Services)
    return found


def limits_of(request: Request) -> RequestLimits:
    """The limits of the hub that answers this request."""
    found = request.app.state.limits
    assert isinstance(found, RequestLimits)
    return found


def wrong_login(request: Request, refusal: Refusal) -> Refusal:
    """Return the answer to wrong credentials: the refusal, or 429 when there are too many of them.

    Only wrong ones are counted, so that nobody behind the same address is locked out; a right
    secret, of 256 random bits, is not found by trying.
    """
    address = "?" if request.client is None else request.client.host
    wait_s = limits_of(request).wrong_logins.take(address)
    if not wait_s:
        return refusal
    return too_many("There were too many wrong logins from this address.", wait_s)


async def any_caller(request: Request) -> Caller:
    """Return whose token the request carries.

    Raises:
        Refusal: 401, there is none or it does not count; 429, the client asks too much.
    """
    caller = await _caller(request)
    wait_s = limits_of(request).requests.take(caller.client.client_id)
    if wait_s:
        raise too_many("This client sends too many requests.", wait_s)
    request.scope[_CLIENT] = caller.client.client_id
    return caller


async def _caller(request: Request) -> Caller:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Refusal(401, "NOT_AUTHENTICATED", "The request carries no access token.")
    try:
        caller = await services_of(request).access.caller(token.strip())
    except NotAllowed as exc:
        refusal = Refusal(401, "NOT_AUTHENTICATED", exc.message)
        raise wrong_login(request, refusal) from exc
    request.state.caller = caller.client.client_id  # for the audit, also of a refusal
    return caller


async def compute_client(request: Request) -> Client:
    """Return the client whose token for this service the request carries.

    Raises:
        Refusal: 401 without a valid token, 403 with a token for another service.
    """
    caller = await any_caller(request)
    if caller.resource_server != COMPUTE_RESOURCE_SERVER:
        raise Refusal(
            403,
            "WRONG_SCOPE",
            f"The access token is for {caller.resource_server!r}, not for this service.",
        )
    return caller.client


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """Read the body, and hold it against its client as long as the request lasts.

    Raises:
        Refusal: 413 when it is above the limit; 429 or 503 when too much is held already; 408 when
            it comes too slowly; 400 when the client goes away.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isascii() and announced.isdigit():
        # Compared as text where it is long: Python reads no number of thousands of digits.
        digits = announced.lstrip("0")
        if len(digits) > 19 or int(digits or 0) > limit_bytes:
            raise too_large(limit_bytes)
    chunks = []
    size = 0
    pace = _Pace(limits_of(request).rates)
    stream = request.stream()
    try:
        while True:
            chunk = await pace.next(stream, size)
            if chunk is None:
                break
            size += len(chunk)
            if size > limit_bytes:
                raise too_large(limit_bytes)
            if size > SMALL_BODY:
                # The first chunk beyond it counts for those before it, too.
                first = size - len(chunk) <= SMALL_BODY
                _hold(request, size if first else len(chunk))
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise bad_request("The client went away before its request was complete.") from exc
    return b"".join(chunks)


class _Pace:
    """How slowly a body may come: not silent for long, and not a trickle for ever."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._began = time.monotonic()

    async def next(self, stream: AsyncIterator[bytes], so_far: int) -> bytes | None:
        """Return the next piece of the body; None at its end.

        Raises:
            Refusal: 408.
        """
        rates = self._rates
        end = self._began + rates.body_grace_s + so_far / rates.body_rate
        within = min(rates.body_silence_s, end - time.monotonic())
        try:
            return await asyncio.wait_for(anext(stream), max(0.0, within))
        except StopAsyncIteration:
            return None
        except (TimeoutError, asyncio.TimeoutError) as exc:
            raise Refusal(408, "REQUEST_TIMEOUT", "The request's body came too slowly.") from exc


def _hold(request: Request, size: int) -> None:
    limits = limits_of(request)
    client = str(request.scope.get(_CLIENT, ""))
    if guard.hold(request.scope, limits, client, size):
        return
    if limits.bodies.held + size > limits.rates.body_bytes:
        raise Refusal(
            503, "TRY_AGAIN", "The hub is busy with other large requests.", retry_after_s=1
        )
    raise too_many("This client has too many large requests under way.", 1.0)


async def read_object(request: Request, limit_bytes: int = SMALL_BODY) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        Refusal: 413 or 400.
    """
    return await parse_object(await read_body(request, limit_bytes))


async def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object, in a thread when it is large.

    Raises:
        Refusal: 400.
    """
    if len(raw) > _PARSE_IN_THREAD:
        return await asyncio.to_thread(_parse_object, raw)
    return _parse_object(raw)


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        text = raw.decode("utf-8")
        found = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        if "\\ud" in text or "\\uD" in text:
            # A lone surrogate is a text that neither the store nor any message can hold.
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as exc:
        raise bad_request("The request's body is not UTF-8 text.") from exc
    except UnicodeEncodeError as exc:
        raise bad_request("The request's body holds half of a surrogate pair.") from exc
    except (ValueError, RecursionError) as exc:
        reason = exc.msg if isinstance(exc, json.JSONDecodeError) else type(exc).__name__
        raise bad_request(f"The request's body is not JSON ({reason}).") from exc
    if not isinstance(found, dict):
        raise bad_request("The request's body is not a JSON object.")
    if deeper_than(found, DEEPEST):
        raise bad_request(f"The request's body is nested more than {DEEPEST} levels deep.")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"{text} is out of range")
    return found


def field(body: dict[str, Any], name: str, kind: type[T]) -> T | None:
    """Return an optional field; null counts as not there.

    Raises:
        Refusal: 422, it is of another type.
    """
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
        words = {str: "a text", bool: "true or false", dict: "an object", list: "a list"}
        raise unprocessable(f"The field {name!r} is not {words.get(kind, kind.__name__)}.")
    return value


def name_field(body: dict[str, Any], name: str) -> str:
    """Return a required, non-empty text of moderate length.

    Raises:
        Refusal: 422.
    """
    value = field(body, name, str)
    if not value or len(value) > _LONGEST_NAME:
        raise unprocessable(
            f"The field {name!r} is missing, empty, or longer than {_LONGEST_NAME} characters."
        )
    return value


def uuid_field(body: dict[str, Any], name: str) -> str | None:
    """Return an optional UUID as canonical text.

    Raises:
        Refusal: 422.
    """
    value = field(body, name, str)
    return None if value is None else as_uuid(value, f"The field {name!r}")


def as_uuid(value: object, what: str) -> str:
    """Return a UUID's canonical text.

    Raises:
        Refusal: 422.
    """
    found = read_uuid(value)
    if found is None:
        raise unprocessable(f"{what} is not a UUID.")
    return found


def uuid_list(body: dict[str, Any], name: str) -> list[str] | None:
    """Return an optional list of UUIDs as canonical texts.

    Raises:
        Refusal: 422.
    """
    values = field(body, name, list)
    if values is None:
        return None
    return [as_uuid(one, f"An entry of the field {name!r}") for one in values]


def path_uuid(request: Request, name: str, what: str) -> str:
    """Return an id of the path.

    Raises:
        Refusal: 404: what has no UUID does not exist.
    """
    text = str(request.path_params[name])
    found = read_uuid(text)
    if found is None:
        raise Refusal(404, f"{what.upper()}_NOT_FOUND", f"There is no {what} {text!r}.", text)
    return found


def manages(client: Client, endpoint: Endpoint) -> bool:
    """Whether the client owns the endpoint or is one of its admins."""
    admins = endpoint.registration.get("admins") or ()
    return endpoint.owner == client.client_id or client.client_id in admins


async def find_endpoint(request: Request, client: Client, *, to_manage: bool = False) -> Endpoint:
    """Return the endpoint of the path when the client may see (or manage) it.

    Raises:
        Refusal: 404 unknown, 403 somebody else's.
    """
    endpoint_id = path_uuid(request, "endpoint_id", "endpoint")
    endpoint = await services_of(request).directory.known(endpoint_id)
    if endpoint is None:
        raise Refusal(
            404, "ENDPOINT_NOT_FOUND", f"There is no endpoint {endpoint_id}.", endpoint_id
        )
    if not manages(client, endpoint) and (to_manage or not endpoint.public):
        raise Refusal(
            403,
            "ENDPOINT_FORBIDDEN",
            f"The endpoint {endpoint_id} belongs to somebody else.",
            endpoint_id,
        )
    return endpoint
