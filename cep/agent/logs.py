"""The agent's log: a bounded file, an optional console, and no secret in either.

The file also takes what the process itself writes to standard output and error (a detached agent
has no terminal), and takes it with it when it is rotated.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import re
import time
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from cep.agent.log_writer import LogWriter, missing
from cep.config.settings import LogSettings

FORMAT = "%(asctime)sZ %(levelname)s %(process)d %(threadName)s %(name)s: %(message)s"

# What must never be written: passwords in URLs, bearer and basic credentials, secrets and tokens
# named as such.
_SECRETS = (
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s@]+@", re.I), r"\1:***@"),
    (re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.I), r"\1 ***"),
    (
        re.compile(
            r"((?:client_)?secret|password|passwd|(?:access_|refresh_)?token)"
            r"(['\"]?\s*[:=]\s*['\"]?)[^\s'\",}]+",
            re.I,
        ),
        r"\1\2***",
    ),
)


def redact(text: str) -> str:
    """Return the text with passwords, tokens and secrets replaced by `***`."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


class RedactingFormatter(logging.Formatter):
    """Formats in UTC and redacts the finished line, traceback included."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__(FORMAT, "%Y-%m-%dT%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the redacted line, with control characters made visible."""
        line = redact(super().format(record))
        return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in line)


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotating file of mode 0600 that can also carry the process's own output.

    After a line that could not be written (a full disk, a stale handle) the file is opened anew
    for the next one; the first that succeeds is followed by the number of those that are missing.
    """

    def __init__(self, path: Path, settings: LogSettings, *, take_output: bool) -> None:
        self._take_output = take_output
        self._failed = False
        self._lost = 0
        super().__init__(
            path, maxBytes=settings.max_bytes, backupCount=settings.backups, encoding="utf-8"
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        self._failed = False
        super().emit(record)
        if self._lost and not self._failed:
            super().emit(missing(self._lost, "they could not be written"))
            self._lost = 0

    def handleError(self, record: logging.LogRecord) -> None:
        """Count the line as lost, and let go of the file."""
        del record
        self._failed = True
        self._lost += 1
        stream, self.stream = self.stream, None
        if stream is not None:
            with suppress(OSError):
                stream.close()

    def _open(self) -> TextIOWrapper:
        """Open the file, and let standard output and error follow to it."""
        stream = super()._open()
        os.fchmod(stream.fileno(), 0o600)
        if self._take_output:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        return stream


def set_up(
    path: Path, settings: LogSettings, *, debug: bool, console: bool, detached: bool
) -> None:
    """Send the log of the whole process to `path`, and to standard error with `console`."""
    root = logging.getLogger()
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    file = LogFile(path, settings, take_output=detached)
    file.setFormatter(RedactingFormatter())
    root.addHandler(LogWriter(file))
    if console and not detached:
        terminal = logging.StreamHandler()
        terminal.setFormatter(RedactingFormatter())
        root.addHandler(terminal)
    # Libraries speak of their own matters at info; ours are what an operator reads.
    for library in ("parsl", "urllib3", "globus_sdk"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.captureWarnings(True)
