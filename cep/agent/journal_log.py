"""The agent's log in the journal of systemd, with fields: each record is one datagram.

Source: "Native Journal Protocol" of systemd, systemd.journal-fields(7). Nothing here ever waits: a
journal that does not take a record loses it, and the next one that it takes tells how many.
Records are sent by the thread that logs, so the last word before a kill arrives as well.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from cep.agent.log_writer import missing
from cep.safety.text import printable, redact

SOCKET = Path("/run/systemd/journal/socket")
#: "DEVICE:INODE" of the stream that systemd connected standard error to; systemd.exec(5).
STREAM_VARIABLE = "JOURNAL_STREAM"
#: Characters of one field; what a datagram takes (a bit over 200 KiB) is never reached.
LONGEST = 32 * 1024
MOST_FIELDS = 24
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7  # syslog(3)
#: What every record has; the others are the `extra` of whoever logs.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_RENAMED = {"task_id": "TASK"}
_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,40}")


def is_journal(variables: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether systemd started this process with its journal as standard error.

    Args:
        variables: The environment.
        descriptor: Of standard error.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return variables.get(STREAM_VARIABLE) == f"{found.st_dev}:{found.st_ino}"


class JournalHandler(logging.Handler):
    """Sends records to the journal.

    Args:
        endpoint: The endpoint's name.
        identifier: Name of the program in the journal; as the unit's `SyslogIdentifier=`.
        path: The journal's socket.

    Attributes:
        endpoint_id: UUID, once it is known.
    """

    def __init__(self, endpoint: str, identifier: str, path: Path = SOCKET) -> None:
        super().__init__()
        self._path = str(path)
        self._endpoint = endpoint
        self._identifier = identifier
        self.endpoint_id: str | None = None
        self._lost = 0
        self._text = logging.Formatter("%(message)s")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record, or count it as lost."""
        if hasattr(record, "size_only"):
            return
        try:
            if self._lost:
                lost = missing(self._lost, "the journal did not take them")
                self._send(lost)
                self._lost = 0
            self._send(record)
        except OSError:
            self._lost += 1

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _send(self, record: logging.LogRecord) -> None:
        # Not connected, so that a journald which was restarted is found again.
        self._socket.sendto(b"".join(self._fields(record)), self._path)

    def _fields(self, record: logging.LogRecord) -> Iterator[bytes]:
        # The traceback is part of the text, and so are secrets in it.
        message = printable(redact(self._text.format(record)), keep="\n\t")
        yield _field("MESSAGE", message)
        yield _field("PRIORITY", str(_priority(record.levelno)))
        yield _field("SYSLOG_IDENTIFIER", self._identifier)
        yield _field("CEP_ENDPOINT", printable(self._endpoint))
        if self.endpoint_id is not None:
            yield _field("CEP_ENDPOINT_ID", self.endpoint_id)
        yield _field("CEP_LOGGER", record.name)
        yield _field("CODE_FILE", record.pathname)
        yield _field("CODE_LINE", str(record.lineno))
        yield _field("CODE_FUNC", record.funcName or "")
        yield _field("THREAD_NAME", printable(record.threadName or ""))
        for name, value in _extra(record):
            yield _field(f"CEP_{name}", printable(redact(str(value)), keep="\n\t"))


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """What the logging call says beside the sentence, by field name."""
    number = 0
    for name, value in vars(record).items():
        if name in _USUAL or value is None:
            continue
        field = _RENAMED.get(name, name.upper())
        if _NAME.fullmatch(field) and number < MOST_FIELDS:
            number += 1
            yield field, value


def _priority(level: int) -> int:
    return next((priority for least, priority in _PRIORITIES if level >= least), _DEBUG)


def _field(name: str, text: str) -> bytes:
    """One field; a value with a line break is written with its length."""
    value = text[:LONGEST].encode("utf-8", "backslashreplace")
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
