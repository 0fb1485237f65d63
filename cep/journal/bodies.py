"""Bodies too large for the database: one file each, on disk before the row that names it.

Owns the directory of body files; runs on the agent's main thread, but for what takes long and needs
nothing of it, which is done in threads that do nothing else. Several files are flushed at the same
time, since the disk takes hardly longer for four than for one; and files that nobody needs any more
are removed, which takes the file system a quarter of a millisecond for a megabyte. A file whose row
was never committed, or is gone, is an orphan, and `sweep` removes it at the next start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cep.errors import BodyLost
from cep.journal import crash, faults

# Measured: a body of 1.35 MB costs 9 ms inside SQLite and 0.55 ms as a file (docs/architecture.md);
# below this size the row is cheaper than a file and its fsync.
FILE_THRESHOLD = 64 * 1024  # bytes
TASK = "task"
RESULT = "result"
THREADS = 4  # so many flushes at the same time
OPEN_FILES = 16  # written and not flushed yet; a shell's limit of open files is often 1,024
# As `_path` writes it: `007.task` is another file than `7.task`, and not ours.
_NAME = re.compile(r"(0|[1-9][0-9]*)\.(task|result)")


class BodyFiles:
    """The large bodies of one journal, named `SEQ.task` and `SEQ.result`.

    Args:
        directory: Where the files live; made by `prepare`, mode 0700.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sizes: dict[tuple[int, str], int] = {}
        self.total_bytes = 0  # of all files that a row names
        self._threads: ThreadPoolExecutor | None = None

    def prepare(self) -> None:
        """Make the directory, private to this user whatever the umask.

        Raises:
            DiskUnfit: It cannot be made.
        """
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.chmod(0o700)
        except OSError as exc:
            raise faults.from_os(exc, self._directory) from exc

    def sweep(self, named: Mapping[tuple[int, str], int]) -> list[tuple[int, str]]:
        """Remove the files that no row names, and take stock of the others.

        Args:
            named: (seq, kind) -> size in bytes of each body that a row says is in a file.

        Returns:
            Those of `named` whose file is missing or has another size.

        Raises:
            DiskUnfit: The directory cannot be read.
        """
        found: dict[tuple[int, str], int] = {}
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    match = _NAME.fullmatch(entry.name)
                    if match is None or entry.is_dir(follow_symlinks=False):
                        continue  # not ours to judge
                    key = (int(match[1]), match[2])
                    if key in named:
                        found[key] = entry.stat(follow_symlinks=False).st_size
                    else:
                        Path(entry.path).unlink(missing_ok=True)
        except OSError as exc:
            raise faults.from_os(exc, self._directory) from exc
        self._sizes = {key: size for key, size in named.items() if found.get(key) == size}
        self.total_bytes = sum(self._sizes.values())
        return [key for key in named if key not in self._sizes]

    def write(self, bodies: Sequence[tuple[int, str, bytes]]) -> None:
        """Write bodies (seq, kind, bytes) and flush them; `sync` must follow before the rows.

        Raises:
            OSError: The disk is full or broken; any of the files, whole or in part, may stand:
                call `remove` for each.
        """
        for at in range(0, len(bodies), OPEN_FILES):
            some = bodies[at : at + OPEN_FILES]
            descriptors: list[int] = []
            try:
                for seq, kind, body in some:
                    descriptors.append(self._open_new(seq, kind))
                    _write_body(descriptors[-1], memoryview(body))
                self._flush(descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            for seq, kind, body in some:
                self._forget(seq, kind)
                self._sizes[seq, kind] = len(body)
                self.total_bytes += len(body)

    def _open_new(self, seq: int, kind: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path(seq, kind), flags, 0o600)
        os.fchmod(descriptor, 0o600)
        return descriptor

    def _flush(self, descriptors: Sequence[int]) -> None:
        """Flush files; returns, or raises the first error, when all flushes are over."""
        if len(descriptors) == 1:
            os.fsync(descriptors[0])
            return
        begun = [self._in_thread(os.fsync, one) for one in descriptors]
        errors = [one.exception() for one in begun]
        for error in errors:
            if error is not None:
                raise error

    def _in_thread(self, function: Callable[..., None], *arguments: object) -> Future[None]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="journal-files")
        return self._threads.submit(function, *arguments)

    def close(self) -> None:
        """End the threads, when they have removed what is to be removed. Idempotent."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None

    def sync(self) -> None:
        """Make the names of all files written so far durable.

        Raises:
            OSError: The directory cannot be flushed.
        """
        sync_directory(self._directory)

    def read(self, seq: int, kind: str, size: int) -> bytes:
        """Return a body.

        Raises:
            BodyLost: The file is gone or has another size than its row says.
            DiskUnfit: It cannot be read; another time it may.
        """
        path = self._path(seq, kind)
        try:
            body = path.read_bytes()
        except FileNotFoundError as exc:
            raise BodyLost(f"The body {path} that the journal names is gone.") from exc
        except OSError as exc:
            raise faults.from_os(exc, path) from exc
        if len(body) != size:
            raise BodyLost(f"The body {path} has {len(body)} bytes, and the journal says {size}.")
        return body

    def trial(self, size: int) -> None:
        """Write a file of this size as a body is written, read it back, and remove it.

        Raises:
            DiskUnfit: The disk does not do it.
        """
        path = self._directory / "trial"
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, flags, 0o600)
            try:
                _write_all(descriptor, memoryview(bytes(size)))
                os.fsync(descriptor)
                os.pread(descriptor, 1, 0)
            finally:
                os.close(descriptor)
                path.unlink()
            self.sync()
        except OSError as exc:
            raise faults.from_os(exc, self._directory) from exc

    def remove(self, seq: int, kind: str) -> None:
        """Remove a body's file, whole or half written. One that resists is swept later."""
        self._forget(seq, kind)
        _unlink(self._path(seq, kind))

    def remove_soon(self, bodies: Iterable[tuple[int, str]]) -> None:
        """Remove the files of bodies (seq, kind) whose rows are gone for good, in a thread."""
        for seq, kind in bodies:
            self._forget(seq, kind)
            self._in_thread(_unlink, self._path(seq, kind))

    def holds(self, seq: int, kind: str) -> bool:
        """Whether this body is in a file."""
        return (seq, kind) in self._sizes

    def _forget(self, seq: int, kind: str) -> None:
        self.total_bytes -= self._sizes.pop((seq, kind), 0)

    def _path(self, seq: int, kind: str) -> Path:
        return self._directory / f"{seq}.{kind}"


def sync_directory(directory: Path) -> None:
    """Flush a directory, so that names made or removed in it survive a power cut.

    Raises:
        OSError: It cannot be opened or flushed.
    """
    _sync(directory, os.O_DIRECTORY)


def sync_file(file: Path) -> None:
    """Flush a file that others have written and closed.

    Raises:
        OSError: It cannot be opened or flushed.
    """
    _sync(file, os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> None:
    with suppress(OSError):  # no row names it, so it is an orphan: the next start removes it
        path.unlink(missing_ok=True)


def _write_body(descriptor: int, view: memoryview) -> None:
    half = len(view) // 2
    _write_all(descriptor, view[:half])
    crash.reach("body-half-written")
    _write_all(descriptor, view[half:])


def _write_all(descriptor: int, view: memoryview) -> None:
    while view:
        view = view[os.write(descriptor, view) :]
