"""How the C library's allocator treats memory that this process gives back."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_TRIM_THRESHOLD = -1  # source: glibc's malloc.h, mallopt(3)
_M_MMAP_THRESHOLD = -3
# The largest task that an endpoint takes by itself has 10 MiB, and a message is copied some times.
_OWN_MAPPING_FROM_BYTES = 16 * 1024 * 1024
_KEPT_BYTES = 32 * 1024 * 1024


def keep_freed_memory() -> None:
    """Keep up to 32 MiB that were freed instead of giving them back to the kernel at once.

    By default glibc gives back what exceeds 128 KiB (later twice the largest piece that was freed),
    and the kernel clears each page again when it is taken next: with payloads of 1 MB that is a
    third of a task's time. The heap of the main thread keeps so much, and that of each other
    thread. Without effect on what was never used, and with other C libraries.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING_FROM_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
