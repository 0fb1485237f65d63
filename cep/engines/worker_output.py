"""What functions print on a node: into a file that does not grow without bounds.

The workers of a pool inherit the end of a pipe; one thread of the pool writes what comes into a
file beside their logs, and begins another one when it is full. The pool itself keeps the output it
was started with, so that the block's script tells why a pool could not start.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_BYTES = 5 * 1024 * 1024  # of one file; one older file of the same size is kept
_CHUNK = 64 * 1024


@contextmanager
def bounded_output(path: Path) -> Iterator[None]:
    """Let processes that are started in this block print into the file at `path`."""
    reading, writing = os.pipe()
    threading.Thread(target=_write, args=(reading, path), name="output", daemon=True).start()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(writing, descriptor)
        yield
    finally:
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)
        os.close(writing)


def _write(reading: int, path: Path) -> None:
    """Until the last worker is gone; what the disk does not take is dropped, never waited for."""
    size = 0
    with suppress(OSError):
        size = path.stat().st_size
    while chunk := os.read(reading, _CHUNK):
        with suppress(OSError):
            if size + len(chunk) > MAX_BYTES:
                path.replace(path.with_name(f"{path.name}.1"))
                size = 0
            with path.open("ab", buffering=0) as file:
                size += file.write(chunk)
    os.close(reading)
