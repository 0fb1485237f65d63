"""Log files of blocks: bounded while they grow, and told apart when they are old.

`bounded_file_logger` runs in the interchange, pools and workers; the rest is pure and tells the
agent's clean-up by the names of files which block they belong to.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import re
from collections.abc import Callable
from pathlib import Path

from cep.safety.files import append_text

MAX_BYTES = 5 * 1024 * 1024  # of one file; one older file of the same size is kept
#: Where submit scripts and their output lie, from the run directory.
SCRIPTS = "submit_scripts"
#: How the name of an executor's log directory ends, in the run directory.
EXECUTOR_SUFFIX = "-HighThroughputExecutor"
_BLOCK_DIRECTORY = re.compile(r"block-(\d+)")
_SCRIPT = re.compile(r"parsl\..*\.block-(\d+)\.\d+(?:\.\d+)?")
# What a launcher writes beside it, called as the job is: by us, or by Parsl.
_LAUNCHED = re.compile(r"cmd_(?:cep\.[^.]+\.[^.]+\.(\d+)|parsl\..*\.block-(\d+)\.[\d.]+)\.sh.*")
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


def block_of_directory(name: str) -> str | None:
    """Return the block whose pools log in the directory of this name, or None."""
    match = _BLOCK_DIRECTORY.fullmatch(name)
    return None if match is None else match[1]


def script_of(name: str) -> tuple[str, str] | None:
    """Return the script to which a file of `submit_scripts/` belongs, and its block, or None.

    A script is called as Parsl calls its job: the label, the block and the moment; what the job
    writes has the script's name or the job's and something behind it.
    """
    match = _SCRIPT.match(name)
    return None if match is None else (match[0], match[1])


def block_of_launched(name: str) -> str | None:
    """Return the block whose launcher has written a file of `submit_scripts/`, or None."""
    match = _LAUNCHED.fullmatch(name)
    return None if match is None else match[1] or match[2]
