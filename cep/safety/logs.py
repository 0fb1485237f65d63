"""The formatter of every log of ours: no secret, and nothing that a terminal obeys."""

from __future__ import annotations

import logging
import time

from cep.safety.text import printable, redact

# A further line of one record begins so, and therefore never like a record.
CONTINUED = "\n    "


class SafeFormatter(logging.Formatter):
    """Formats in UTC, redacts the finished text (traceback included) and makes it printable.

    Further lines of a record are indented, so that no name or message can pass for a record.
    """

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return the safe text of a record."""
        text = printable(redact(super().format(record)), keep="\n\t")
        return text.replace("\n", CONTINUED)
