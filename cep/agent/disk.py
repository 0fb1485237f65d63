"""Try a directory's file system before anything is trusted to it.

Both halves of an endpoint's directory are tried at each start, in a few milliseconds: the shared
one must keep what is flushed and let a name be taken by one process only (the lease stands on
that), the local one must honour locks too (the journal stands on them). Owns nothing; runs on the
agent's main thread, before the lease is taken.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
from contextlib import suppress
from pathlib import Path

from cep.errors import CantCreate, DiskUnfit
from cep.paths import EndpointPaths
from cep.safety.files import check_writers, make_directory

# What a start needs at least: the lease and the log here, the journal and its log there.
SHARED_ROOM = 1024 * 1024  # bytes
LOCAL_ROOM = 16 * 1024 * 1024  # bytes
# The file system's fault, not that of a path or its owner.
_BROKEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENOTCONN)
_OFFER = (
    "Put the journal on a local disk with a line such as `state_dir: /var/tmp/cep-{user}/{name}` "
    "in {config}."
)


def check_disk(paths: EndpointPaths) -> None:
    """Try both halves of the endpoint's directory; make the second one if it is missing.

    Raises:
        DiskUnfit: A file system is full, read-only, or lies; the message says what it did, and
            offers `state_dir` where that helps.
        CantCreate: A directory belongs to somebody else, or others could change what is in it.
    """
    check_writers(paths.root.parent, sticky_is_fine=True)
    offer = _OFFER.format(user=os.getuid(), name=paths.name, config=paths.config)
    _try_half(paths.root, SHARED_ROOM, locks=False, hint=None)
    if paths.run != paths.root:
        _try_half(paths.run, SHARED_ROOM, locks=False, hint=None)
    _try_half(paths.state, LOCAL_ROOM, locks=True, hint=offer)


def _try_half(directory: Path, room: int, *, locks: bool, hint: str | None) -> None:
    _own(directory, hint)
    probe = directory / f".trial-{os.getpid()}-{secrets.token_hex(4)}"
    twin = probe.with_name(probe.name + "-twin")
    try:
        _try_room(directory, room, hint)
        _try_file(probe, twin, hint)
        if locks:
            _try_lock(probe, hint)
    except OSError as exc:
        raise DiskUnfit(
            f"The directory {directory} cannot be written: {exc.strerror or exc}"
            + (" (check the quota)." if exc.errno == errno.EDQUOT else "."),
            hint=hint,
        ) from exc
    finally:
        for file in (probe, twin):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _own(directory: Path, hint: str | None) -> None:
    """Make the directory if need be; it must be ours. A broken file system is said as one."""
    try:
        make_directory(directory)
    except CantCreate as exc:
        cause = exc.__cause__
        if isinstance(cause, OSError) and cause.errno in _BROKEN:
            raise DiskUnfit(exc.message, hint=hint) from cause
        raise


def _try_room(directory: Path, room: int, hint: str | None) -> None:
    space = os.statvfs(directory)
    free = space.f_bavail * space.f_frsize
    # Some network file systems do not say (all zero).
    if space.f_blocks and free < room:
        raise DiskUnfit(
            f"The file system of {directory} has {free} bytes left, and {room} are needed to "
            "start. Free some space.",
            hint=hint,
        )


def _try_file(probe: Path, twin: Path, hint: str | None) -> None:
    """Write, flush, read back, rename, and take a name twice: what the lease and journal do."""
    word = secrets.token_bytes(64 * 1024)  # a quota shows only when blocks are really taken
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(probe, flags, 0o600)
    try:
        os.write(descriptor, word)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        os.close(os.open(probe, flags, 0o600))
    except FileExistsError:
        pass
    else:
        raise DiskUnfit(
            f"The file system of {probe.parent} let the same name be created exclusively twice, "
            "so two agents could run at once.",
            hint=hint,
        )
    probe.rename(twin)
    if twin.read_bytes() != word:
        raise DiskUnfit(
            f"The file system of {probe.parent} gave back other bytes than were written.",
            hint=hint,
        )
    twin.rename(probe)


def _try_lock(probe: Path, hint: str | None) -> None:
    """See that a lock is granted, and is refused to a second holder.

    Open file description locks (fcntl(2)) clash between two openings by one process, so no second
    process is needed for the trial; they travel the same way as the POSIX locks SQLite takes.
    """
    first = os.open(probe, os.O_RDWR | os.O_CLOEXEC)
    second = os.open(probe, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            _lock(first)
        except OSError as exc:
            raise DiskUnfit(
                f"The file system of {probe.parent} refuses locks ({exc.strerror or exc}), and "
                "the journal needs them.",
                hint=hint,
            ) from exc
        try:
            _lock(second)
        except OSError:
            return
        raise DiskUnfit(
            f"The file system of {probe.parent} grants the same lock twice, so it cannot keep "
            "the journal from being written by two agents.",
            hint=hint,
        )
    finally:
        os.close(first)
        os.close(second)


def _lock(descriptor: int) -> None:
    """Take a whole-file write lock on an open file description, without waiting."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK)


# struct flock of fcntl(2): type, whence, start, length (0: to the end), pid (0: required).
_FLOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
