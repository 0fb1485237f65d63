"""The opening of a connection: protocol header, login, tuning, vhost.

One per connection, on the broker's event loop; done once the vhost is open.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
import logging
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any

from pamqp import base, commands

import cep
from cep.hub.broker import frames
from cep.hub.broker.access import Identity
from cep.hub.broker.replies import Code, ConnectionFault, not_implemented

if TYPE_CHECKING:
    from cep.hub.broker.broker import Broker
    from cep.hub.broker.connection import Connection

log = logging.getLogger(__name__)

_CAPABILITIES = {
    "publisher_confirms": True,
    "basic.nack": True,
    "consumer_cancel_notify": True,
    "connection.blocked": True,
    "per_consumer_qos": True,
    "authentication_failure_close": True,
    "exchange_exchange_bindings": False,
    "consumer_priorities": False,
    "direct_reply_to": False,
}


class Step(enum.Enum):
    """What is waited for."""

    HEADER = "the protocol header was due"
    LOGIN = "the login was due"
    CHECK = "the login was being checked"
    TUNING = "the tuning was due"
    VHOST = "the vhost was due"
    DONE = "the connection was open"


class Handshake:
    """Negotiates one connection.

    Attributes:
        identity: Who has logged in; nobody, who may do nothing, until then.
        capabilities: What the client said it understands.
        heartbeat_s: The interval agreed upon; 0 is none.
        frame_max: The largest frame agreed upon.
    """

    def __init__(self, connection: Connection, broker: Broker) -> None:
        self.step = Step.HEADER
        self.identity = Identity("")
        self.capabilities: Mapping[str, object] = {}
        self.heartbeat_s = 0
        self.frame_max = broker.frame_max
        self._connection = connection
        self._broker = broker
        self._waiting: asyncio.Future[None] | None = None
        self._later: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The client sent the right protocol header: offer PLAIN."""
        self.step = Step.LOGIN
        properties: dict[str, Any] = {
            "product": "cep hub",
            "version": cep.__version__,
            "capabilities": dict(_CAPABILITIES),
        }
        self._send(commands.Connection.Start(0, 9, properties, "PLAIN", "en_US"))

    def method(self, method: base.Frame) -> bool:
        """Take the next method of the opening; True when the connection is open by it.

        Raises:
            ConnectionFault: It is not the one that was due, or asks for what cannot be.
        """
        if isinstance(method, commands.Connection.StartOk) and self.step is Step.LOGIN:
            self._start_ok(method)
        elif isinstance(method, commands.Connection.TuneOk) and self.step is Step.TUNING:
            self._tune_ok(method)
        elif isinstance(method, commands.Connection.Open) and self.step is Step.VHOST:
            if method.virtual_host != "/":
                raise ConnectionFault(Code.NOT_ALLOWED, f"vhost {method.virtual_host} not found")
            self.step = Step.DONE
            self._send(commands.Connection.OpenOk())
            return True
        elif self.step is Step.DONE:
            raise not_implemented(method.name)
        else:
            raise ConnectionFault(Code.COMMAND_INVALID, f"{method.name}: {self.step.value}")
        return False

    def cancel(self) -> None:
        """The connection is gone."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._later is not None:
            self._later.cancel()

    def _send(self, method: base.Frame) -> None:
        self._connection.send(frames.encode_method(0, method))

    def _start_ok(self, method: commands.Connection.StartOk) -> None:
        capabilities = (method.client_properties or {}).get("capabilities")
        if isinstance(capabilities, dict):
            self.capabilities = capabilities
        if method.mechanism != "PLAIN":
            raise ConnectionFault(
                Code.COMMAND_INVALID, f"unknown authentication mechanism '{method.mechanism}'"
            )
        response: str | bytes = method.response
        text = response if isinstance(response, str) else response.decode("utf-8", "replace")
        parts = text.split("\0")
        user, password = parts[1:] if len(parts) == 3 else ("", "")
        self.step = Step.CHECK
        try:
            answer = self._broker.authenticate(user, password)
        except Exception:
            log.exception("The login could not be checked", extra={"event": "broker.login_bug"})
            answer = None
        if inspect.isawaitable(answer):
            self._waiting = asyncio.ensure_future(self._wait(user, answer))
        else:
            self._checked(user, answer)

    async def _wait(self, user: str, answer: Awaitable[Identity | None]) -> None:
        try:
            identity = await answer
        except Exception:
            log.exception("The login could not be checked", extra={"event": "broker.login_bug"})
            identity = None
        self._checked(user, identity)

    def _checked(self, user: str, identity: Identity | None) -> None:
        if identity is None:
            self._connection.warn("login_refused", f"the login of user {user!r} was refused")
            if self._broker.wrong_logins.take(self._connection.address):
                delay_s = self._broker.limits.wrong_login_s
                self._later = asyncio.get_running_loop().call_later(delay_s, self._refuse)
            else:
                self._refuse()
            return
        if not self._broker.may_connect(identity.name):
            self._connection.warn("too_many", f"user {identity.name!r} has too many connections")
            text = "this user has too many connections"
            self._connection.close(Code.NOT_ALLOWED, text)
            return
        self._let_in(identity)

    def _refuse(self) -> None:
        if self.capabilities.get("authentication_failure_close") is True:
            text = "Login was refused using authentication mechanism PLAIN."
            self._connection.close(Code.ACCESS_REFUSED, text)
        else:
            self._connection.finish()

    def _let_in(self, identity: Identity) -> None:
        self.identity = identity
        self.step = Step.TUNING
        broker = self._broker
        tune = commands.Connection.Tune(
            broker.limits.channels, broker.frame_max, broker.heartbeat_s
        )
        self._send(tune)

    def _tune_ok(self, method: commands.Connection.TuneOk) -> None:
        ours = self._broker.frame_max
        wanted = method.frame_max or ours
        if not frames.MIN_FRAME_MAX <= wanted <= ours:
            raise ConnectionFault(
                Code.NOT_ALLOWED, f"negotiated frame_max = {wanted} is not within 4096 and {ours}"
            )
        self.frame_max = wanted
        self.heartbeat_s = method.heartbeat
        self.step = Step.VHOST
