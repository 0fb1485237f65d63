"""Clients and tokens: who asks, and is it so. Client-credential tokens as Globus Auth gives them.

Runs on the event loop. A hub that is alone owns the clients in memory (the store keeps them) and a
cache of tokens; where several hubs share the store, it is asked each time, so that what one hub
changes counts at the others at once.

Secrets and tokens are random 256-bit values, of which only SHA-256 digests are kept. The broker
passwords of SDK users are derived from the hub's key, the client and its generation: the SDK asks
for them at each connect, from several processes at once, so they must stay the same until the
client's secret is rotated.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cep.errors import InputMissing, NotAllowed, UsageError
from cep.hub import records
from cep.hub.records import Client
from cep.hub.store import Store

# Source: globus-sdk 4.9 ComputeScopes; the client id of the hosted service.
COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"
COMPUTE_RESOURCE_SERVER = "funcx_service"
AUTH_RESOURCE_SERVER = "auth.globus.org"
TOKEN_LIFETIME_S = 48 * 3600  # as Globus Auth's access tokens
_TOKEN_CACHE = 10_000  # tokens held in memory at most

_SCOPE_URL = re.compile(r"https://auth\.globus\.org/scopes/([^/]+)/\S+")
_SCOPE_URN = re.compile(r"urn:globus:auth:scope:([^:]+):\S+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client's id and its secret in clear, shown once to whoever made it."""

    client_id: str
    client_secret: str
    name: str


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a valid token belongs to, and for which resource server it is."""

    client: Client
    resource_server: str


def digest(secret: str) -> str:
    """Return the SHA-256 of a secret as hexadecimal text."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def new_secret() -> str:
    """Return a new random secret of 256 bits, safe in URLs."""
    return secrets.token_urlsafe(32)


def new_client(name: str, now: float) -> tuple[Client, str]:
    """Make a client and its secret; nothing is stored."""
    secret = new_secret()
    client = Client(
        client_id=str(uuid.uuid4()),
        name=name,
        secret_digest=digest(secret),
        generation=1,
        disabled=False,
        created_at=now,
    )
    return client, secret


def resource_server(scope: str) -> str:
    """Return the name of the resource server to which a scope belongs."""
    if scope == COMPUTE_SCOPE:
        return COMPUTE_RESOURCE_SERVER
    match = _SCOPE_URN.fullmatch(scope) or _SCOPE_URL.fullmatch(scope)
    return AUTH_RESOURCE_SERVER if match is None else match.group(1)


def plain_scopes(text: str) -> list[str]:
    """Split a scope parameter into top-level scopes, without optional marks and dependencies.

    `a[b *c] d a` gives `["a", "d"]`.
    """
    depth = 0
    plain = []
    for character in text:
        if character == "[":
            depth += 1
        elif character == "]":
            depth = max(0, depth - 1)
        elif depth == 0:
            plain.append(character)
    scopes = (one.lstrip("*") for one in "".join(plain).split())
    return list(dict.fromkeys(one for one in scopes if one))


class Access:
    """The clients of this hub and their tokens.

    Args:
        store: The open store.
        key: At least 32 random bytes of this hub.
        clock: Seconds since the epoch.
        shared: Whether other hubs change the store, too.
    """

    def __init__(
        self, store: Store, key: bytes, clock: Callable[[], float], *, shared: bool = False
    ) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._shared = shared
        self._clients: dict[str, Client] = {}
        self._tokens: dict[str, tuple[str, str, float]] = {}

    async def load(self) -> None:
        """Read all clients, when they are ours alone."""
        if not self._shared:
            found = await self._store.call(records.all_clients)
            self._clients = {one.client_id: one for one in found}

    async def clients(self) -> list[Client]:
        """All clients, oldest first."""
        if self._shared:
            return await self._store.call(records.all_clients)
        return sorted(self._clients.values(), key=lambda one: one.created_at)

    async def count(self) -> int:
        """How many clients there are."""
        if self._shared:
            return await self._store.call(records.count_clients)
        return len(self._clients)

    async def find(self, name_or_id: str) -> Client:
        """Return the client of that id or name.

        Raises:
            InputMissing: There is none.
        """
        found = await self.known(name_or_id.lower()) or await self._named(name_or_id)
        if found is None:
            raise InputMissing(
                f"The hub has no client {name_or_id!r}.",
                hint="`cep hub client list` shows the clients.",
            )
        return found

    async def _named(self, name: str) -> Client | None:
        if self._shared:
            return await self._store.call(records.find_client_named, name)
        return next((one for one in self._clients.values() if one.name == name), None)

    async def known(self, client_id: str) -> Client | None:
        """Return the client of that id when there is one."""
        if self._shared:
            return await self._store.call(records.find_client, client_id)
        return self._clients.get(client_id)

    def known_here(self, client_id: str) -> Client | None:
        """Return the client of that id from memory; for a hub that is alone."""
        return self._clients.get(client_id)

    async def add(self, name: str) -> Credentials:
        """Make a client.

        Raises:
            UsageError: The name is taken.
        """
        client, secret = new_client(name, self._clock())
        return await self._add(client, secret)

    async def _add(self, client: Client, secret: str) -> Credentials:
        await self._store.call(records.add_client, client)
        if not self._shared:
            self._clients[client.client_id] = client
        return Credentials(client.client_id, secret, client.name)

    async def rotate(self, client: Client) -> Credentials:
        """Give the client a new secret; the old one and all its tokens and passwords end."""
        return await self._rotate(client, new_secret())

    async def _rotate(self, client: Client, secret: str) -> Credentials:
        await self._change(client, secret_digest=digest(secret), new_generation=True)
        return Credentials(client.client_id, secret, client.name)

    async def disable(self, client: Client) -> None:
        """Refuse the client from now on, until it is enabled."""
        await self._change(client, disabled=True, new_generation=True)

    async def enable(self, client: Client) -> None:
        """Let a disabled client in again, with the secret it had."""
        await self._change(client, disabled=False)

    async def remove(self, client: Client) -> None:
        """Forget the client."""
        await self._store.call(records.remove_client, client.client_id)
        self._clients.pop(client.client_id, None)
        self._drop_cached(client.client_id)

    async def _change(
        self,
        client: Client,
        *,
        secret_digest: str | None = None,
        disabled: bool | None = None,
        new_generation: bool = False,
    ) -> None:
        changed = await self._store.call(
            records.change_client,
            client.client_id,
            secret_digest=secret_digest,
            disabled=disabled,
            new_generation=new_generation,
        )
        if changed is None:
            raise InputMissing(f"The hub has no client {client.client_id!r}.")
        if not self._shared:
            self._clients[client.client_id] = changed
        self._drop_cached(client.client_id)

    def _drop_cached(self, client_id: str) -> None:
        self._tokens = {key: one for key, one in self._tokens.items() if one[0] != client_id}

    async def check_secret(self, client_id: str, secret: str) -> Client:
        """Return the client when the secret is its own.

        Raises:
            NotAllowed: Unknown, wrong or disabled; the text does not say which.
        """
        client = await self.known(client_id.lower())
        expected = "0" * 64 if client is None else client.secret_digest
        if not hmac.compare_digest(expected, digest(secret)) or client is None or client.disabled:
            raise NotAllowed("The client id or its secret is wrong, or the client is disabled.")
        return client

    async def derived_client(self, name: str) -> Credentials | None:
        """Return the client of that name, made when missing, with a secret that the key gives.

        For hubs that share a store and have no file in common: each of them knows the secret
        without its being kept anywhere. One that was given another secret meanwhile is rotated.

        Returns:
            None when the client is disabled.
        """
        client = await self._named(name)
        if client is None:
            made, _ = new_client(name, self._clock())
            secret = self._derived("client", made)
            try:
                return await self._add(replace(made, secret_digest=digest(secret)), secret)
            except UsageError:  # another hub was faster
                client = await self.find(name)
        if client.disabled:
            return None
        secret = self._derived("client", client)
        if hmac.compare_digest(client.secret_digest, digest(secret)):
            return Credentials(client.client_id, secret, name)
        following = replace(client, generation=client.generation + 1)
        return await self._rotate(client, self._derived("client", following))

    async def issue(self, client: Client, scope_text: str) -> dict[str, Any]:
        """Issue one token per resource server for these scopes, as the token endpoint answers."""
        by_server: dict[str, list[str]] = {}
        for scope in plain_scopes(scope_text) or [COMPUTE_SCOPE]:
            by_server.setdefault(resource_server(scope), []).append(scope)
        now = self._clock()
        rows: list[dict[str, Any]] = []
        answers: list[dict[str, Any]] = []
        for server, scopes in by_server.items():
            token = new_secret()
            rows.append(
                {
                    "digest": digest(token),
                    "client_id": client.client_id,
                    "resource_server": server,
                    "expires_at": now + TOKEN_LIFETIME_S,
                }
            )
            answers.append(
                {
                    "access_token": token,
                    "resource_server": server,
                    "scope": " ".join(scopes),
                    "token_type": "Bearer",
                    "expires_in": TOKEN_LIFETIME_S,
                }
            )
        await self._store.call(records.add_tokens, rows, now)
        return {**answers[0], "other_tokens": answers[1:]}

    async def caller(self, token: str) -> Caller:
        """Return whose token this is.

        Raises:
            NotAllowed: Unknown, expired or revoked, or its client is gone or disabled.
        """
        found = await self._caller(digest(token))
        if found is None or found[0].disabled or found[2] <= self._clock():
            raise NotAllowed("The access token is unknown, expired or revoked.")
        return Caller(found[0], found[1])

    async def _caller(self, key: str) -> tuple[Client, str, float] | None:
        if self._shared:
            return await self._store.call(records.find_caller, key)
        found = self._tokens.get(key)
        if found is None:
            found = await self._store.call(records.find_token, key)
            if found is None:
                return None
            if len(self._tokens) >= _TOKEN_CACHE:
                self._tokens.clear()
            self._tokens[key] = found
        client = self._clients.get(found[0])
        return None if client is None else (client, found[1], found[2])

    async def revoke(self, token: str) -> None:
        """Forget a token; unknown ones are forgotten already."""
        key = digest(token)
        self._tokens.pop(key, None)
        await self._store.call(records.drop_token, key)

    def amqp_password(self, client: Client) -> str:
        """Return the client's password for the broker."""
        return self._derived("amqp", client)

    def _derived(self, purpose: str, client: Client) -> str:
        message = f"{purpose}:{client.client_id}:{client.generation}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    def check_amqp_password(self, client_id: str, password: str) -> Client | None:
        """Return the client when the password opens the broker for it, else None; from memory."""
        client = self._clients.get(client_id)
        if client is None or client.disabled:
            return None
        expected = self.amqp_password(client)
        return client if hmac.compare_digest(expected.encode(), _bytes(password)) else None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
