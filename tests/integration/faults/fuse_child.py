"""A file system that misbehaves when told to: the process behind `broken_fs.BrokenFs`.

It shows a directory under another name (FUSE, through libfuse 3) and takes one JSON command per
line on its standard input, answering each with a line. The end of its input, which comes with the
death of the test that started it, unmounts and ends it. Run as a module with arguments: SOURCE
MOUNT LOCKS, where LOCKS is `kernel` (locks are granted per mount, as on a network file system
mounted with local locks), `refused` (ENOLCK) or `granted` (every lock to everybody).
"""

# ruff: noqa: PTH101, PTH102, PTH105, PTH106, PTH108, PTH115, PTH208, PTH211

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from typing import Any

import mfusepy

CHANGES = frozenset(
    (
        *("write", "create", "mkdir", "rmdir", "unlink", "rename", "link", "symlink", "truncate"),
        *("chmod", "chown", "utimens", "open-to-write"),
    )
)
GROWS = frozenset(("write", "create", "mkdir", "symlink"))  # what takes a new block
DATA = frozenset(("read", "write", "fsync", "create"))
SETS = {"changes": CHANGES, "grows": GROWS, "data": DATA}
EVERYTHING = "everything"


class Mood:
    """How the file system behaves now. Operations wait here while it hangs."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._hangs = False
        self._fails: frozenset[str] | None = frozenset()  # None: everything
        self._errno = 0
        self._below = ""  # only paths that contain this
        self._oldest_handle = 0  # handles below this number are stale for ever
        self.failures = 0
        self.waiting = 0

    def pass_or_fail(self, operation: str, path: str | None, handle: int | None = None) -> None:
        """Wait while everything hangs, then raise what is due."""
        with self._changed:
            self.waiting += self._hangs
            self._changed.wait_for(lambda: not self._hangs)
            if handle is not None and handle < self._oldest_handle:
                self.failures += 1
                raise mfusepy.FuseOSError(errno.ESTALE)
            fails = self._fails is None or operation in self._fails
            if fails and (path is None or self._below in path):
                self.failures += 1
                raise mfusepy.FuseOSError(self._errno)

    def obey(self, command: dict[str, Any], next_handle: int) -> None:
        """Change the behaviour."""
        with self._changed:
            verb = command["do"]
            if verb == "hang":
                self._hangs, self.waiting = True, 0
            elif verb == "fail":
                what = command["what"]
                self._fails = None if what == EVERYTHING else SETS[what]
                self._errno = command["errno"]
                self._below = command["below"]
                self.failures = 0
            elif verb == "stale":
                self._oldest_handle = next_handle
            elif verb == "heal":
                self._hangs, self._fails = False, frozenset()
            self._changed.notify_all()


class Passthrough(mfusepy.Operations):  # type: ignore[misc]
    """Everything goes to the source directory, after a look at the mood."""

    use_ns = True

    def __init__(self, source: str) -> None:
        self._source = source
        self.mood = Mood()
        self._lock = threading.Lock()
        self._files: dict[int, int] = {}
        self.next_handle = 1

    def init(self, path: str) -> None:
        """The kernel's first request: the mount stands."""
        del path
        print(json.dumps({"failures": 0, "waiting": 0}), flush=True)

    # -- handles -------------------------------------------------------------------------------

    def _real(self, path: str) -> str:
        return self._source + path

    def _keep(self, descriptor: int) -> int:
        with self._lock:
            handle = self.next_handle
            self.next_handle += 1
            self._files[handle] = descriptor
        return handle

    def _see(self, operation: str, path: str | None, handle: int | None = None) -> None:
        self.mood.pass_or_fail(operation, path, handle)

    # -- files ---------------------------------------------------------------------------------

    def open(self, path: str, flags: int) -> int:
        to_write = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
        self._see("open-to-write" if to_write else "open", path)
        return self._keep(os.open(self._real(path), flags & ~os.O_NOFOLLOW))

    def create(self, path: str, mode: int, flags: int) -> int:
        self._see("create", path)
        return self._keep(os.open(self._real(path), flags | os.O_CREAT, mode))

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._see("read", path, fh)
        return os.pread(self._files[fh], size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._see("write", path, fh)
        return os.pwrite(self._files[fh], data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        self._see("truncate", path, fh)
        os.truncate(self._real(path) if fh is None else self._files[fh], length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        self._see("fsync", path, fh)
        os.fdatasync(self._files[fh]) if datasync else os.fsync(self._files[fh])

    def flush(self, path: str, fh: int) -> None:
        self._see("flush", path, fh)

    def release(self, path: str, fh: int) -> None:
        del path
        os.close(self._files.pop(fh))

    # -- names ---------------------------------------------------------------------------------

    def getattr(self, path: str | None, fh: int | None = None) -> dict[str, int]:
        self._see("getattr", path, fh)
        if fh is not None:
            found = os.fstat(self._files[fh])
        else:
            assert path is not None
            found = os.lstat(self._real(path))
        names = ["mode", "ino", "nlink", "uid", "gid", "size", "blocks"]
        attributes = {f"st_{name}": int(getattr(found, f"st_{name}")) for name in names}
        for name in ("atime", "mtime", "ctime"):
            attributes[f"st_{name}"] = int(getattr(found, f"st_{name}_ns"))
        return attributes

    def readdir(self, path: str, fh: int) -> list[str]:
        del fh
        self._see("readdir", path)
        return [".", "..", *os.listdir(self._real(path))]

    def opendir(self, path: str) -> int:
        self._see("opendir", path)
        return 0

    def releasedir(self, path: str, fh: int) -> None:
        pass

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        del datasync, fh
        self._see("fsync", path)

    def readlink(self, path: str) -> str:
        self._see("readlink", path)
        return os.readlink(self._real(path))

    def statfs(self, path: str) -> dict[str, int]:
        self._see("statfs", path)
        found = os.statvfs(self._real(path))
        names = [
            "bavail",
            "bfree",
            "blocks",
            "bsize",
            "favail",
            "ffree",
            "files",
            "flag",
            "frsize",
            "namemax",
        ]
        return {f"f_{name}": int(getattr(found, f"f_{name}")) for name in names}

    def mkdir(self, path: str, mode: int) -> None:
        self._see("mkdir", path)
        os.mkdir(self._real(path), mode)

    def rmdir(self, path: str) -> None:
        self._see("rmdir", path)
        os.rmdir(self._real(path))

    def unlink(self, path: str) -> None:
        self._see("unlink", path)
        os.unlink(self._real(path))

    def rename(self, old: str, new: str) -> None:
        self._see("rename", new)
        os.replace(self._real(old), self._real(new))

    def link(self, target: str, source: str) -> None:
        self._see("link", target)
        os.link(self._real(source), self._real(target))

    def symlink(self, target: str, source: str) -> None:
        self._see("symlink", target)
        os.symlink(source, self._real(target))

    def chmod(self, path: str, mode: int) -> None:
        self._see("chmod", path)
        os.chmod(self._real(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._see("chown", path)
        os.chown(self._real(path), uid, gid)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        self._see("utimens", path)
        if times is None:
            os.utime(self._real(path))
        else:
            os.utime(self._real(path), ns=times)


class RefusingLocks(Passthrough):
    """No lock is to be had, as on an NFS mount whose lock service is gone."""

    def lock(self, path: str, fh: int, cmd: int, lock: Any) -> int:
        del path, fh, cmd, lock
        raise mfusepy.FuseOSError(errno.ENOLCK)


class GrantingLocks(Passthrough):
    """Every lock is granted to everybody."""

    def lock(self, path: str, fh: int, cmd: int, lock: Any) -> int:
        del path, fh, cmd, lock
        return 0


KINDS = {"kernel": Passthrough, "refused": RefusingLocks, "granted": GrantingLocks}


def obey(operations: Passthrough, mount: str) -> None:
    """Take commands until the input ends; then unmount and end."""
    for line in sys.stdin:
        operations.mood.obey(json.loads(line), operations.next_handle)
        answer = {"failures": operations.mood.failures, "waiting": operations.mood.waiting}
        print(json.dumps(answer), flush=True)
    operations.mood.obey({"do": "heal"}, 0)
    unmount = ["umount", "--lazy"] if os.getuid() == 0 else ["fusermount3", "-u", "-z"]
    subprocess.run([*unmount, mount], check=False, stderr=subprocess.DEVNULL)
    os._exit(0)


def main(source: str, mount: str, locks: str) -> None:
    """Mount and serve."""
    operations = KINDS[locks](source)
    threading.Thread(target=obey, args=(operations, mount), daemon=True).start()
    mfusepy.FUSE(
        operations,
        mount,
        foreground=True,
        fsname="cep-broken-fs",
        use_ino=True,
        attr_timeout=0,
        entry_timeout=0,
        negative_timeout=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
