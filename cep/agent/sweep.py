"""Look at old files and remove them, without ever leaving the directory that was named.

Owns nothing; runs on the clean-up thread. Every step below the base directory is made from an open
directory and follows no symbolic link, so that nobody who may write below it can send a removal
elsewhere; another file system mounted below is not entered.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cep.config.settings import Keep

# What changed less than this ago is not removed for its size, however tight the bound is.
YOUNG_S = 3600.0
# A tree deeper than this is left alone: each level needs an open directory.
DEEPEST = 128
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Stopped(Exception):
    """The agent stops; what is not removed yet waits for the next time."""


@dataclass(frozen=True, slots=True)
class Thing:
    """Files or directories that are kept or go together.

    Attributes:
        folder: Names of the directories from the base down to it.
        names: Its entries in that folder.
        block: The block that made it, or None.
        task_key: The 16 bytes of the task's id that made it, or None.
    """

    folder: tuple[str, ...]
    names: tuple[str, ...]
    block: str | None = None
    task_key: bytes | None = None


@dataclass(slots=True)
class Removed:
    """What went, and what resisted.

    Attributes:
        things: How many.
        size_bytes: What they took on disk.
        failures: How many could not be removed, or not even looked at.
        first_failure: What became of the first of them.
    """

    things: int = 0
    size_bytes: int = 0
    failures: int = 0
    first_failure: str = ""

    def failed(self, error: OSError, thing: Thing) -> None:
        """Note one that stays."""
        self.failures += 1
        if not self.first_failure:
            path = "/".join((*thing.folder, thing.names[0]))
            self.first_failure = f"{path}: {error.strerror or error}"


@dataclass(frozen=True, slots=True)
class _Seen:
    thing: Thing
    size_bytes: int
    changed_at: float


@contextmanager
def folder(base: Path, names: Sequence[str]) -> Iterator[int | None]:
    """Open a directory below the base, link by no link; None when it is not there."""
    opened: list[int] = []
    try:
        try:
            # The base itself is the owner's word and may be reached by a link.
            opened.append(os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            for name in names:
                opened.append(os.open(name, _DIRECTORY, dir_fd=opened[-1]))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            yield None
            return
        yield opened[-1]
    finally:
        for descriptor in opened:
            os.close(descriptor)


def entries(base: Path, names: Sequence[str]) -> list[tuple[str, bool]]:
    """Return (name, is a directory) of what lies there; nothing when it is not there itself."""
    with folder(base, names) as descriptor:
        if descriptor is None:
            return []
        with os.scandir(descriptor) as found:
            return [(one.name, one.is_dir(follow_symlinks=False)) for one in found]


def sweep(
    base: Path,
    things: Iterable[Thing],
    keep: Keep,
    *,
    now: float,
    before: float,
    in_use: Callable[[Thing, float], bool],
    stopped: Callable[[], bool],
) -> Removed:
    """Remove what is too old, then the oldest of what is too much.

    Args:
        base: Where the things lie.
        things: What may go.
        keep: How long and how much.
        now: Seconds since 1970.
        before: Only what did not change since this moment may go.
        in_use: Tells from a thing and its last change whether somebody needs it.
        stopped: Whether to end early.

    Raises:
        Stopped: It was ended early.
    """
    removed = Removed()
    if not (keep.max_age or keep.max_bytes):
        return removed
    seen: list[_Seen] = []
    for thing in things:
        try:
            seen.append(_look_at(base, thing, stopped))
        except FileNotFoundError:
            continue  # it went by itself
        except OSError as error:
            removed.failed(error, thing)
    seen.sort(key=lambda one: one.changed_at)
    total = sum(one.size_bytes for one in seen)
    for one in seen:
        age = now - one.changed_at
        too_old = keep.max_age and age > keep.max_age
        too_much = keep.max_bytes and total > keep.max_bytes and age > YOUNG_S
        if not (too_old or too_much) or one.changed_at >= before:
            continue
        if in_use(one.thing, one.changed_at):
            continue
        try:
            removed.size_bytes += _remove(base, one.thing, stopped)
            removed.things += 1
            total -= one.size_bytes
        except OSError as error:
            removed.failed(error, one.thing)
    return removed


def open_paths() -> set[str]:
    """Paths that processes of this account on this host have open or work in.

    Only links of /proc are read, never what they lead to: a file system that hangs is not asked.
    """
    own = os.getuid()
    found: set[str] = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with suppress(OSError):  # it ended, or is not ours to look into
            if process.stat().st_uid != own:
                continue
            with suppress(OSError):
                found.add(str((process / "cwd").readlink()))
            with os.scandir(process / "fd") as descriptors:
                for one in descriptors:
                    with suppress(OSError):
                        found.add(str(Path(one.path).readlink()))
    return {path for path in found if path.startswith("/")}


def _look_at(base: Path, thing: Thing, stopped: Callable[[], bool]) -> _Seen:
    size, changed = 0, 0.0
    with folder(base, thing.folder) as descriptor:
        if descriptor is None:
            raise FileNotFoundError
        device = os.fstat(descriptor).st_dev
        for name in thing.names:
            more, at = _measure(descriptor, name, device, stopped, DEEPEST)
            size += more
            changed = max(changed, at)
    return _Seen(thing, size, changed)


def _measure(
    parent: int, name: str, device: int, stopped: Callable[[], bool], levels: int
) -> tuple[int, float]:
    """Return the bytes on disk and the newest change of an entry and all below it."""
    if stopped():
        raise Stopped
    info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    size = info.st_blocks * 512
    # Content may be older than its copying, of which only the inode's own time tells.
    changed = max(info.st_mtime, info.st_ctime)
    if stat.S_ISDIR(info.st_mode):
        with _below(parent, name, info.st_dev, device, levels) as (descriptor, names):
            for one in names:
                more, at = _measure(descriptor, one, device, stopped, levels - 1)
                size += more
                changed = max(changed, at)
    return size, changed


def _remove(base: Path, thing: Thing, stopped: Callable[[], bool]) -> int:
    size = 0
    with folder(base, thing.folder) as descriptor:
        if descriptor is None:
            return 0
        device = os.fstat(descriptor).st_dev
        for name in thing.names:
            size += _remove_entry(descriptor, name, device, stopped, DEEPEST)
    return size


def _remove_entry(
    parent: int, name: str, device: int, stopped: Callable[[], bool], levels: int
) -> int:
    if stopped():
        raise Stopped
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return 0
    size = info.st_blocks * 512 if info.st_nlink == 1 or stat.S_ISDIR(info.st_mode) else 0
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=parent)
        return size
    with _below(parent, name, info.st_dev, device, levels) as (descriptor, names):
        for one in names:
            size += _remove_entry(descriptor, one, device, stopped, levels - 1)
    os.rmdir(name, dir_fd=parent)
    return size


@contextmanager
def _below(
    parent: int, name: str, at: int, device: int, levels: int
) -> Iterator[tuple[int, list[str]]]:
    """A directory and the names in it.

    Raises:
        OSError: It is another file system, too deep, or not ours to read.
    """
    if at != device:
        raise OSError(errno.EXDEV, "another file system is mounted there")
    if levels == 0:
        raise OSError(errno.ELOOP, f"it is more than {DEEPEST} directories deep")
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        with os.scandir(descriptor) as found:
            names = [entry.name for entry in found]
        yield descriptor, names
    finally:
        os.close(descriptor)
