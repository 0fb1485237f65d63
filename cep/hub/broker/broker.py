"""The embedded broker: its life cycle, its topology (exchanges, queues, bindings), its memory.

Owns the listening socket, every connection, every queue and the store. Runs on the event loop
that called `start`; not thread-safe.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cep.errors import Unavailable
from cep.hub.broker.access import Identity, Limits
from cep.hub.broker.replies import CONNECTION_FORCED
from cep.hub.broker.store import Store

if TYPE_CHECKING:
    from cep.hub.broker.connection import Connection
    from cep.hub.broker.queues import Queue

log = logging.getLogger(__name__)

Authenticate = Callable[[str, str], Identity | None | Awaitable[Identity | None]]

_CLOSE_DEADLINE_S = 2.0
_RESUME_SHARE = 0.8


class Broker:
    """An AMQP 0-9-1 broker in this process.

    Args:
        state_dir: Directory of the broker's database (`broker.db`); made when missing. One
            broker at a time may use it.
        host: Address to listen on.
        port: TCP port; 0 lets the system choose (`start` returns it).
        authenticate: Called on the event loop with user and password at each login; returns
            the identity, or None to refuse; may be a coroutine function when it has to wait
            (a slow password hash belongs in a thread). It must not raise.
        heartbeat_s: Heartbeat interval proposed to clients in seconds; the client's own wish
            wins, 0 turns it off. A peer silent for two intervals is dropped.
        frame_max: Largest frame in bytes, proposed to clients (RabbitMQ: 131072).
        limits: The other bounds.
        ssl_context: When given, the port speaks TLS only.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        authenticate: Authenticate,
        heartbeat_s: int = 60,
        frame_max: int = 131_072,
        limits: Limits | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.authenticate = authenticate
        self.heartbeat_s = heartbeat_s
        self.frame_max = frame_max
        self.store = Store(state_dir / "broker.db")
        self._state_dir = state_dir
        self._host = host
        self._port = port
        self._ssl_context = ssl_context

    async def start(self) -> int:
        """Open the store, recover queues and messages, and listen.

        Returns:
            The TCP port.

        Raises:
            Unavailable: The port is in use, or another broker uses `state_dir`.
            DataError: The database is damaged or of a newer version; it is left untouched.
        """
        raise NotImplementedError

    async def stop(self) -> None:
        """Close every connection (reply code 320), store what is due, close the store.

        Idempotent. Messages not yet acknowledged are there again at the next start.
        """

    def drop_connections(self, user: str) -> int:
        """Close every connection of the user (reply code 320), at once; return how many."""
        raise NotImplementedError
