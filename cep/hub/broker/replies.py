"""The AMQP 0-9-1 reply codes that the broker gives, and the two faults that carry them.

A channel fault ends one channel, a connection fault the connection; the specification fixes which
code is which (its "soft" and "hard" errors). Source: AMQP 0-9-1 specification, constants.
"""

from __future__ import annotations

import enum

from cep.errors import CepError


class Code(enum.IntEnum):
    """The codes in use."""

    NO_ROUTE = 312
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


def reply_text(code: Code, text: str) -> str:
    """The text of a close method: the code's word first, as RabbitMQ writes it; 255 bytes."""
    whole = f"{code.name} - {text}".encode("utf-8", "replace")[:255]
    return whole.decode("utf-8", "ignore")


class Fault(CepError):
    """The client did something that AMQP answers by closing; carries the reply code."""

    def __init__(self, code: Code, text: str) -> None:
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
    return ConnectionFault(Code.NOT_IMPLEMENTED, f"{what} is not implemented by this broker")
