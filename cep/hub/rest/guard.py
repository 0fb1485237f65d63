"""Around every route: bounds on the request's head, and what a request held is given back."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from cep.hub.limits import RequestLimits
from cep.hub.rest.errors import error_response

HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_TARGET = 8192  # bytes of path and query, as nginx and Apache have it

_HELD = "cep.held"


class Guard:
    """An ASGI application around the hub's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > MAX_HEADERS or size > HEAD_BYTES:
            text = (
                f"The request has more than {MAX_HEADERS} headers, or {HEAD_BYTES} bytes of them."
            )
            await error_response(431, "HEADERS_TOO_LARGE", text)(scope, receive, send)
            return
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
            text = f"The request's address is longer than {MAX_TARGET} bytes."
            await error_response(414, "ADDRESS_TOO_LONG", text)(scope, receive, send)
            return
        names = {name for name, _ in scope["headers"]}
        if b"content-length" in names and b"transfer-encoding" in names:
            # Where one ends and the next begins is then a matter of taste, also a proxy's.
            text = "The request has both a Content-Length and a Transfer-Encoding."
            await error_response(400, "BAD_REQUEST", text)(scope, receive, send)
            return
        held: list[tuple[RequestLimits, str, int]] = []
        scope[_HELD] = held
        try:
            await self._app(scope, receive, send)
        finally:
            for limits, client, size in held:
                limits.bodies.release(client, size)


def hold(scope: Scope, limits: RequestLimits, client: str, size: int) -> bool:
    """Count bytes of a body as long as its request lasts; False when they are too many."""
    if not limits.bodies.hold(client, size):
        return False
    scope.setdefault(_HELD, []).append((limits, client, size))
    return True
