"""What a hub is told at its start, and where its files lie. Pure data and path arithmetic."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cep.errors import ConfigError, InputMissing, UsageError
from cep.paths import user_dir

DEFAULT_HOST = "127.0.0.1"
# The one address the SDK knows for GLOBUS_SDK_ENVIRONMENT=local (globus-compute-sdk 2.19, 4.19).
DEFAULT_PORT = 5000
# Where the addresses that hold passwords may come from, beside the command line and a file.
AMQP_URL_VARIABLE = "CEP_HUB_AMQP_URL"
AMQP_MANAGEMENT_URL_VARIABLE = "CEP_HUB_AMQP_MANAGEMENT_URL"
DATABASE_URL_VARIABLE = "CEP_HUB_DATABASE_URL"
SECRET_VARIABLES = frozenset(
    (AMQP_URL_VARIABLE, AMQP_MANAGEMENT_URL_VARIABLE, DATABASE_URL_VARIABLE)
)


def default_state_dir() -> Path:
    """Where a hub keeps its state when nobody says otherwise: `hub` in the user directory."""
    return user_dir() / "hub"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """How to serve.

    Attributes:
        state_dir: Directory (0700) of everything the hub keeps; one hub at a time uses it.
        host: Address to listen on, for REST and for AMQP.
        port: TCP port of the REST service; 0 lets the system choose.
        amqp_port: TCP port of the broker; 0 chooses one at the first start and remembers it,
            because endpoints and SDKs come back to the address they were once given.
        public_url: How clients reach the REST service, when it is not `http://localhost:PORT`
            (a proxy, another name); without a trailing slash.
        public_amqp_url: How clients reach the broker (scheme, host, port, virtual host), when it
            is not the host by which they reached the REST service.
        amqp_url: RabbitMQ with the hub's own login; None means the embedded broker.
        amqp_management_url: RabbitMQ's management API; None derives it from `amqp_url`.
        database_url: SQLAlchemy URL of a PostgreSQL database; None means SQLite in `state_dir`.
        migrate_database: A dump of an older PostgreSQL database was taken; it may be changed.
        keep_unread_days: Days for results that no client has fetched; the hosted service says two
            weeks. 0 keeps for ever, here and below.
        keep_fetched_days: Days for results after a client has fetched them.
        keep_results_bytes: Bytes of all results together.
        keep_functions_days: Days for functions after their last submit.
        tls_cert: PEM file of the certificate for https:// and amqps://; None serves without TLS.
        tls_key: PEM file of its key.
        tls_ca: PEM file of the authorities that clients are to trust for it.
        insecure: An address that other hosts reach is meant, without TLS.
        embedded_broker_exposed: The embedded broker on such an address is meant.
        audit_log: File for the audit, or `journald`; None is `audit.log` in the state directory.

    The three addresses of servers hold passwords, so they are left out of `repr`.
    """

    state_dir: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    amqp_port: int = 0
    public_url: str | None = None
    public_amqp_url: str | None = None
    amqp_url: str | None = field(default=None, repr=False)
    amqp_management_url: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)
    migrate_database: bool = False
    keep_unread_days: float = 14.0
    keep_fetched_days: float = 3.0
    keep_results_bytes: int = 10 * 1024**3
    keep_functions_days: float = 180.0
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    insecure: bool = False
    embedded_broker_exposed: bool = False
    audit_log: str | None = None

    @property
    def shared(self) -> bool:
        """Whether several hubs may serve side by side: nothing is kept in the process."""
        return self.amqp_url is not None and self.database_url is not None


@dataclass(frozen=True, slots=True)
class HubFiles:
    """The files of a hub, all below its state directory."""

    root: Path

    @property
    def database(self) -> Path:
        """Clients, endpoints, functions, tasks, results."""
        return self.root / "hub.db"

    @property
    def broker(self) -> Path:
        """The embedded broker's directory."""
        return self.root / "broker"

    @property
    def key(self) -> Path:
        """The secret from which the SDK users' broker passwords are derived."""
        return self.root / "hub.key"

    @property
    def running(self) -> Path:
        """Who serves now: pid, start time, address, and the secret of the admin routes."""
        return self.root / "running.json"

    @property
    def lock(self) -> Path:
        """Locked by the hub that serves."""
        return self.root / "lock"

    @property
    def amqp_port(self) -> Path:
        """The broker's port, as text, from the first start on."""
        return self.root / "amqp-port"

    @property
    def env_client(self) -> Path:
        """The client that `hub env` made, with its secret (0600)."""
        return self.root / "env-client.json"

    @property
    def audit(self) -> Path:
        """Who did what, unless the options name another place."""
        return self.root / "audit.log"

    @property
    def log(self) -> Path:
        """The log of a detached hub."""
        return self.root / "hub.log"


def is_loopback(host: str) -> bool:
    """Whether the address (or `localhost`) is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_urls(public_url: str | None, public_amqp_url: str | None) -> None:
    """Check the addresses that clients are to use.

    Raises:
        UsageError: One of them is not the URL it should be.
    """
    for option, url, schemes in (
        ("--public-url", public_url, ("http", "https")),
        ("--public-amqp-url", public_amqp_url, ("amqp", "amqps")),
    ):
        if url is None:
            continue
        try:
            parts = urlsplit(url)
            right = parts.scheme in schemes and parts.hostname and (parts.port or 1) > 0
        except ValueError:
            right = False
        if not right or "@" in parts.netloc:
            raise UsageError(
                f"The value of {option} is not a URL {schemes[0]}://HOST[:PORT] or "
                f"{schemes[1]}://HOST[:PORT], without a login."
            )


def read_address(given: str | None, option: str) -> str | None:
    """Return an address that may hold a password: as given, or the content of `@FILE`.

    Raises:
        InputMissing: The file cannot be read.
        ConfigError: It is empty or has more than one line.
    """
    if given is None or not given.startswith("@"):
        return given or None
    path = Path(given[1:]).expanduser()
    try:
        lines = path.read_text("utf-8").split()
    except (OSError, ValueError) as exc:
        raise InputMissing(f"The file {path} of {option} cannot be read: {exc}.") from exc
    if len(lines) != 1:
        raise ConfigError(f"The file {path} of {option} must hold one line, the address.")
    return lines[0]


def bindable(host: str) -> str:
    """The address to listen on; `localhost` could also be another one for somebody else."""
    return "127.0.0.1" if host == "localhost" else host
