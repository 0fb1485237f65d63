"""Around every route: bounds on the request's head, and what a request held is given back."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from cep.hub.limits import RequestLimits
from cep.hub.rest.errors import error_response

MAX_HEADERS = 100
MAX_TARGET = 8192  # bytes of path and query, as nginx and Apache have it

_HELD = "cep.held"


class Guard:
    """An ASGI application around the hub's.

    Args:
        app: What is guarded.
        limits: Whose counts are given back when a request is over.
    """

    def __init__(self, app: ASGIApp, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if len(scope["headers"]) > MAX_HEADERS:
            text = f"The request has more than {MAX_HEADERS} headers."
            await error_response(431, "TOO_MANY_HEADERS", text)(scope, receive, send)
            return
        if len(scope["raw_path"]) + len(scope["query_string"]) > MAX_TARGET:
            text = f"The request's address is longer than {MAX_TARGET} bytes."
            await error_response(414, "ADDRESS_TOO_LONG", text)(scope, receive, send)
            return
        held: list[tuple[str, int]] = []
        scope[_HELD] = held
        try:
            await self._app(scope, receive, send)
        finally:
            for client, size in held:
                self._limits.bodies.release(client, size)


def hold(scope: Scope, limits: RequestLimits, client: str, size: int) -> bool:
    """Count bytes of a body as long as its request lasts; False when they are too many."""
    if not limits.bodies.hold(client, size):
        return False
    scope.setdefault(_HELD, []).append((client, size))
    return True
