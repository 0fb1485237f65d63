"""Where the hub's log goes: a bounded file when detached, stderr in the foreground."""

from __future__ import annotations

import io
import logging
import logging.handlers
from pathlib import Path

from cep.safety.files import append_text
from cep.safety.logs import SafeFormatter

_FORMAT = "%(asctime)sZ %(levelname)s %(name)s %(message)s"
_MAX_BYTES = 10 * 1024 * 1024
_BACKUPS = 3


def log_to_file(path: Path) -> None:
    """Log to a bounded file of mode 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _use(_PrivateFile(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS))


def log_to_stderr(*, debug: bool = False) -> None:
    """Log to the terminal; with `debug`, everything of ours."""
    _use(logging.StreamHandler(), logging.DEBUG if debug else logging.INFO)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file of mode 0600 that is never a link to another one."""

    def _open(self) -> io.TextIOWrapper:
        stream = append_text(self.baseFilename)
        assert isinstance(stream, io.TextIOWrapper)
        return stream


def _use(handler: logging.Handler, level: int = logging.INFO) -> None:
    handler.setFormatter(SafeFormatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("cep").setLevel(level)
    # pika reports every attempt to connect itself; the links say what matters.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
