"""The HTTP server: uvicorn in our loop, with bounds on what a connection may cost.

A request's head has to arrive within ten seconds and in 32 KiB; uvicorn itself waits for ever. What
cannot be read as HTTP is answered in the hub's error shape and the connection ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from cep.hub.door import Door, Visitor, fitting
from cep.hub.rest.errors import error_response
from cep.hub.rest.guard import HEAD_BYTES

CONNECTIONS = 4096
HEAD_S = 10.0
_GRACE_S = 5  # for requests under way at the stop
_KEEP_ALIVE_S = 75  # idle connections; above the pauses of a polling SDK
_BACKLOG = 512

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """uvicorn in our loop, with our signals.

    Args:
        app: The application.
        tls: When given, https:// is served.
        connections: How many there may be at one time.
        head_s: Seconds a request's head may take.
    """

    def __init__(
        self,
        app: Starlette,
        tls: ssl.SSLContext | None = None,
        *,
        connections: int = CONNECTIONS,
        head_s: float = HEAD_S,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                date_header=False,  # uvicorn renews it by polling
                h11_max_incomplete_event_size=HEAD_BYTES,
                http=_Http,
                lifespan="off",
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
                timeout_keep_alive=_KEEP_ALIVE_S,
                ws="none",
            )
        )
        self.door = Door(fitting(connections), "The REST service", tls)
        self._head_s = head_s
        self._tell: Callable[[], None] = lambda: None
        self._ended = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The hub has its own handlers; uvicorn's would end the process before our own end."""
        yield

    async def run(self, sockets: list[socket.socket], tell: Callable[[], None]) -> None:  # type: ignore[override]
        """Serve on the sockets; `tell` is called once connections are taken."""
        self._tell = tell
        await self.serve(sockets=sockets)
        self.door.close()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take connections, through our door, then say so."""
        loop = asyncio.get_running_loop()

        def make(visitor: Visitor) -> asyncio.Protocol:
            return _Http(
                config=self.config,
                server_state=self.server_state,
                app_state={},
                visitor=visitor,
                head_s=self._head_s,
            )

        self.servers = [
            await loop.create_server(self.door.entrance(make), sock=one, backlog=_BACKLOG)
            for one in sockets or ()
        ]
        self.started = True
        self._tell()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; requests under way get their grace."""
        self.door.close_unbegun()
        await super().shutdown(sockets)

    async def main_loop(self) -> None:
        """Wait for the end, where uvicorn would look ten times a second whether it has come."""
        await self._ended.wait()

    def end(self) -> None:
        """Stop serving."""
        self.should_exit = True
        self._ended.set()


class _Http(H11Protocol):
    """One connection, which may not wait for ever."""

    def __init__(self, *, visitor: Visitor, head_s: float, **values: Any) -> None:
        super().__init__(**values)
        self._visitor = visitor
        self._head_s = head_s
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come; its request is due."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Take in a piece of a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """An answer was given."""
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Set who may be sent away, and how long the client may take."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and not self.cycle.more_body:
            self._visitor.busy()
        else:
            self._visitor.idle()
        # A body that comes too slowly is its reader's business; an idle connection is uvicorn's.
        waiting = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        if answering or (self.cycle is not None and waiting):
            self._cancel()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self._head_s, self._too_late)

    def _cancel(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0] and self.conn.our_state is h11.IDLE:
            self._refuse(408, "REQUEST_TIMEOUT", "The request's head took too long.")
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or too much of it."""
        error = sys.exc_info()[1]
        if getattr(error, "error_status_hint", 400) == 431:
            self._refuse(
                431,
                "HEADERS_TOO_LARGE",
                f"The head of the request is larger than {HEAD_BYTES} bytes.",
            )
        else:
            self._refuse(400, "BAD_REQUEST", msg)

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = bytes(error_response(status, code, message).body)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        with contextlib.suppress(h11.LocalProtocolError):  # an answer is under way already
            for event in (
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
