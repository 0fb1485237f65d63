"""How requests travel: whom to trust, and errors of TLS as sentences.

globus-sdk's transport with connections of our own below it. A certificate that is not accepted
ends the call at once, without globus-sdk's retries, and always as an error: there is no way back to
plain text or to an unchecked connection. On plain http:// within this host nothing is sent before
the owner of the port is known (cep.safety.peer), and no proxy of the shell is used.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import requests
from globus_sdk.transport import RequestsTransport
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

from cep.errors import CepError, ConfigError
from cep.safety import certificates, peer
from cep.service import trust

_PROBE_S = 5.0


class Transport(RequestsTransport):
    """A transport for one service.

    Args:
        ca_file: PEM file or directory of the authorities to trust; None for requests' own.

    Raises:
        ConfigError: The file cannot be used.
    """

    def __init__(self, ca_file: str | None) -> None:
        # Given by value, so that the shell's variable cannot switch the check off.
        super().__init__(verify_ssl=True)
        if ca_file is not None:
            self.verify_ssl = ca_file
        self.session.mount("https://", _Secure(ca_file))
        self.session.mount("http://", _Plain())


class _Secure(HTTPAdapter):
    """https://, with errors of TLS as errors of ours."""

    def __init__(self, ca_file: str | None) -> None:
        self._ca_file = ca_file
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request, not through a proxy when it is for this host.

        Raises:
            PeerUntrusted, TemporaryFailure: The certificate is not accepted.
            ConfigError: The file of authorities cannot be used, or no TLS is spoken there.
        """
        if self._ca_file is not None:
            trust.check_authorities(self._ca_file)
        try:
            return super().send(request, *args, **_straight(request.url or "", kwargs))
        except requests.exceptions.SSLError as exc:
            raise _explained(exc, request.url or "") from exc


class _Plain(HTTPAdapter):
    """http://, with a look at whose port it is when it is one of this host."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use our connections."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool}

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send a request, not through a proxy when it is for this host.

        Raises:
            PeerUntrusted: The port is somebody else's.
            ConfigError: The service speaks TLS, so its address must begin with https://.
        """
        url = request.url or ""
        try:
            return super().send(request, *args, **_straight(url, kwargs))
        except requests.exceptions.ConnectionError as exc:
            if not isinstance(exc, requests.exceptions.Timeout) and _speaks_tls(url):
                raise ConfigError(
                    f"The service at {_where(url)} speaks TLS, but the address that was given "
                    "begins with http://.",
                    hint=f"Write service_url: https://{urlsplit(url).netloc}",
                ) from exc
            raise


class _Connection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        sock = self.sock
        if sock is not None:
            try:
                peer.check_peer(sock)
            except BaseException:
                self.close()
                raise


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


def _straight(url: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request without the shell's proxies, when it is for this host."""
    return {**options, "proxies": {}} if _is_loopback_name(url) else dict(options)


def _explained(exc: requests.exceptions.SSLError, url: str) -> CepError:
    where = _where(url)
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return certificates.explain(cause, where, urlsplit(url).hostname or "")
        if isinstance(cause, ssl.SSLError) and certificates.is_no_tls(cause):
            return ConfigError(
                f"What answers at {where} does not speak TLS, so nothing was sent to it.",
                hint="If it is a service without TLS, its address begins with http://; look at "
                "`service_url` in config.yaml.",
            )
    reasons = [c.reason for c in _causes(exc) if isinstance(c, ssl.SSLError) and c.reason]
    return ConfigError(f"TLS with {where} failed: {reasons[-1] if reasons else exc}.")


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions that libraries have wrapped into each other."""
    todo: list[object] = [exc]
    seen: set[int] = set()
    while todo:
        one = todo.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            todo += [*one.args, getattr(one, "reason", None), one.__cause__, one.__context__]


def _where(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _is_loopback_name(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        return peer.is_loopback(host)
    return False


def _speaks_tls(url: str) -> bool:
    """Whether the port answers a TLS greeting. Nothing is sent but that."""
    parts = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Only the question "is this TLS?" is asked; the connection is not used.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((parts.hostname or "", parts.port or 80), _PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except (OSError, ValueError):
        return False
