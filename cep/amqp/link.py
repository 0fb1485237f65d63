"""The link: one supervised AMQP connection with one channel, kept up for ever.

Owns connecting, back-off, epochs and closing; a consumer or publisher on top of it (its
`ChannelUser`) owns what is said on the channel. Everything here runs in the AMQP thread, except
where a docstring says otherwise.

An *epoch* is the life of one channel: delivery tags and confirms mean something in their own epoch
only. Epochs of a link count from 1 and never repeat in a process.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from cep.amqp.backoff import BackOff
from cep.amqp.connection import Connection
from cep.amqp.events import (
    AmqpEvent,
    LinkBlocked,
    LinkDown,
    LinkRefused,
    LinkUnblocked,
    LinkUp,
)
from cep.amqp.failures import Failure, Where, explain
from cep.amqp.loop import AmqpLoop
from cep.amqp.parameters import connection_parameters
from cep.errors import CepError

__all__ = ["ChannelUser", "Link", "connection_parameters"]

log = logging.getLogger(__name__)


class ChannelUser(Protocol):
    """What uses a link's channel. All methods are called in the AMQP thread."""

    def channel_ready(self, channel: Any, epoch: int) -> None:
        """A new channel is open. Begin, and call `link.working()` once the broker has agreed."""

    def channel_lost(self, failure: Failure) -> None:
        """The channel is gone, and with it every tag of its epoch."""

    def unblocked(self) -> None:
        """The broker takes messages again (`link.blocked` is False)."""


class Link:
    """A connection that comes back.

    Args:
        loop: The process's AMQP loop.
        name: Name of the link in events, logs and the broker's list of connections.
        put: Takes the events; called in the AMQP thread, must not block.
        user: Who uses the channel.
        port: Replaces the port of the address (`amqp_port`).
        ssl_ca_file: Authorities to trust instead of the system's.
        guard: Called before each new channel is used; a `CepError` it raises ends the link.
        backoff: Delays between tries.
    """

    def __init__(
        self,
        loop: AmqpLoop,
        url: str,
        *,
        name: str,
        put: Callable[[AmqpEvent], None],
        user: ChannelUser,
        port: int | None = None,
        ssl_ca_file: str | None = None,
        guard: Callable[[], None] | None = None,
        backoff: BackOff | None = None,
    ) -> None:
        self._loop = loop
        self._url = url
        self._port = port
        self._ssl_ca_file = ssl_ca_file
        self.name = name
        self._put = put
        self._user = user
        self._guard = guard
        self._backoff = backoff or BackOff()
        self._parameters: Any = None
        self.where = Where("?", 0, "?", tls=False)
        self.channel: Any = None
        self.epoch = 0
        self._up_epoch = 0  # the last one that worked
        self.blocked = False
        self._connection: Any = None
        self._timer: Any = None
        self._reason: Failure | None = None  # why we ourselves end the channel
        self._started = False
        self._failing = False  # a first failure was told and no success since
        self._failing_text = ""
        self._refused = False
        self._closing = False
        self._closed = threading.Event()

    # --- from any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect; returns at once.

        Raises:
            DataError: The URL is no AMQP URL.
            ConfigError: The CA file cannot be used.
        """
        self._read_address(self._url)
        self._started = True
        self._loop.call(self._try)

    def readdress(self, url: str) -> None:
        """Go on with another address or other credentials, at once; also after a refusal.

        Raises:
            DataError: The URL is no AMQP URL.
        """
        connection_parameters(url, port=self._port, ssl_ca_file=self._ssl_ca_file)
        self._loop.call(lambda: self._change(url))

    def stop(self, deadline_s: float, begin: Callable[[], None] | None = None) -> None:
        """Close in good order, or cut the connection off at the deadline; blocks until closed.

        Args:
            deadline_s: Seconds to wait.
            begin: Called in the AMQP thread to begin the end; it leads to `close()`.
        """
        if not self._started:
            return
        self._loop.call(begin or self.close)
        if not self._closed.wait(deadline_s):
            self._loop.call(self._abort)
            self._closed.wait(1.0)

    # --- in the AMQP thread -----------------------------------------------------------------------

    @property
    def connection(self) -> Any:
        """The connection below the channel, for `cork` and `uncork`; None when there is none."""
        return self._connection

    @property
    def ending(self) -> bool:
        """The link is being closed and will not come back."""
        return self._closing

    def working(self) -> None:
        """Note that the channel does what it is for; counts once per epoch."""
        if self._up_epoch == self.epoch:
            return
        self._up_epoch = self.epoch
        self._backoff.up()
        if self._failing:
            log.info(
                "link %s to %s works again",
                self.name,
                self.where,
                extra={"event": "link.recovered", "link": self.name},
            )
        self._failing, self._failing_text = False, ""
        self._put(LinkUp(self.name))

    def fail(self, text: str) -> None:
        """Give the channel up for a reason of our own, and try again with a new one."""
        self._reason = Failure(0, text)
        if self.channel is not None and self.channel.is_open:
            self.channel.close()

    def close(self) -> None:
        """Close channel and connection in good order; the link ends."""
        self._closing = True
        self._cancel_timer()
        if self._connection is None:
            self._closed.set()
        elif not (self._connection.is_closing or self._connection.is_closed):
            self._connection.close()

    def _abort(self) -> None:
        self.close()
        transport = getattr(self._connection, "_transport", None)
        if transport is not None:
            transport.abort()

    def _read_address(self, url: str) -> None:
        parameters = connection_parameters(url, port=self._port, ssl_ca_file=self._ssl_ca_file)
        parameters.client_properties = {"connection_name": f"cep {self.name}", "product": "cep"}
        self._parameters = parameters
        self.where = Where.of(parameters, connection_parameters(url).port)

    def _change(self, url: str) -> None:
        if self._closing:
            return
        self._read_address(url)
        self._backoff.reset()
        self._refused = False
        self._cancel_timer()
        old, self._connection = self._connection, None
        if old is not None:
            self._lose_channel(Failure(0, "The address was changed."))
            if not (old.is_closing or old.is_closed):
                old.close()
        if self._started:
            self._try()

    def _try(self) -> None:
        self._timer = None
        if self._closing or self._refused:
            return
        if self._connection is not None:
            if self._connection.is_open:
                self._open_channel()
            return
        self._connection = Connection(
            self._parameters,
            on_open_callback=self._on_open,
            on_open_error_callback=self._on_closed,
            on_close_callback=self._on_closed,
            custom_ioloop=self._loop.ioloop,
        )

    def _on_open(self, connection: Any) -> None:
        if connection is not self._connection or self._closing:
            connection.close()
            return
        connection.add_on_connection_blocked_callback(self._on_blocked)
        connection.add_on_connection_unblocked_callback(self._on_unblocked)
        self._open_channel()

    def _open_channel(self) -> None:
        self._reason = None
        channel = self._connection.channel(on_open_callback=self._on_channel_open)
        channel.add_on_close_callback(self._on_channel_closed)

    def _on_channel_open(self, channel: Any) -> None:
        if channel.connection is not self._connection or self._closing:
            return
        if self._guard is not None:
            try:
                self._guard()
            except CepError as error:
                self._refuse(error)
                return
        self.epoch += 1
        self.channel = channel
        self._user.channel_ready(channel, self.epoch)

    def _on_channel_closed(self, channel: Any, error: BaseException) -> None:
        connection = channel.connection
        if connection is not self._connection or not connection.is_open:
            return  # the connection's own end follows and tells more
        self._failed(self._reason or explain(error, self.where))

    def _on_closed(self, connection: Any, error: BaseException) -> None:
        if connection is not self._connection:
            return
        self._connection = None
        self.blocked = False
        self._failed(self._reason or explain(error, self.where))

    def _failed(self, failure: Failure) -> None:
        self._lose_channel(failure)
        if self._closing:
            if self._connection is None:
                self._closed.set()
            return
        if self._refused:
            return
        if failure.refusal is not None:
            self._refuse(failure.refusal)
            return
        delay_s = self._backoff.failed()
        self._timer = self._loop.call_later(delay_s, self._try)
        log.log(
            # Said again when the reason is another one: a broker that came back unlike before.
            logging.DEBUG if failure.text == self._failing_text else logging.WARNING,
            "link %s is down: %s",
            self.name,
            failure.text,
            extra={"event": "link.down", "link": self.name, "retry_in_s": delay_s},
        )
        self._failing, self._failing_text = True, failure.text
        self._put(LinkDown(self.name, failure.text, delay_s))

    def _refuse(self, error: CepError) -> None:
        self._refused = True
        log.error(
            "link %s is refused: %s",
            self.name,
            error.message,
            extra={"event": "link.refused", "link": self.name},
        )
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        self._put(LinkRefused(self.name, error))

    def _lose_channel(self, failure: Failure) -> None:
        if self.channel is not None:
            self.channel = None
            self._user.channel_lost(failure)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._loop.cancel(self._timer)
            self._timer = None

    def _on_blocked(self, connection: Any, frame: Any) -> None:
        if connection is not self._connection:
            return
        self.blocked = True
        said = frame.method.reason or "no reason given"
        log.warning("link %s: the broker takes no messages: %s", self.name, said,
                    extra={"event": "link.blocked", "link": self.name})  # fmt: skip
        self._put(LinkBlocked(self.name, str(said)))

    def _on_unblocked(self, connection: Any, _frame: Any) -> None:
        if connection is not self._connection:
            return
        self.blocked = False
        self._put(LinkUnblocked(self.name))
        self._user.unblocked()
