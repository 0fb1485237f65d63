"""The publisher: hands messages to the broker over a link and keeps each until it is confirmed.

Owns all unconfirmed messages. Its methods may be called from any thread and return at once (`stop`
excepted); everything else runs in the AMQP thread. Confirms are pipelined: nothing waits for a
round trip. After a lost channel everything unconfirmed is published again, in order, so the broker
may see a message twice and never not at all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pika import BasicProperties

from cep.amqp.backoff import BackOff
from cep.amqp.connection import Envelope
from cep.amqp.events import AmqpEvent, Confirmed, Unroutable
from cep.amqp.failures import Failure
from cep.amqp.link import Link
from cep.amqp.loop import AmqpLoop
from cep.amqp.outgoing import Message, Outgoing
from cep.model import PublishKwargs, QueueAddress

log = logging.getLogger(__name__)

# Sent once when connected, not repeated, not counted; while disconnected only the newest is kept.
FIRE_AND_FORGET = -1
# Reply codes that a single message may cause (too large, a property it must not have), so that
# repeating all of them together would fail for ever: content-too-large, precondition-failed,
# frame-error, syntax-error, unexpected-frame. RabbitMQ 4 refuses bodies over 16 MiB with 406.
ONE_MESSAGE_CODES = frozenset({311, 406, 501, 502, 505})

PROPERTY_NAMES = frozenset(
    {"content_type", "content_encoding", "headers", "delivery_mode", "priority", "reply_to"}
    | {"correlation_id", "expiration", "message_id", "timestamp", "type", "user_id", "app_id"}
)


class Publisher:
    """Publishes messages and reports when the broker answers for them.

    Args:
        loop: The process's AMQP loop.
        address: Where to publish, and how (`publish`).
        name: Name of the link in events and logs.
        put: Takes the events; called in the AMQP thread, must not block.
        port: Replaces the port of the address (`amqp_port`).
        ssl_ca_file: Authorities to trust for TLS instead of the system's.
        guard: Called before each new channel is used; a `CepError` it raises ends the link.
        backoff: Delays between tries.
    """

    def __init__(
        self,
        loop: AmqpLoop,
        address: QueueAddress,
        *,
        name: str,
        put: Callable[[AmqpEvent], None],
        port: int | None = None,
        ssl_ca_file: str | None = None,
        guard: Callable[[], None] | None = None,
        backoff: BackOff | None = None,
    ) -> None:
        self._loop = loop
        self._route = _default_route(address)
        self._name = name
        self._put = put
        self._link = Link(
            loop,
            address.url,
            name=name,
            put=put,
            user=self,
            port=port,
            ssl_ca_file=ssl_ca_file,
            guard=guard,
            backoff=backoff,
        )
        self._outgoing = Outgoing()
        self._count = 0
        self._count_lock = threading.Lock()
        self._newest: tuple[bytes, PublishKwargs] | None = None
        self._envelopes: dict[int, tuple[PublishKwargs, Envelope]] = {}  # of the present channel
        self._confirming = False
        self._next_tag = 1
        self._confirmed: list[int] = []
        self._refused: dict[str, list[int]] = {}
        self._telling = False
        self._stop_wished = False

    # --- from any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect.

        Raises:
            DataError: The address is no AMQP URL.
            ConfigError: The CA file cannot be used.
        """
        self._link.start()

    def publish(
        self, items: Sequence[tuple[int, bytes]], route: PublishKwargs | None = None
    ) -> None:
        """Publish messages, in order; now if connected, else as soon as possible.

        Args:
            items: Token and body of each. Tokens come back in `Confirmed` or `Unroutable`;
                with `FIRE_AND_FORGET` a message is sent once and never spoken of again.
            route: Where to; default the address's own.
        """
        route = route or self._route
        kept = [Message(token, body, route) for token, body in items if token != FIRE_AND_FORGET]
        loose = [body for token, body in items if token == FIRE_AND_FORGET]
        with self._count_lock:
            self._count += len(kept)
        self._loop.call(lambda: self._accept(kept, loose[-1] if loose else None, route))

    def pending(self) -> int:
        """How many messages are neither confirmed nor refused."""
        with self._count_lock:
            return self._count

    def readdress(self, address: QueueAddress) -> None:
        """Go on at another address or with other credentials, keeping what is unconfirmed."""
        route = _default_route(address)

        def change_route() -> None:
            self._outgoing.reroute(self._route, route)
            self._route = route

        self._loop.call(change_route)
        self._link.readdress(address.url)

    def stop(self, deadline_s: float) -> None:
        """Wait for the confirms of what is in flight, as far as the deadline allows, and close.

        Args:
            deadline_s: Seconds to wait at most; what is unconfirmed then is forgotten here.
        """
        self._link.stop(deadline_s, self._begin_stop)

    # --- the channel's user, in the AMQP thread ---------------------------------------------------

    def channel_ready(self, channel: Any, epoch: int) -> None:
        """Ask for confirms; publishing goes on when the broker has agreed."""
        del epoch
        self._confirming = False
        self._next_tag = 1
        self._envelopes.clear()
        channel.add_on_return_callback(self._on_returned)
        channel.connection.ask_for_answers(
            channel, partial(self._on_answer, channel), partial(self._on_confirming, channel)
        )

    def channel_lost(self, failure: Failure) -> None:
        """Everything in flight waits again, unless the broker refused one single message."""
        self._confirming = False
        if failure.code in ONE_MESSAGE_CODES:
            for message in self._outgoing.channel_refused():
                self._tell_refused(message, failure.text)
        else:
            self._outgoing.channel_lost()
        if self._stop_wished:
            self._link.close()

    def unblocked(self) -> None:
        """Go on publishing."""
        self._pump()

    # A channel that was given up for another address may still say something while it closes, and
    # its tags mean other messages now; so each of these asks first whether it is the present one.

    def _on_confirming(self, channel: Any) -> None:
        if channel is not self._link.channel:
            return
        self._confirming = True
        self._link.working()
        self._pump()

    # --- publishing -------------------------------------------------------------------------------

    def _accept(self, kept: list[Message], loose: bytes | None, route: PublishKwargs) -> None:
        self._outgoing.add(kept)
        if loose is not None:
            self._newest = (loose, route)
        self._pump()

    def _pump(self) -> None:
        """Publish what the window allows."""
        channel = self._link.channel
        if not self._confirming or self._link.blocked or channel is None or not channel.is_open:
            return
        connection = self._link.connection
        connection.cork()
        try:
            while (message := self._outgoing.next()) is not None:
                self._outgoing.published(self._next_tag, message)
                self._send(channel, message.body, message.route)
            if self._newest is not None:
                (body, route), self._newest = self._newest, None
                self._send(channel, body, route)
        finally:
            connection.uncork()

    def _send(self, channel: Any, body: bytes, route: PublishKwargs) -> None:
        self._next_tag += 1
        self._link.connection.publish(self._envelope_of(channel, route), body)

    def _envelope_of(self, channel: Any, route: PublishKwargs) -> Envelope:
        # Kept with the route itself, so that its id cannot be given to another one meanwhile.
        known = self._envelopes.get(id(route))
        if known is None:
            if len(self._envelopes) >= 64:
                self._envelopes.clear()
            unknown = sorted(set(route.properties) - PROPERTY_NAMES)
            if unknown:
                log.warning(
                    "link %s: message properties %s are not of AMQP and are left out",
                    self._name,
                    ", ".join(unknown),
                    extra={"event": "publisher.unknown_properties", "link": self._name},
                )
            usable = {k: v for k, v in route.properties.items() if k in PROPERTY_NAMES}
            envelope = Envelope(
                channel.channel_number,
                route.exchange,
                route.routing_key,
                route.mandatory,
                BasicProperties(**usable),
            )
            known = (route, envelope)
            self._envelopes[id(route)] = known
        return known[1]

    # --- the broker's answers ---------------------------------------------------------------------

    def _on_answer(self, channel: Any, tag: int, multiple: bool, positive: bool) -> None:
        if channel is not self._link.channel:
            return
        for message in self._outgoing.answered(tag, multiple):
            if message.returned:
                self._tell_refused(message, message.returned)
            elif positive:
                self._confirmed.append(message.token)
            else:
                self._tell_refused(message, f"The broker {self._link.where} refused the message.")
        self._tell_soon()

    def _on_returned(self, channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        if channel is not self._link.channel:
            return
        reason = (
            f"The broker {self._link.where} found no queue for exchange '{method.exchange}', "
            f"routing key '{method.routing_key}': {method.reply_code} {method.reply_text}."
        )
        if not self._outgoing.returned(body, reason):
            log.debug("link %s: %s", self._name, reason)

    def _tell_refused(self, message: Message, reason: str) -> None:
        self._refused.setdefault(reason, []).append(message.token)
        self._tell_soon()

    def _tell_soon(self) -> None:
        if not self._telling:
            self._telling = True
            self._loop.call_later(0, self._turn_ends)

    def _turn_ends(self) -> None:
        """One event for all confirms of a turn, then publish into the room they made."""
        self._telling = False
        confirmed, self._confirmed = self._confirmed, []
        refused, self._refused = self._refused, {}
        with self._count_lock:
            self._count -= len(confirmed) + sum(map(len, refused.values()))
        if confirmed:
            self._put(Confirmed(self._name, confirmed))
        for reason, tokens in refused.items():
            self._put(Unroutable(self._name, tokens, reason))
        self._pump()
        self._close_when_done()

    # --- the end ----------------------------------------------------------------------------------

    def _begin_stop(self) -> None:
        self._stop_wished = True
        self._pump()
        self._close_when_done()

    def _close_when_done(self) -> None:
        if not self._stop_wished:
            return
        if self._link.channel is None or not self._confirming or not self._outgoing.in_flight:
            self._link.close()


def _default_route(address: QueueAddress) -> PublishKwargs:
    if address.publish is not None:
        return address.publish
    return PublishKwargs(address.exchange, address.queue, False, {"delivery_mode": 2})
