"""What the routes work with, in one place; and the addresses under which clients reach the hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from cep.hub.accounts import Accounts
from cep.hub.audit import HubAudit
from cep.hub.auth import Access
from cep.hub.directory import Directory
from cep.hub.options import HubOptions, bindable, is_loopback
from cep.hub.relay import Relay
from cep.hub.store import Store
from cep.hub.submit import Submitter
from cep.hub.topology import Layout

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
        secure: The broker speaks TLS.
    """

    url: str
    amqp_host: str | None
    amqp_port: int
    public_amqp_url: str | None = None
    secure: bool = False

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
        return f"{'amqps' if self.secure else 'amqp'}://{login}{host}:{self.amqp_port}/"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a running hub.

    Attributes:
        accounts: The broker's users.
        layout: What is declared at the broker.
        clock: Seconds since the epoch.
        shared: Whether other hubs serve from the same store and broker.
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
    accounts: Accounts
    layout: Layout
    clock: Callable[[], float]
    admin_secret: str
    started_at: float
    shared: bool = False
    audit: HubAudit = field(default_factory=HubAudit)


def addresses_of(options: HubOptions, port: int, amqp_port: int) -> Addresses:
    """Where the hub is, as its options say; `amqp_port` is the broker's when that is known."""
    host = options.host
    everywhere = host in ("0.0.0.0", "::")
    shown = "localhost" if is_loopback(host) or everywhere else host
    if ":" in shown:
        shown = f"[{shown}]"
    secure = options.tls_cert is not None
    url = (options.public_url or f"{'https' if secure else 'http'}://{shown}:{port}").rstrip("/")
    amqp_host = None if everywhere else bindable(host)
    return Addresses(
        url=url,
        # With TLS the name counts, which the certificate is for.
        amqp_host=host_of(url) if secure else amqp_host,
        amqp_port=amqp_port,
        public_amqp_url=options.public_amqp_url,
        secure=secure,
    )


def host_of(url: str) -> str:
    """The host in a URL, "" without one."""
    return urlsplit(url).hostname or ""
