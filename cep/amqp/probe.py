"""One-shot check of a broker's address, for start-up and diagnosis: connects, and closes again."""

from __future__ import annotations

import pika

from cep.amqp.connection import Connection
from cep.amqp.failures import NETWORK_ERRORS, Where, as_error, explain
from cep.amqp.loop import quieten_pika
from cep.amqp.parameters import connection_parameters
from cep.errors import PeerUntrusted

TIMEOUT_S = 10.0


def check_connection(
    url: str,
    port: int | None = None,
    timeout_s: float = TIMEOUT_S,
    *,
    ssl_ca_file: str | None = None,
) -> None:
    """Open an AMQP connection and close it; blocks, in the calling thread.

    Args:
        url: AMQP URL with credentials.
        port: Replaces the URL's port (`amqp_port`).
        timeout_s: Seconds for TCP, TLS and AMQP together (each tried address of a name has
            them anew).
        ssl_ca_file: Authorities to trust instead of the system's.

    Raises:
        TemporaryFailure: Nothing answers there as a broker; the sentence names host and port,
            and, when `port` replaced the service's, both ports and the line to remove.
        NotAllowed: The broker refuses the credentials.
        PeerUntrusted: Its certificate is not accepted, or its loopback port is somebody else's.
        DataError: The URL is no AMQP URL.
        ConfigError: The CA file cannot be used.
    """
    quieten_pika()
    parameters = connection_parameters(url, port=port, ssl_ca_file=ssl_ca_file)
    parameters.socket_timeout = timeout_s
    parameters.stack_timeout = timeout_s
    where = Where.of(parameters, connection_parameters(url).port)
    try:
        connection = pika.BlockingConnection(parameters, _impl_class=Connection)
    except (*NETWORK_ERRORS, PeerUntrusted) as exc:
        raise as_error(explain(exc, where), where) from exc
    connection.close()
