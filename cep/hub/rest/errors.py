"""Refusals, and the one JSON shape in which every one of them is answered.

The shape is readable by every version of the SDK and of the published endpoint: `code` and
`message` for globus-sdk, the other keys for older clients.
"""

from __future__ import annotations

import logging

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cep.errors import CepError, DataError, InputMissing, NotAllowed, TemporaryFailure, UsageError
from cep.hub.limits import retry_after

log = logging.getLogger(__name__)


class Refusal(CepError):
    """A request that is not done, with its HTTP status and a machine-readable code.

    Args:
        status: HTTP status, 400 to 599.
        code: Upper-case words with underscores.
        message: A sentence for people.
        args_: Ids and names that the sentence is about.
        retry_after_s: When to come again, in seconds.
    """

    def __init__(
        self, status: int, code: str, message: str, *args_: str, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.error_args = list(args_)
        self.retry_after_s = retry_after_s


def bad_request(message: str) -> Refusal:
    """A body or parameter that cannot be read."""
    return Refusal(400, "BAD_REQUEST", message)


def unprocessable(message: str) -> Refusal:
    """A readable body with a field that is missing or wrong."""
    return Refusal(422, "INVALID_FIELD", message)


def too_large(limit_bytes: int) -> Refusal:
    """A body above the limit."""
    return Refusal(
        413, "PAYLOAD_TOO_LARGE", f"The request's body is larger than {limit_bytes} bytes."
    )


def too_many(message: str, wait_s: float) -> Refusal:
    """More than one client or address may ask for."""
    return Refusal(429, "TOO_MANY_REQUESTS", message, retry_after_s=retry_after(wait_s))


def error_response(
    status: int,
    code: str,
    message: str,
    args: list[str] | None = None,
    retry_after_s: int | None = None,
) -> JSONResponse:
    """Answer with the error shape."""
    body = {
        "code": code,
        "message": message,
        "status": "Failed",
        "http_status_code": status,
        "reason": message,
        "error_args": args or [],
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if retry_after_s is not None:
        headers["Retry-After"] = str(retry_after_s)
    return JSONResponse(body, status_code=status, headers=headers)


_STATUS_OF_ERROR: tuple[tuple[type[CepError], int, str], ...] = (
    (TemporaryFailure, 503, "TRY_AGAIN"),
    (NotAllowed, 401, "NOT_AUTHENTICATED"),
    (InputMissing, 404, "NOT_FOUND"),
    (UsageError, 409, "CONFLICT"),
    (DataError, 400, "BAD_REQUEST"),
)


async def on_cep_error(request: Request, error: Exception) -> Response:
    """Answer an error of ours."""
    assert isinstance(error, CepError)
    if isinstance(error, Refusal):
        request.app.state.services.audit.refused(request, error.status, error.code)
        return error_response(
            error.status, error.code, error.message, error.error_args, error.retry_after_s
        )
    for kind, status, code in _STATUS_OF_ERROR:
        if isinstance(error, kind):
            return error_response(status, code, str(error))
    log.error("A request failed: %s", error, extra={"event": "hub.request_failed"})
    return error_response(500, "INTERNAL_ERROR", "The hub failed to do this; see its log.")


async def on_http_error(_request: Request, error: Exception) -> Response:
    """Answer what the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    code = {404: "NO_SUCH_ROUTE", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "HTTP_ERROR")
    return error_response(error.status_code, code, f"{error.detail}.")


async def on_surprise(_request: Request, _error: Exception) -> Response:
    """Answer an error that nobody foresaw; the server logs its traceback."""
    return error_response(500, "INTERNAL_ERROR", "The hub failed to do this; see its log.")
