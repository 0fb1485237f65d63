"""Log files of blocks: bounded while they grow, pruned when the endpoint starts.

`bounded_file_logger` runs in the interchange, pools and workers; `prune` in the agent at start.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from cep.safety.files import append_text

MAX_BYTES = 5 * 1024 * 1024  # of one file; one older file of the same size is kept
KEPT_POOLS = 20  # log directories of worker pools, the newest ones
KEPT_SCRIPTS = 40  # submit scripts with their output, the newest ones
_FORMAT = "%(asctime)s %(processName)s-%(process)d %(name)s:%(lineno)d %(levelname)s: %(message)s"


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file of mode 0600, whatever the umask of the job."""

    def _open(self) -> io.TextIOWrapper:
        stream = append_text(self.baseFilename)
        assert isinstance(stream, io.TextIOWrapper)
        return stream


def bounded_file_logger(
    filename: str, name: str = "parsl", level: int = logging.DEBUG
) -> Callable[[], None]:
    """Log to a file that does not grow without bounds; stands in for Parsl's `set_file_logger`.

    Workers would write three lines for each task: theirs are kept from `warning` on, unless
    debugging is on.

    Returns:
        A function that ends the logging.
    """
    if level == logging.INFO and Path(filename).name.startswith("worker_"):
        level = logging.WARNING
    handler = _PrivateFile(filename, maxBytes=MAX_BYTES, backupCount=1, delay=True)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger(name)
    logger.setLevel(level)
    logger.addHandler(handler)

    def end() -> None:
        logger.removeHandler(handler)
        handler.close()

    return end


def prune(log_directory: Path, script_directory: Path) -> None:
    """Remove the oldest logs of earlier blocks; what cannot be removed stays."""
    pools = [path for path in log_directory.glob("block-*/*") if path.is_dir()]
    for pool in _oldest(pools, KEPT_POOLS):
        shutil.rmtree(pool, ignore_errors=True)
    for block in log_directory.glob("block-*"):
        if block.is_dir() and not any(block.iterdir()):
            block.rmdir()
    scripts = [path for path in script_directory.glob("*.s*") if path.suffix in (".sh", ".submit")]
    for script in _oldest(scripts, KEPT_SCRIPTS):
        for part in (script, *script_directory.glob(f"{script.name}.*")):
            part.unlink(missing_ok=True)


def _oldest(paths: list[Path], kept: int) -> list[Path]:
    return sorted(paths, key=os.path.getmtime, reverse=True)[kept:]
