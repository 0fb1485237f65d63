"""What a link tells its owner: frozen events, made in the AMQP thread, put into a mailbox.

Every event carries `link`, the name given to the consumer or publisher it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cep.errors import CepError
from cep.model import Delivery


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The link works: the channel is open, and consuming or taking messages as wished."""

    link: str


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The link is down or a try to bring it up failed; it tries again by itself.

    Attributes:
        link: Name of the link.
        reason: A sentence naming host and port, never the password.
        retry_in_s: Seconds until the next try.
    """

    link: str
    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True)
class LinkRefused:
    """The broker refuses the credentials or a permission; the link does not try again."""

    link: str
    error: CepError


@dataclass(frozen=True, slots=True)
class LinkBlocked:
    """The broker is short of memory or disk and takes no messages for now."""

    link: str
    reason: str


@dataclass(frozen=True, slots=True)
class LinkUnblocked:
    """The broker takes messages again."""

    link: str


@dataclass(frozen=True, slots=True)
class Consuming:
    """The broker delivers to us on the channel of this epoch."""

    link: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Delivered:
    """Everything that was ready in one turn of the loop.

    Attributes:
        link: Name of the link.
        deliveries: One or more, all of one epoch, in the broker's order.
    """

    link: str
    deliveries: Sequence[Delivery]


@dataclass(frozen=True, slots=True)
class ConsumeStopped:
    """The answer to `pause()`: nothing more is delivered until `consume()`."""

    link: str
    epoch: int


@dataclass(frozen=True, slots=True)
class AcksProcessed:
    """The answer to `probe()`: the broker has processed every ack of this epoch sent before it."""

    link: str
    epoch: int
    mark: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has these messages and answers for them; the publisher forgot them."""

    link: str
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class Unroutable:
    """The broker did not take these messages; the publisher keeps them no longer.

    Attributes:
        link: Name of the link.
        tokens: The messages' tokens.
        reason: What the broker said, as a sentence.
    """

    link: str
    tokens: Sequence[int]
    reason: str


AmqpEvent: TypeAlias = (
    LinkUp
    | LinkDown
    | LinkRefused
    | LinkBlocked
    | LinkUnblocked
    | Consuming
    | Delivered
    | ConsumeStopped
    | AcksProcessed
    | Confirmed
    | Unroutable
)
