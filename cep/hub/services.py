"""What the routes work with, in one place; and the addresses under which clients reach the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from cep.hub.audit import HubAudit
from cep.hub.auth import Access
from cep.hub.directory import Directory
from cep.hub.relay import Relay
from cep.hub.store import Store
from cep.hub.submit import Submitter

if TYPE_CHECKING:
    from cep.hub.messaging import Messaging


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the hub is.

    Attributes:
        url: The REST service, as clients reach it, without a trailing slash.
        amqp_host: Host of the broker; None means the host by which the client came to us.
        amqp_port: The broker's TCP port.
        public_amqp_url: Wins over host and port when given.
    """

    url: str
    amqp_host: str | None
    amqp_port: int
    public_amqp_url: str | None = None

    def amqp_url(self, user: str, password: str, came_by: str | None) -> str:
        """Return the broker's URL with a login.

        Args:
            user: User name at the broker.
            password: Its password.
            came_by: The host the client has in its request.
        """
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@"
        if self.public_amqp_url is not None:
            parts = urlsplit(self.public_amqp_url)
            where = parts.netloc.rpartition("@")[2]
            return parts._replace(netloc=login + where, path=parts.path or "/").geturl()
        host = self.amqp_host or came_by or "127.0.0.1"
        if ":" in host and not host.startswith("["):
            host = f"[{host}]"
        return f"amqp://{login}{host}:{self.amqp_port}/"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running hub.

    Attributes:
        drop_connections: Closes every connection of a broker user at once.
        clock: Seconds since the epoch.
        admin_secret: Opens the admin routes.
        started_at: When the hub began to serve.
        audit: Who did what.
    """

    store: Store
    access: Access
    directory: Directory
    messaging: Messaging
    relay: Relay
    submitter: Submitter
    addresses: Addresses
    drop_connections: Callable[[str], int]
    clock: Callable[[], float]
    admin_secret: str
    started_at: float
    audit: HubAudit = field(default_factory=HubAudit)
