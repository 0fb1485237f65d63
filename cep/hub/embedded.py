"""The embedded broker as the one that a hub uses: where it listens, and what clients are told."""

from __future__ import annotations

from contextlib import AsyncExitStack

from cep.errors import Unavailable
from cep.hub import topology
from cep.hub.accounts import EmbeddedAccounts
from cep.hub.broker.broker import INNER_HOST, Broker
from cep.hub.broker_in_use import BrokerInUse
from cep.hub.options import HubFiles, HubOptions, bindable
from cep.hub.services import Addresses, addresses_of
from cep.hub.sockets import in_use
from cep.hub.tls import Certificate
from cep.hub.users import BrokerUsers


class EmbeddedBroker:
    """Starts it.

    Args:
        options: How the hub serves.
        files: The hub's files; the broker's queues and its port are among them.
        tls: The certificate; None serves without TLS.
    """

    def __init__(self, options: HubOptions, files: HubFiles, tls: Certificate | None) -> None:
        self._options = options
        self._files = files
        self._tls = tls

    async def start(self, stack: AsyncExitStack, port: int, users: BrokerUsers) -> BrokerInUse:
        """Start the broker, to be stopped with the stack.

        Args:
            stack: Closes at its end what is opened here.
            port: TCP port of the REST service.
            users: Who may log in.

        Raises:
            Unavailable: Its port is in use.
        """
        broker = Broker(
            self._files.broker,
            host=bindable(self._options.host),
            port=self._port(),
            authenticate=users.authenticate,
            ssl_context=None if self._tls is None else self._tls.context,
        )
        amqp_port = await self._start(broker)
        stack.push_async_callback(broker.stop)
        return BrokerInUse(
            own_url=self._own_url(broker.inner_port or amqp_port, users.hub_password),
            addresses=addresses_of(self._options, port, amqp_port),
            accounts=EmbeddedAccounts(broker.drop_connections),
            layout=topology.Layout(),
        )

    def _port(self) -> int:
        """The broker's port: the given one, the remembered one, or 0 for a new one."""
        if self._options.amqp_port:
            return self._options.amqp_port
        try:
            return int(self._files.amqp_port.read_text("ascii"))
        except (FileNotFoundError, ValueError):
            return 0

    async def _start(self, broker: Broker) -> int:
        wanted = self._port()
        try:
            port = await broker.start()
        except Unavailable as exc:
            if not wanted or "use" not in exc.message:
                raise
            conflict = in_use(self._options.host, wanted)
            raise Unavailable(
                f"The broker's port, to which endpoints come back, is taken. {conflict.message}",
                hint=f"Free the port, or remove {self._files.amqp_port} to let the hub choose "
                "another one and restart the endpoints.",
            ) from exc
        self._files.amqp_port.write_text(f"{port}\n", "ascii")
        return port

    def _own_url(self, amqp_port: int, password: str) -> str:
        host = bindable(self._options.host)
        own = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        if self._options.tls_cert is not None:
            own = INNER_HOST
        return Addresses("", own, amqp_port).amqp_url(topology.HUB_USER, password, None)
