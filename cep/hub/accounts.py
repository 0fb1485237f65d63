"""Who has a login at the broker: one interface, and the embedded broker's side of it.

The embedded broker asks the hub at each login (`users`), so that little is left to do there; a
RabbitMQ keeps users of its own (`rabbitmq_accounts`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from cep.hub import topology


class Accounts(Protocol):
    """The broker's users. Each method may be repeated; whoever is cut off is so on its return.

    All of them raise TemporaryFailure when the broker does not answer.
    """

    async def admit_endpoint(self, endpoint_id: str, password: str) -> None:
        """Let the endpoint in with this password only; connections of before are closed."""

    async def admit_client(self, client_id: str, password: str) -> None:
        """Let the SDK client in with this password."""

    async def remove(self, user: str) -> int:
        """Take the user away; return how many of its connections were closed."""

    async def suspend(self, users: Iterable[str]) -> int:
        """Let the users in no more, until resumed; return how many connections were closed."""

    async def resume(self, endpoint_ids: Iterable[str]) -> None:
        """Let suspended endpoints in again, with the passwords they had."""


class EmbeddedAccounts:
    """The embedded broker's users: the store is what decides, connections are what is closed.

    Args:
        drop_connections: Closes every connection of a user and tells how many there were.
    """

    def __init__(self, drop_connections: Callable[[str], int]) -> None:
        self._drop = drop_connections

    async def admit_endpoint(self, endpoint_id: str, password: str) -> None:
        """Close the connections of an earlier life; the password is in the store."""
        del password
        self._drop(topology.endpoint_user(endpoint_id))

    async def admit_client(self, client_id: str, password: str) -> None:
        """Nothing: the password is derived when it is asked for."""

    async def remove(self, user: str) -> int:
        """Close the user's connections; the store knows it no more."""
        return self._drop(user)

    async def suspend(self, users: Iterable[str]) -> int:
        """Close the users' connections; the store has their client disabled."""
        return sum(self._drop(user) for user in users)

    async def resume(self, endpoint_ids: Iterable[str]) -> None:
        """Nothing: the store has their client enabled."""
