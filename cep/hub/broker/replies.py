"""The AMQP 0-9-1 reply codes that the broker gives, and the two faults that carry them.

A channel fault ends one channel, a connection fault the connection; the specification fixes which
code is which (its "soft" and "hard" errors). Source: AMQP 0-9-1 specification, constants.
"""

from __future__ import annotations

from cep.errors import CepError

NO_ROUTE = 312
NO_CONSUMERS = 313
CONNECTION_FORCED = 320
ACCESS_REFUSED = 403
NOT_FOUND = 404
RESOURCE_LOCKED = 405
PRECONDITION_FAILED = 406
FRAME_ERROR = 501
SYNTAX_ERROR = 502
COMMAND_INVALID = 503
CHANNEL_ERROR = 504
UNEXPECTED_FRAME = 505
RESOURCE_ERROR = 506
NOT_ALLOWED = 530
NOT_IMPLEMENTED = 540
INTERNAL_ERROR = 541

_WORDS = {
    CONNECTION_FORCED: "CONNECTION_FORCED",
    ACCESS_REFUSED: "ACCESS_REFUSED",
    NOT_FOUND: "NOT_FOUND",
    RESOURCE_LOCKED: "RESOURCE_LOCKED",
    PRECONDITION_FAILED: "PRECONDITION_FAILED",
    FRAME_ERROR: "FRAME_ERROR",
    SYNTAX_ERROR: "SYNTAX_ERROR",
    COMMAND_INVALID: "COMMAND_INVALID",
    CHANNEL_ERROR: "CHANNEL_ERROR",
    UNEXPECTED_FRAME: "UNEXPECTED_FRAME",
    RESOURCE_ERROR: "RESOURCE_ERROR",
    NOT_ALLOWED: "NOT_ALLOWED",
    NOT_IMPLEMENTED: "NOT_IMPLEMENTED",
    INTERNAL_ERROR: "INTERNAL_ERROR",
}


def reply_text(code: int, text: str) -> str:
    """The text of a close method: the code's word first, as RabbitMQ writes it; 255 bytes."""
    whole = f"{_WORDS.get(code, code)} - {text}".encode()[:255]
    return whole.decode("utf-8", "ignore")


class Fault(CepError):
    """The client did something that AMQP answers by closing; carries the reply code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def text(self) -> str:
        """The reply text for the close method."""
        return reply_text(self.code, self.message)


class ChannelFault(Fault):
    """Closes the channel."""


class ConnectionFault(Fault):
    """Closes the connection."""


def not_implemented(what: str) -> ConnectionFault:
    """The answer to everything outside the subset that this broker has."""
    return ConnectionFault(NOT_IMPLEMENTED, f"{what} is not implemented by this broker")
