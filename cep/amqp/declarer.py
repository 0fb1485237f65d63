"""The declarer: makes exchanges, queues and bindings at the broker, and takes queues away.

Only the hub declares; endpoints use what is there. Each request is a list of operations, carried
out in order on a channel of its own; after a lost connection the list begins again, since every
operation may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class DeclareExchange:
    """Make a durable exchange."""

    name: str
    kind: str = "direct"


@dataclass(frozen=True, slots=True)
class DeclareQueue:
    """Make a durable queue."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bind:
    """Bind a queue to an exchange."""

    queue: str
    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class PurgeQueue:
    """Take away what waits in a queue."""

    name: str


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Take a queue away with what is in it; nothing happens when there is none."""

    name: str


Operation: TypeAlias = DeclareExchange | DeclareQueue | Bind | PurgeQueue | DeleteQueue
