"""A real file system of the kernel's that a test can break while an agent works on it.

`BrokenFs` mounts a directory through FUSE and tells the process behind it to answer with an error,
to hang, or to forget its open files. It needs libfuse 3 (Debian's package `fuse3`); as root on a
machine with apt it is installed, elsewhere the test skips loudly, and fails in CI.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.integration.docker_engine import EngineMissing, apt_install

REPOSITORY = Path(__file__).resolve().parents[3]
MODULE = "tests.integration.faults.fuse_child"
CODES = ("ENOSPC", "EDQUOT", "EROFS", "EIO", "ESTALE")


@functools.cache
def why_not() -> str | None:
    """Why this machine can have no such file system, or None; installs what is missing as root."""
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    if importlib.util.find_spec("mfusepy") is None:
        return "the Python package mfusepy is not installed"
    return command("fusermount3", "fuse3")


@functools.cache
def command(name: str, package: str) -> str | None:
    """Have a command, from a distribution package if need be; return why it cannot be had."""
    if shutil.which(name) is not None:
        return None
    if os.getuid() != 0:
        return f"the command {name} (package {package}) is missing"
    try:
        apt_install(package)
    except EngineMissing as exc:
        return exc.message
    return None


def need(reason: str | None) -> None:
    """Skip the test for this reason, loudly; fail in CI."""
    if reason is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI must be able to run this. Here {reason}.", pytrace=False)
    pytest.skip(f"NOT TESTED: {reason}")


class BrokenFs:
    """One mount.

    Args:
        source: The directory that is shown.
        mount: Where; made when missing.
        locks: `kernel` (each mount grants for itself), `refused` or `granted`.
    """

    def __init__(self, source: Path, mount: Path, *, locks: str = "kernel") -> None:
        self.source = source
        self.mount = mount
        self._locks = locks
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> BrokenFs:
        self.source.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.mount.mkdir(parents=True, exist_ok=True)
        self._child = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(self.source), str(self.mount), self._locks],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # the test's Ctrl-C is not for it: it ends with its input
        )
        try:
            self._answer()  # once the mount stands
        except AssertionError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unmount, lazily where somebody still stands in it, and end the process."""
        child = self._child
        assert child is not None and child.stdin is not None
        with contextlib.suppress(OSError):
            child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)
        unmount = ["umount", "--lazy"] if os.getuid() == 0 else ["fusermount3", "-u", "-z"]
        subprocess.run([*unmount, str(self.mount)], check=False, stderr=subprocess.DEVNULL)
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()

    # -- what can be wrong ---------------------------------------------------------------------

    def fail(self, code: str, what: str | None = None, *, below: str = "") -> None:
        """Answer with this error from now on.

        Args:
            code: Name of the errno, such as `EDQUOT`.
            what: `grows`, `changes`, `data` or `everything`; the default is what goes with it.
            below: Only for paths that contain this text.
        """
        usual = {"ENOSPC": "grows", "EDQUOT": "grows", "EROFS": "changes", "EIO": "data"}
        what = what or usual.get(code, "everything")
        self._tell("fail", what=what, errno=getattr(errno, code), below=below)

    def hang(self) -> None:
        """Answer nothing until `heal`."""
        self._tell("hang")

    def forget_open_files(self) -> None:
        """What is open now is stale for ever, as after a failover of the server."""
        self._tell("stale")

    def heal(self) -> None:
        """Behave."""
        self._tell("heal")

    def seen(self) -> dict[str, int]:
        """How many operations failed since `fail`, and how many waited since `hang`."""
        return self._tell("look")

    def _tell(self, verb: str, **more: object) -> dict[str, int]:
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        with contextlib.suppress(OSError):
            child.stdin.write(json.dumps({"do": verb, **more}) + "\n")
            child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, int]:
        child = self._child
        assert child is not None and child.stdout is not None and child.stderr is not None
        line = child.stdout.readline()
        if not line:
            raise AssertionError(f"the file system's process ended:\n{child.stderr.read()}")
        found: dict[str, int] = json.loads(line)
        return found


@contextlib.contextmanager
def tmpfs(directory: Path, size: str) -> Iterator[Path]:
    """A small file system in memory, unmounted at the end."""
    directory.mkdir(mode=0o700, exist_ok=True)
    options = f"size={size},mode=0700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
