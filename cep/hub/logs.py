"""Where the hub's log goes: a bounded file when detached, stderr in the foreground."""

from __future__ import annotations

import logging
import logging.handlers
import os
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
_MAX_BYTES = 10 * 1024 * 1024
_BACKUPS = 3


def log_to_file(path: Path) -> None:
    """Log to a bounded file of mode 0600."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    _use(logging.handlers.RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_BACKUPS))


def log_to_stderr(*, debug: bool = False) -> None:
    """Log to the terminal; with `debug`, everything of ours."""
    _use(logging.StreamHandler(), logging.DEBUG if debug else logging.INFO)


def _use(handler: logging.Handler, level: int = logging.INFO) -> None:
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("cep").setLevel(level)
    # pika reports every attempt to connect itself; the links say what matters.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
