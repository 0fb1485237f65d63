"""The way into a port: how many connections there may be, and the TLS handshake.

Every connection is counted from the moment it is accepted. At the limit a newcomer does not wait:
the connection that has done nothing for longest leaves for it. A connection may not be taken away
while it is *busy*, which its protocol says (a complete request is being answered, a login was
right). So idle connections, however many, keep nobody out. Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import ssl
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, cast

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0  # as RabbitMQ's handshake_timeout
_GOODBYE_S = 1.0
_RESERVED_FILES = 256  # databases, bodies, listening sockets, libraries
_PORTS = 2  # REST and AMQP share the files


def raise_file_limit() -> int:
    """Let this process open as many files as it may; returns how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return 1 << 20 if hard == resource.RLIM_INFINITY else hard


def fitting(limit: int) -> int:
    """The limit, or what one port's share of the files that may be open allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return limit
    return min(limit, max(16, (soft - _RESERVED_FILES) // _PORTS))


class Door:
    """The connections of one port.

    Args:
        limit: How many there may be.
        name: What to call the port in the log.
        tls: When given, TLS is spoken, and its handshake is part of coming in.
        handshake_s: Seconds the TLS handshake may take.
    """

    def __init__(
        self,
        limit: int,
        name: str,
        tls: ssl.SSLContext | None = None,
        handshake_s: float = HANDSHAKE_S,
    ) -> None:
        self.tls = tls
        self.handshake_s = handshake_s
        self._limit = limit
        self._name = name
        self._visitors: set[Visitor] = set()
        self._idle: OrderedDict[Visitor, None] = OrderedDict()
        self._full_told = False

    def __len__(self) -> int:
        return len(self._visitors)

    def entrance(
        self, make: Callable[[Visitor], asyncio.Protocol]
    ) -> Callable[[], asyncio.Protocol]:
        """Return a protocol factory for `create_server`, which must not be given TLS itself."""
        return lambda: Visitor(self, make)

    def close(self) -> None:
        """End every connection that is still here."""
        for visitor in list(self._visitors):
            visitor.abort()

    def close_unbegun(self) -> None:
        """End the connections whose TLS handshake is not over; nobody else knows of them."""
        for visitor in list(self._visitors):
            if not visitor.begun:
                visitor.abort()

    def enter(self, visitor: Visitor) -> bool:
        """Let a connection in, for which another may have to leave; False when it may not."""
        if len(self._visitors) >= self._limit:
            if not self._full_told:
                log.warning(
                    "%s has all its %d connections; the idlest leaves for each new one",
                    self._name,
                    self._limit,
                    extra={"event": "hub.connections_full"},
                )
                self._full_told = True
            if not self._idle:
                return False
            idlest, _ = self._idle.popitem(last=False)
            self.leave(idlest)
            idlest.abort()
        self._visitors.add(visitor)
        self._idle[visitor] = None
        return True

    def leave(self, visitor: Visitor) -> None:
        """Count a connection no more. Idempotent."""
        self._visitors.discard(visitor)
        self._idle.pop(visitor, None)
        if len(self._visitors) < self._limit * 0.9:
            self._full_told = False

    def set_busy(self, visitor: Visitor, busy: bool) -> None:
        """A connection may not be taken away from now on, or may be, as the last in the row."""
        if visitor in self._visitors:
            if busy:
                self._idle.pop(visitor, None)
            elif visitor not in self._idle:
                self._idle[visitor] = None


class Visitor(asyncio.Protocol):
    """One connection: counted, through the TLS handshake, then handed to its protocol."""

    def __init__(self, door: Door, make: Callable[[Visitor], asyncio.Protocol]) -> None:
        self._door = door
        self._make = make
        self._inner: asyncio.Protocol | None = None
        self._transport: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._coming_in: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether its protocol has the connection."""
        return self._inner is not None

    def busy(self) -> None:
        """The connection does something that must not be broken off."""
        self._door.set_busy(self, True)

    def idle(self) -> None:
        """The connection only waits."""
        self._door.set_busy(self, False)

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A connection was accepted."""
        self._transport = cast(asyncio.Transport, transport)
        if not self._door.enter(self):
            self._transport.abort()
        elif self._door.tls is None:
            self._begin()
        else:
            self._coming_in = asyncio.get_running_loop().create_task(self._secure(self._door.tls))

    async def _secure(self, tls: ssl.SSLContext) -> None:
        plain = self._transport
        assert plain is not None
        times: dict[str, Any] = {"ssl_handshake_timeout": self._door.handshake_s}
        if sys.version_info >= (3, 11):
            # A client that does not answer our goodbye is not waited for half a minute.
            times["ssl_shutdown_timeout"] = _GOODBYE_S
        try:
            secure = await asyncio.get_running_loop().start_tls(
                plain, self, tls, server_side=True, **times
            )
        except (OSError, ssl.SSLError, TimeoutError, asyncio.TimeoutError):
            secure = None
        if secure is None or plain.is_closing():
            self._door.leave(self)
            plain.abort()
            return
        self._transport = secure
        self._begin()

    def _begin(self) -> None:
        inner = self._inner = self._make(self)
        transport = self._transport
        assert transport is not None
        # From here on the protocol is called straight, without a step between.
        self.data_received = inner.data_received  # type: ignore[method-assign]
        self.eof_received = inner.eof_received  # type: ignore[method-assign]
        self.pause_writing = inner.pause_writing  # type: ignore[method-assign]
        self.resume_writing = inner.resume_writing  # type: ignore[method-assign]
        inner.connection_made(transport)
        for data in self._early:
            inner.data_received(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        """Keep what came together with the end of the TLS handshake."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._door.leave(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)
