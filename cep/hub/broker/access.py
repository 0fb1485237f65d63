"""Who may do what on the embedded broker, and how much of it: identities and limits.

Pure data; the hub makes an `Identity` for each login, the broker asks it at each operation. The
rights have RabbitMQ's meaning: configure (declare, delete), write (publish to an exchange, bind a
queue), read (consume, get, purge; the exchange of a binding).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Names = frozenset[str] | Callable[[str], bool]

DEFAULT_EXCHANGE = "amq.default"
"""The name under which permissions know the nameless exchange (as RabbitMQ has it)."""

_MIB = 1 << 20


def anything(_name: str) -> bool:
    """The rule of a privileged identity: every name is allowed."""
    return True


@dataclass(frozen=True, slots=True)
class Identity:
    """A user that has logged in, with what it may touch.

    Each rule is a frozenset of names or a predicate on a name; empty means nothing. A passive
    declare needs no permission, as in RabbitMQ.

    Attributes:
        name: The user's name, as `Broker.drop_connections` knows it.
        configure: Queues and exchanges it may declare and delete.
        write: Exchanges it may publish to (`"amq.default"` for the nameless one) and queues it
            may bind.
        read: Queues it may consume from, get from and purge, and exchanges it may bind to.
        routing_keys: Routing keys it may publish with, on top of `write`; None means any.
    """

    name: str
    configure: Names = frozenset()
    write: Names = frozenset()
    read: Names = frozenset()
    routing_keys: Names | None = None

    @classmethod
    def privileged(cls, name: str) -> Identity:
        """An identity that may do everything: the hub's own."""
        return cls(name, configure=anything, write=anything, read=anything)

    def may_configure(self, name: str) -> bool:
        """Whether it may declare or delete the queue or exchange."""
        return _allows(self.configure, name)

    def may_write(self, name: str) -> bool:
        """Whether it may publish to the exchange, or bind the queue."""
        return _allows(self.write, name or DEFAULT_EXCHANGE)

    def may_publish(self, exchange: str, routing_key: str) -> bool:
        """Whether it may publish to the exchange with this routing key."""
        return self.may_write(exchange) and (
            self.routing_keys is None or _allows(self.routing_keys, routing_key)
        )

    def may_read(self, name: str) -> bool:
        """Whether it may take messages from the queue, or bind to the exchange."""
        return _allows(self.read, name)


def _allows(rule: Names, name: str) -> bool:
    return rule(name) if callable(rule) else name in rule


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds that keep one client from exhausting the broker.

    Attributes:
        body_bytes: Largest message body; above it the channel is closed with 406. The default
            is RabbitMQ's (128 MiB).
        memory_bytes: Bodies held in memory over all queues; above it connections that publish
            are not read until it falls below 80 % of it.
        page_bytes: Bodies held in memory per queue; stored bodies beyond it are on disk only.
        queue_bytes: Bodies per queue, in memory or on disk; above it a publish is refused
            (basic.nack when the channel has confirms).
        queue_messages: Messages per queue, refused in the same way.
        outbound_bytes: Bytes waiting to be sent per connection; no delivery beyond it.
        connections: Connections at one time; the idlest without a login leaves for a new one.
        user_connections: Connections of one user.
        channels: Channels per connection.
        consumers: Consumers per channel.
        handshake_s: Seconds a connection may take until it is open (RabbitMQ: 10 s).
        wrong_logins: Wrong logins per second and address; more than a burst of them wait longer.
        wrong_logins_burst: The burst.
        wrong_login_s: Seconds that the refusal of a surplus one takes.
    """

    body_bytes: int = 128 * _MIB
    memory_bytes: int = 256 * _MIB
    page_bytes: int = 16 * _MIB
    queue_bytes: int = 8192 * _MIB
    queue_messages: int = 1_000_000
    outbound_bytes: int = 1 * _MIB
    connections: int = 4096
    user_connections: int = 1024
    channels: int = 255
    consumers: int = 256
    handshake_s: float = 10.0
    wrong_logins: float = 1.0
    wrong_logins_burst: float = 20.0
    wrong_login_s: float = 2.0
