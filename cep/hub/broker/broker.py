"""The embedded broker: its life cycle and its topology (exchanges, queues, bindings).

Owns the listening socket, every connection, every queue and the store. Runs on the event loop
that called `start`; not thread-safe.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cep.errors import Unavailable
from cep.hub.broker.access import Identity, Limits
from cep.hub.broker.connection import Connection
from cep.hub.broker.queues import Memory, Message, Queue, Shared
from cep.hub.broker.replies import ChannelFault, Code
from cep.hub.broker.store import Done, Recovered, Store, StoredQueue
from cep.hub.door import Door, fitting
from cep.hub.limits import Buckets

log = logging.getLogger(__name__)

Authenticate = Callable[[str, str], Identity | Awaitable[Identity | None] | None]

_CLOSE_DEADLINE_S = 2.0
INNER_HOST = "127.0.0.1"
_INNER_CONNECTIONS = 64


@dataclass(slots=True)
class Exchange:
    """A direct exchange: routing key -> queues, in the order of binding."""

    name: str
    durable: bool
    bindings: dict[str, dict[str, Queue]] = field(default_factory=dict)


class Broker:
    """An AMQP 0-9-1 broker in this process.

    Args:
        state_dir: Directory of the broker's database (`broker.db`); made when missing. One
            broker at a time may use it.
        host: Address to listen on.
        port: TCP port; 0 lets the system choose (`start` returns it).
        authenticate: Called on the event loop with user and password at each login; returns
            the identity, or None to refuse; may be a coroutine function when it has to wait
            (a slow password hash belongs in a thread). An error it raises refuses the login.
        heartbeat_s: Heartbeat interval proposed to clients in seconds; the client's own wish
            wins, 0 turns it off. A peer silent for two intervals is dropped.
        frame_max: Largest frame in bytes, proposed to clients (RabbitMQ: 131072).
        limits: The other bounds.
        ssl_context: When given, the port speaks TLS only, and there is another, plain one on
            loopback for connections of this process itself: no certificate is made for that.

    Attributes:
        inner_port: The port of the latter; 0 when there is none.
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
        self.memory = Memory(self.limits.memory_bytes)
        self.store = Store(state_dir / "broker.db")
        self._shared = Shared(self.limits, self.memory, self.store)
        self.queues: dict[str, Queue] = {}
        self.exchanges: dict[str, Exchange] = {}
        self.connections: set[Connection] = set()
        self.wrong_logins = Buckets(self.limits.wrong_logins, self.limits.wrong_logins_burst)
        self.inner_port = 0
        self._door = Door(
            fitting(self.limits.connections), "The broker", ssl_context, self.limits.handshake_s
        )
        self._inner_door = Door(_INNER_CONNECTIONS, "The broker's inner port")
        self._server: asyncio.Server | None = None
        self._inner: asyncio.Server | None = None
        self._all_closed = asyncio.Event()
        self._host = host
        self._port = port

    async def start(self) -> int:
        """Open the store, recover queues and messages, and listen.

        Returns:
            The TCP port.

        Raises:
            Unavailable: The port is in use, or another broker uses `state_dir`.
            DataError: The database is damaged or of a newer version; it is left untouched.
            CantCreate: `state_dir` or the database in it cannot be made.
        """
        recovered = await self.store.open()
        self._recover(recovered)
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._door.entrance(lambda visitor: Connection(self, visitor)),
                self._host,
                self._port,
            )
            if self._door.tls is not None:
                self._inner = await loop.create_server(
                    self._inner_door.entrance(lambda visitor: Connection(self, visitor)),
                    INNER_HOST,
                    0,
                )
                self.inner_port = self._inner.sockets[0].getsockname()[1]
        except OSError as exc:
            await self.store.close([])
            raise Unavailable(
                f"The AMQP broker cannot listen on {self._host} port {self._port}: "
                f"{exc.strerror or exc}."
            ) from exc
        port: int = self._server.sockets[0].getsockname()[1]
        log.info(
            "AMQP broker listens on %s port %s with %s queues and %s messages",
            self._host,
            port,
            len(self.queues),
            len(recovered.messages),
            extra={"event": "broker.started"},
        )
        return port

    async def stop(self) -> None:
        """Close every connection (reply code 320), store what is due, close the store.

        Idempotent. Messages not yet acknowledged are there again at the next start, and those
        that had been delivered are flagged as redelivered.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        if self._inner is not None:
            self._inner.close()
        if self.connections:
            self._all_closed.clear()
            for connection in list(self.connections):
                connection.close(Code.CONNECTION_FORCED, "the broker is stopping")
            try:
                await asyncio.wait_for(self._all_closed.wait(), _CLOSE_DEADLINE_S)
            except (TimeoutError, asyncio.TimeoutError):
                for connection in list(self.connections):
                    connection.abort()
                await self._all_closed.wait()
        self._door.close()
        self._inner_door.close()
        delivered = [
            message.seq
            for queue in self.queues.values()
            for message in queue.ready
            if message.redelivered and message.persistent
        ]
        await self.store.close(delivered)
        log.info("AMQP broker stopped", extra={"event": "broker.stopped"})

    def drop_connections(self, user: str) -> int:
        """Close every connection of the user (reply code 320), at once; return how many."""
        theirs = [each for each in self.connections if each.user == user]
        for connection in theirs:
            connection.close(Code.CONNECTION_FORCED, "the credentials were withdrawn")
        return len(theirs)

    def may_connect(self, user: str) -> bool:
        """Whether the user has not too many connections yet."""
        theirs = sum(1 for each in self.connections if each.user == user)
        return theirs < self.limits.user_connections

    def forget(self, connection: Connection) -> None:
        """The connection is closed; its exclusive queues go with it."""
        self.connections.discard(connection)
        self.memory.forget(connection)
        for queue in [each for each in self.queues.values() if each.owner is connection]:
            self.delete_queue(queue, None)
        if not self.connections:
            self._all_closed.set()

    # -- topology ----------------------------------------------------------------------

    def queue(self, name: str, connection: Connection) -> Queue:
        """The queue of that name, when the connection may use it.

        Raises:
            ChannelFault: 404 when there is none, 405 when it is exclusive to another.
        """
        found = self.queues.get(name)
        if found is None:
            raise ChannelFault(Code.NOT_FOUND, f"no queue '{name}' in vhost '/'")
        if found.owner is not None and found.owner is not connection:
            raise ChannelFault(
                Code.RESOURCE_LOCKED,
                f"cannot obtain exclusive access to locked queue '{name}' in vhost '/'",
            )
        return found

    def exchange(self, name: str) -> Exchange:
        """The exchange of that name.

        Raises:
            ChannelFault: 404 when there is none.
        """
        found = self.exchanges.get(name)
        if found is None:
            raise ChannelFault(Code.NOT_FOUND, f"no exchange '{name}' in vhost '/'")
        return found

    def route(self, exchange: str, routing_key: str) -> list[Queue]:
        """The queues that a message goes to.

        Raises:
            ChannelFault: 404 when there is no such exchange.
        """
        if not exchange:
            queue = self.queues.get(routing_key)
            return [] if queue is None else [queue]
        bound = self.exchange(exchange).bindings.get(routing_key)
        return [] if bound is None else list(bound.values())

    def add_exchange(self, name: str, *, durable: bool, done: Done) -> None:
        """Make a direct exchange; `done` once it is as durable as it shall be."""
        self.exchanges[name] = Exchange(name, durable)
        if durable:
            self.store.save_exchange(name, done)
        else:
            done(True)

    def add_queue(
        self,
        name: str,
        *,
        durable: bool,
        auto_delete: bool,
        owner: Connection | None,
        done: Done,
    ) -> Queue:
        """Make a queue; `done` once it is as durable as it shall be."""
        number = next(self._numbers)
        queue = Queue(
            name, number, durable=durable, auto_delete=auto_delete, owner=owner, shared=self._shared
        )
        self.queues[name] = queue
        if queue.stored:
            self.store.save_queue(StoredQueue(queue.number, name, auto_delete), done)
        else:
            done(True)
        return queue

    def bind(self, exchange: Exchange, routing_key: str, queue: Queue, done: Done) -> None:
        """Bind a queue; a second time changes nothing."""
        exchange.bindings.setdefault(routing_key, {})[queue.name] = queue
        if exchange.durable and queue.stored:
            self.store.save_binding(exchange.name, routing_key, queue.number, done)
        else:
            done(True)

    def unbind(self, exchange: Exchange, routing_key: str, queue: Queue, done: Done) -> None:
        """Take a binding away; one that is not there is fine."""
        bound = exchange.bindings.get(routing_key, {})
        bound.pop(queue.name, None)
        if not bound:
            exchange.bindings.pop(routing_key, None)
        if exchange.durable and queue.stored:
            self.store.delete_binding(exchange.name, routing_key, queue.number, done)
        else:
            done(True)

    def delete_queue(self, queue: Queue, done: Done | None) -> int:
        """Delete a queue with its bindings and messages; its consumers are told.

        Returns:
            How many ready messages went with it.
        """
        del self.queues[queue.name]
        for exchange in self.exchanges.values():
            for key in [key for key, bound in exchange.bindings.items() if queue.name in bound]:
                del exchange.bindings[key][queue.name]
                if not exchange.bindings[key]:
                    del exchange.bindings[key]
        consumers = list(queue.consumers)
        queue.deleted = True
        queue.consumers.clear()
        for consumer in consumers:
            consumer.cancelled()
        count = queue.purge()
        finish: Done = done or (lambda _safe: None)
        if queue.stored:
            self.store.delete_queue(queue.number, finish)
        else:
            finish(True)
        return count

    def _recover(self, recovered: Recovered) -> None:
        for name in recovered.exchanges:
            self.exchanges[name] = Exchange(name, durable=True)
        by_number: dict[int, Queue] = {}
        for stored in recovered.queues:
            queue = by_number[stored.id] = self.queues[stored.name] = Queue(
                stored.name,
                stored.id,
                durable=True,
                auto_delete=stored.auto_delete,
                owner=None,
                shared=self._shared,
            )
        for exchange, key, number in recovered.bindings:
            queue = by_number[number]
            self.exchanges[exchange].bindings.setdefault(key, {})[queue.name] = queue
        last = 0
        for found in recovered.messages:
            message = Message(
                found.seq, found.route, found.properties, found.size, None, persistent=True
            )
            message.redelivered = found.redelivered
            by_number[found.queue].recover(message)
            last = found.seq
        self.sequence = itertools.count(last + 1)
        self._numbers = itertools.count(max(by_number, default=0) + 1)
