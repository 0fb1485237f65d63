"""From an AMQP URL to pika's connection parameters; pure, except for reading a CA file."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pika

from cep.errors import ConfigError, DataError

TCP_TIMEOUT_S = 10.0
STACK_TIMEOUT_S = 20.0  # TCP, TLS and AMQP handshake together
# A peer that is gone without a word is noticed within about two minutes even where the broker
# proposes no AMQP heartbeat; unacknowledged data ends the connection after one.
TCP_OPTIONS = {
    "TCP_KEEPIDLE": 60,
    "TCP_KEEPINTVL": 15,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 60_000,  # milliseconds
}


def connection_parameters(
    url: str, *, port: int | None = None, ssl_ca_file: str | None = None
) -> Any:
    """Read an AMQP URL as pika does, options included, e.g. `amqps://u:p@host/vhost?heartbeat=30`.

    Args:
        url: `amqp://` (plain) or `amqps://` (TLS with host name check).
        port: Replaces the URL's port; the scheme stays, so TLS or not does not depend on it.
        ssl_ca_file: PEM file (or directory, as OpenSSL hashes it) of the authorities to trust for
            TLS instead of the system's.

    Returns:
        `pika.connection.Parameters` for one try; trying again is the link's business.

    Raises:
        DataError: The URL is no AMQP URL; the text does not repeat it, since it holds a password.
        ConfigError: The CA file cannot be used.
    """
    try:
        options = parse_qs(urlsplit(url).query)
        if urlsplit(url).scheme not in {"amqp", "amqps"} or not urlsplit(url).hostname:
            raise ValueError("no amqp:// or amqps:// URL with a host")
        parameters = pika.URLParameters(url)
    except Exception as exc:
        # pika checks with ValueError, TypeError, KeyError and others, and repeats the value.
        raise DataError(
            "The service handed out an AMQP address that cannot be used "
            f"({type(exc).__name__}): not amqp://user:password@host:port/vhost or amqps://…"
        ) from None
    if port is not None:
        parameters.port = port
    if ssl_ca_file is not None and parameters.ssl_options is not None:
        parameters.ssl_options = pika.SSLOptions(_context(ssl_ca_file), parameters.host)
    parameters.connection_attempts = 1
    if "socket_timeout" not in options:
        parameters.socket_timeout = TCP_TIMEOUT_S
    if "stack_timeout" not in options:
        parameters.stack_timeout = STACK_TIMEOUT_S
    if "tcp_options" not in options:
        parameters.tcp_options = dict(TCP_OPTIONS)
    parameters.client_properties = {"connection_name": "cep", "product": "cep"}
    return parameters


def _context(ssl_ca_file: str) -> ssl.SSLContext:
    try:
        if Path(ssl_ca_file).is_dir():
            return ssl.create_default_context(capath=ssl_ca_file)
        return ssl.create_default_context(cafile=ssl_ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"The file of certificate authorities {ssl_ca_file} cannot be used: {exc}."
        ) from exc
