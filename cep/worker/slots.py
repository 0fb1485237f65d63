"""Start slots: which tasks a worker has begun, readable after the worker or the agent was killed.

Each worker owns one small file, mapped into its memory, with a ring of the last sequence numbers
it began. A store into the mapping survives kill -9 (it is in the kernel's page cache), costs well
under a microsecond, and is not meant to survive a reboot: the file names the boot it belongs to.

The writer belongs to the worker's thread; the readers to anyone, also while the writer writes.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".slots"
RING = 4096  # sequence numbers kept per worker
_MAGIC = b"CEPSLOT1"
_BOOT = 36  # characters of a boot id
_HEADER = struct.Struct(f"<8s{_BOOT}s4xQ")  # magic, boot id, padding, how many were begun
_COUNT = struct.Struct("<Q")
_COUNT_AT = _HEADER.size - _COUNT.size
_SIZE = _HEADER.size + RING * _COUNT.size


def boot_id() -> str:
    """Return the id of this boot of this host, as Linux gives it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class SlotWriter:
    """A worker's ring.

    Args:
        directory: Where the rings live; made when missing, on a disk of this host.
        name: The ring's name; the default is the process id. A successor that takes the name of
            a dead worker continues its ring, so that rings do not pile up.
    """

    def __init__(self, directory: Path, name: str | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = directory / f"{name or os.getpid()}{SUFFIX}"
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(handle).st_size != _SIZE:
                os.ftruncate(handle, 0)
                # Blocks and all: a store into a hole on a full disk would kill the process.
                os.posix_fallocate(handle, 0, _SIZE)
            self._map = mmap.mmap(handle, _SIZE)
        finally:
            os.close(handle)
        magic, boot, count = _HEADER.unpack_from(self._map)
        this_boot = boot_id().encode("ascii")
        if magic != _MAGIC or boot != this_boot:
            count = 0
            _HEADER.pack_into(self._map, 0, _MAGIC, this_boot, 0)
        self._count = count

    def begin(self, seq: int) -> None:
        """Note that this task begins now; visible to readers when this returns."""
        # The entry first, then the count that makes it valid: killed in between, nothing began.
        _COUNT.pack_into(self._map, _HEADER.size + (self._count % RING) * _COUNT.size, seq)
        self._count += 1
        _COUNT.pack_into(self._map, _COUNT_AT, self._count)

    def close(self) -> None:
        """Unmap the file and leave it where it is."""
        self._map.close()


class SlotReader:
    """Reads one ring, of this boot, from another process.

    Args:
        path: The ring's file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def count(self) -> int:
        """Return how many tasks were ever begun in this ring."""
        return _read(self._path, boot_id())[0]

    def since(self, count: int) -> set[int]:
        """Return the sequence numbers begun after `count` was the count."""
        now, entries = _read(self._path, boot_id())
        return {entries[at % RING] for at in range(max(count, now - RING), now)}


def begun_seqs(directory: Path) -> set[int]:
    """Return all sequence numbers in the rings of this boot; other files are ignored."""
    boot = boot_id()
    begun: set[int] = set()
    for path in _rings(directory):
        count, entries = _read(path, boot)
        begun.update(entries[: min(count, RING)])
    return begun


def written_this_boot(directory: Path) -> bool:
    """Return whether any ring of this boot is there; without one, nothing is known."""
    boot = boot_id().encode("ascii")
    for path in _rings(directory):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if len(content) == _SIZE and _HEADER.unpack_from(content)[:2] == (_MAGIC, boot):
            return True
    return False


def clear(directory: Path) -> None:
    """Remove all rings. Only when no worker lives and what they say has been used."""
    for path in _rings(directory):
        path.unlink(missing_ok=True)


def _rings(directory: Path) -> Iterator[Path]:
    try:
        yield from directory.glob(f"*{SUFFIX}")
    except FileNotFoundError:
        return


def _read(path: Path, boot: str) -> tuple[int, tuple[int, ...]]:
    """Read a ring's count and entries; nothing for a foreign, damaged or missing file."""
    try:
        content = path.read_bytes()
    except OSError:
        return 0, ()
    if len(content) != _SIZE:
        return 0, ()
    magic, written_boot, count = _HEADER.unpack_from(content)
    if magic != _MAGIC or written_boot != boot.encode("ascii"):
        return 0, ()
    return count, struct.unpack_from(f"<{RING}Q", content, _HEADER.size)
