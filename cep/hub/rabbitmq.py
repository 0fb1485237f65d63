"""RabbitMQ as the hub is told of it: the address, its management API, and the check at start.

`Management` blocks and is used from threads (`asyncio.to_thread`); it keeps no state but its
connections. Passwords appear in no text made here.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import urllib3

from cep.amqp.probe import check_connection
from cep.errors import ConfigError, NotAllowed, TemporaryFailure, Unavailable

# The ports of RabbitMQ's listeners (rabbitmq.com/docs/networking).
_AMQP_PORTS = {"amqp": 5672, "amqps": 5671}
_MANAGEMENT_PORTS = {"amqp": ("http", 15672), "amqps": ("https", 15671)}
# Together below the 60 s after which the SDK gives a request up.
_CONNECT_S, _READ_S = 5.0, 15.0
_CONNECTIONS = 4  # to the management API, at most
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class RabbitAddress:
    """Where a RabbitMQ is, and the hub's own login there.

    Attributes:
        url: For AMQP, with the login.
        bare_url: The same without login and options: what clients are told.
        host: Host of `url`.
        port: AMQP port.
        management_url: Base of the management API, without a login and a trailing slash.
        user: The hub's user.
        password: Its password.
        management_user: User for the management API.
        management_password: Its password.
        vhost: Virtual host.
    """

    url: str = field(repr=False)
    bare_url: str
    host: str
    port: int
    management_url: str
    user: str
    password: str = field(repr=False)
    management_user: str
    management_password: str = field(repr=False)
    vhost: str

    @classmethod
    def of(cls, amqp_url: str, management_url: str | None = None) -> RabbitAddress:
        """Read the addresses that the hub was given.

        Raises:
            ConfigError: One of them is not the URL it should be; the text does not repeat it.
        """
        try:
            parts = urlsplit(amqp_url)
            port = _AMQP_PORTS[parts.scheme] if parts.port is None else parts.port
            scheme, management_port = _MANAGEMENT_PORTS[parts.scheme]
            host, user, password = parts.hostname, parts.username, parts.password
        except (ValueError, KeyError):
            host = user = password = None
        if not host or not user or password is None:
            raise ConfigError(
                "The value of --amqp-url is not amqp://USER:PASSWORD@HOST[:PORT]/VHOST or the same "
                "with amqps://; special characters of user and password are %-encoded."
            )
        shown = f"[{host}]" if ":" in host else host
        base, login = _management(management_url or f"{scheme}://{shown}:{management_port}")
        return cls(
            url=amqp_url,
            bare_url=f"{parts.scheme}://{shown}:{port}{parts.path or '/'}",
            host=host,
            port=port,
            management_url=base,
            user=unquote(user),
            password=unquote(password),
            management_user=unquote(user) if login is None else login[0],
            management_password=unquote(password) if login is None else login[1],
            vhost=unquote(parts.path[1:]) or "/",
        )


def _management(url: str) -> tuple[str, tuple[str, str] | None]:
    """Split the management API's URL into its base and its own login, where it has one."""
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
        where = parts.netloc.rpartition("@")[2]
        login = (
            None
            if parts.username is None
            else (unquote(parts.username), unquote(parts.password or ""))
        )
    except ValueError:
        right = False
    if not right:
        raise ConfigError(
            "The value of --amqp-management-url is not http://HOST[:PORT] or https://HOST[:PORT], "
            "with or without a login."
        )
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}", login


class Management:
    """RabbitMQ's management API.

    Args:
        address: Where it is, with the login.
    """

    def __init__(self, address: RabbitAddress) -> None:
        self._base = f"{address.management_url}/api"
        self._where = urlsplit(address.management_url).netloc
        self._user = address.management_user
        self.vhost = quote(address.vhost, safe="")
        login = f"{address.management_user}:{address.management_password}"
        # The same trust as of the AMQP links: the system's authorities, or SSL_CERT_FILE's.
        self._pool = urllib3.PoolManager(
            maxsize=_CONNECTIONS,
            block=True,
            headers={
                **urllib3.make_headers(basic_auth=login),
                "content-type": "application/json",
            },
            timeout=urllib3.Timeout(connect=_CONNECT_S, read=_READ_S),
            # Everything asked here may be repeated; a kept connection may have ended meanwhile.
            retries=urllib3.Retry(total=1, redirect=0, backoff_factor=0),
            ssl_context=ssl.create_default_context(),
        )

    def close(self) -> None:
        """Close the kept connections."""
        self._pool.clear()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask something; blocking.

        Args:
            method: HTTP method.
            path: Below `/api/`, quoted.
            body: JSON to send.

        Returns:
            The JSON of the answer; None when it has none or when there is no such thing (404).

        Raises:
            TemporaryFailure: The API does not answer, or fails itself.
            NotAllowed: The login is refused or has not the tag `administrator`.
            ConfigError: Its certificate is not trusted, or what answers is no management API.
            Unavailable: It refuses the request.
        """
        try:
            answer = self._pool.request(
                method,
                f"{self._base}/{path}",
                body=None if body is None else json.dumps(body).encode(),
                redirect=False,
            )
        except urllib3.exceptions.HTTPError as exc:
            raise self._failed(exc) from exc
        if answer.status == 404:
            return None
        if 200 <= answer.status < 300:
            try:
                return json.loads(answer.data) if answer.data else None
            except ValueError as exc:
                raise self._no_api() from exc
        raise self._refused(answer.status, answer.data)

    def _failed(self, error: urllib3.exceptions.HTTPError) -> ConfigError | TemporaryFailure:
        cause = getattr(error, "reason", None) or error
        inner = cause.args[0] if isinstance(cause, urllib3.exceptions.SSLError) else None
        if isinstance(inner, ssl.SSLCertVerificationError):
            return ConfigError(
                f"The certificate of RabbitMQ's management API at {self._where} is not trusted: "
                f"{inner.verify_message}.",
                hint="Name its authority's file with the environment variable SSL_CERT_FILE.",
            )
        return TemporaryFailure(
            f"RabbitMQ's management API at {self._where} does not answer ({_plainly(cause)}).",
            hint="The plugin rabbitmq_management must be enabled; --amqp-management-url says where "
            "it is.",
        )

    def _no_api(self) -> ConfigError:
        return ConfigError(f"What answers at {self._where} is not RabbitMQ's management API.")

    def _refused(self, status: int, raw: bytes) -> NotAllowed | TemporaryFailure | Unavailable:
        if status == 401:
            # It answers 401 to a user without any management tag, too.
            return NotAllowed(
                f"RabbitMQ's management API at {self._where} refuses the login of user "
                f"{self._user}: the password is wrong, or the user has not the tag "
                "'administrator'.",
                hint=f"rabbitmqctl set_user_tags {self._user} administrator",
            )
        reason = raw.decode("utf-8", "replace")[:_LONGEST_REASON]
        text = f"RabbitMQ's management API at {self._where} answers {status}: {reason}"
        return TemporaryFailure(text) if status >= 500 else Unavailable(text)

    def close_connections(self, user: str) -> int:
        """Close all connections of a user; return how many there were."""
        path = f"connections/username/{quote(user, safe='')}"
        found = self.ask("GET", path) or []
        self.ask("DELETE", path)
        return len(found)


def _plainly(cause: object) -> str:
    if isinstance(cause, urllib3.exceptions.NameResolutionError):
        return "its name cannot be resolved"
    if isinstance(cause, urllib3.exceptions.NewConnectionError):
        return "the connection was refused or the host is not reachable"
    if isinstance(cause, urllib3.exceptions.TimeoutError):
        return "no answer in time"
    return type(cause).__name__


def check_rabbitmq(address: RabbitAddress, management: Management) -> None:
    """Try everything the hub will need, before it needs it; blocking.

    Raises:
        TemporaryFailure: The broker or its management API does not answer.
        NotAllowed: The login is refused, the tag `administrator` or a permission is missing.
        ConfigError: There is no such virtual host, or no management API where it should be.
    """
    said = management.ask("GET", "whoami")
    if not isinstance(said, dict) or "tags" not in said:
        raise ConfigError(
            f"What answers at {address.management_url} is not RabbitMQ's management API.",
            hint="Name it with --amqp-management-url.",
        )
    tags = said["tags"] if isinstance(said["tags"], list) else str(said["tags"]).split(",")
    if "administrator" not in tags:
        raise NotAllowed(
            f"The RabbitMQ user {said.get('name')} has not the tag 'administrator', without which "
            "the hub cannot manage the users of endpoints and clients.",
            hint=f"rabbitmqctl set_user_tags {said.get('name')} administrator",
        )
    if management.ask("GET", f"vhosts/{management.vhost}") is None:
        raise ConfigError(
            f"RabbitMQ has no virtual host {address.vhost!r}.",
            hint=f"rabbitmqctl add_vhost {address.vhost}",
        )
    check_connection(address.url)
