"""What went wrong with a connection, as a sentence that names host and port, never the password.

Also the one judgement that matters: whether trying again without a change can help.
"""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass
from typing import Any

import pika.exceptions as px
from pika.adapters.utils import connection_workflow as pw

from cep.errors import CepError, NotAllowed, TemporaryFailure
from cep.safety import certificates

ACCESS_REFUSED = 403
RESOURCE_LOCKED = 405
NOT_ALLOWED = 530
NOT_FOUND = 404
UNKNOWN = 0


@dataclass(frozen=True, slots=True)
class Where:
    """The broker a link talks to.

    Attributes:
        host: Host name of the URL.
        port: Port that is used.
        user: User name of the URL.
        tls: Whether TLS is spoken.
        service_port: The URL's own port when `amqp_port` replaced it by another one, else None.
    """

    host: str
    port: int
    user: str
    tls: bool
    service_port: int | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def of(cls, parameters: Any, service_port: int) -> Where:
        """Where pika's connection parameters lead, the service having named this port."""
        return cls(
            parameters.host,
            parameters.port,
            parameters.credentials.username,
            tls=parameters.ssl_options is not None,
            service_port=service_port if service_port != parameters.port else None,
        )


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a connection or channel ended.

    Attributes:
        code: The broker's reply code, 0 when it said nothing.
        text: A sentence.
        refusal: The error to end with when trying again cannot help, else None.
        at_start: The error of a one-shot connection, which nobody waits for to get better.
    """

    code: int
    text: str
    refusal: CepError | None = None
    at_start: CepError | None = None


def explain(error: BaseException | None, where: Where) -> Failure:
    """Turn an exception of pika, or of the network below it, into a sentence."""
    cause = _root(error)
    if isinstance(cause, CepError):
        return Failure(UNKNOWN, str(cause), at_start=cause)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _certificate(cause, where)
    code, said = reply_of(cause)
    if isinstance(cause, px.ProbableAuthenticationError) and code == ACCESS_REFUSED:
        return _refused(code, f"The broker {where} refuses the credentials of user {where.user}.")
    if isinstance(cause, px.ProbableAccessDeniedError) and code in {ACCESS_REFUSED, NOT_ALLOWED}:
        return _refused(code, f"The broker {where} refuses user {where.user}: {said}.")
    if code == ACCESS_REFUSED and not is_exclusive_clash(code, said):
        return _refused(code, f"The broker {where} refuses a permission: {said}.")
    if is_exclusive_clash(code, said):
        text = f"Another consumer holds the queue at the broker {where}: {said}."
        return Failure(code, text)
    if code == NOT_FOUND:
        return Failure(code, f"The broker {where} does not have what we use: {said}.")
    if code:
        return Failure(code, f"The broker {where} closed the connection or channel: {code} {said}.")
    return Failure(UNKNOWN, _network_sentence(cause, where))


def as_error(failure: Failure, where: Where) -> CepError:
    """The error a one-shot connection ends with."""
    known = failure.refusal or failure.at_start
    if known is not None:
        return known
    return TemporaryFailure(failure.text, hint=port_hint(where))


NETWORK_ERRORS = (px.AMQPError, pw.AMQPConnectorException, OSError)


def port_hint(where: Where) -> str | None:
    """The line to remove from the configuration, when `amqp_port` may be the reason."""
    if where.service_port is None:
        return None
    return f"Remove the line `amqp_port: {where.port}` from config.yaml if this port is not meant."


def is_exclusive_clash(code: int, said: str) -> bool:
    """Tell whether the broker refused because another consumer is exclusive on the queue.

    RabbitMQ says 403 ACCESS_REFUSED "queue 'x' in vhost '/' in exclusive use", AMQP 0-9-1 itself
    has 405 RESOURCE_LOCKED for it.
    """
    return code == RESOURCE_LOCKED or (code == ACCESS_REFUSED and "exclusive" in said.lower())


def reply_of(error: BaseException | None) -> tuple[int, str]:
    """Code and text of a connection.close or channel.close by the broker; (0, "") without one."""
    if isinstance(error, (px.ConnectionClosedByBroker, px.ChannelClosedByBroker)):
        return int(error.reply_code), str(error.reply_text)
    if isinstance(error, (px.ProbableAuthenticationError, px.ProbableAccessDeniedError)):
        # pika keeps only the text of what happened, which may as well be a lost connection.
        found = re.search(r"ConnectionClosedByBroker\w*:? ?\((\d{3})\) '?(.*?)'?\"?$", str(error))
        if found:
            return int(found.group(1)), found.group(2)
    return UNKNOWN, ""


def _certificate(cause: ssl.SSLCertVerificationError, where: Where) -> Failure:
    """The certificate is not accepted; a link goes on trying, since it may be renewed."""
    error = certificates.explain(cause, f"the broker {where}", where.host)
    return Failure(UNKNOWN, str(error), at_start=error)


def _refused(code: int, text: str) -> Failure:
    return Failure(code, text, NotAllowed(text))


def _network_sentence(cause: BaseException | None, where: Where) -> str:
    if isinstance(cause, socket.gaierror):
        return f"The broker's name {where.host} (port {where.port}) cannot be resolved: {cause}."
    if isinstance(cause, ConnectionRefusedError):
        return _refused_port(where)
    if isinstance(cause, ssl.SSLError) and certificates.is_no_tls(cause):
        return (
            f"The broker {where} does not speak TLS on this port, and the service handed out an "
            "amqps:// address, so nothing was sent to it."
        )
    if isinstance(cause, ssl.SSLError):
        return f"TLS with the broker {where} failed: {getattr(cause, 'reason', None) or cause}."
    if isinstance(cause, (TimeoutError, socket.timeout, pw.AMQPConnectorStackTimeout)):
        return f"The broker {where} does not answer in time."
    if isinstance(cause, px.AMQPHeartbeatTimeout):
        return f"The broker {where} was silent for too long; the connection was given up."
    if isinstance(cause, px.IncompatibleProtocolError):
        return f"What answers at {where} does not speak AMQP 0-9-1 as expected" + (
            "." if where.tls else "; perhaps it wants TLS."
        )
    if isinstance(cause, px.AMQPError) and not isinstance(cause, px.StreamLostError):
        return f"The connection to the broker {where} was lost ({type(cause).__name__})."
    if isinstance(cause, OSError) and cause.strerror:
        return f"The broker {where} cannot be reached: {cause.strerror}."
    return f"The connection to the broker {where} was lost."


def _refused_port(where: Where) -> str:
    if where.service_port is None:
        return f"The broker {where} refused the connection."
    return (
        f"The broker refused the connection to {where}, the port that `amqp_port: {where.port}` "
        f"sets, while the service handed out port {where.service_port}; if that one is meant, "
        f"remove the line `amqp_port: {where.port}` from config.yaml."
    )


def _root(error: Any) -> BaseException | None:
    """Peel pika's wrappers off: the last failed try is what the others led to."""
    for _ in range(10):
        if isinstance(error, pw.AMQPConnectionWorkflowFailed) and error.exceptions:
            error = error.exceptions[-1]
        elif isinstance(error, pw.AMQPConnectorPhaseErrorBase):
            error = error.exception
        elif (
            isinstance(error, px.AMQPConnectionError)
            and error.args
            and isinstance(error.args[0], BaseException)
        ):
            error = error.args[0]
        else:
            break
    return error if isinstance(error, BaseException) else None
