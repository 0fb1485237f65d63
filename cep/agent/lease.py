"""The lease: which process runs this endpoint, and the token that fences out every other.

`lease.json` in the endpoint's directory is the authority, on any file system that can make a hard
link or create a file exclusively; no locks are needed. How it is won is `lease_contest`'s matter.
The holder renews by writing into its own open file, so when another process has put a new file in
its place, a late renewal lands in the old one and harms nobody.

Acquired and released on the agent's main thread; in between `lease_keeper`'s thread owns it.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
from contextlib import suppress
from dataclasses import replace

from cep.agent.host import Host, own_start, this_host
from cep.agent.lease_contest import Contender
from cep.agent.lease_file import (
    LARGEST,
    Lease,
    Standing,
    beside,
    decode,
    describe,
    judge,
    published_pid,
    read,
    token_of,
    utc_now,
)
from cep.errors import CantCreate, LeaseLost
from cep.paths import EndpointPaths
from cep.safety.files import link_exclusively, write_new

__all__ = [
    "HeldLease",
    "Lease",
    "Standing",
    "acquire",
    "describe",
    "judge",
    "published_pid",
    "read",
]

log = logging.getLogger(__name__)


def acquire(
    paths: EndpointPaths,
    *,
    period_s: float,
    control_socket: str,
    take_over: bool,
    host: Host | None = None,
) -> HeldLease:
    """Take the lease of this endpoint for this process, or say who has it.

    Args:
        paths: The endpoint.
        period_s: How often `renew` will be called.
        control_socket: Path of the agent's control socket.
        take_over: Take the lease even of another host.
        host: A test's own idea of where it runs.

    Raises:
        AlreadyRunning: Another process has it; the message says where, and what to do.
        CantCreate: The endpoint's directory cannot be written.
    """
    here = host or this_host()
    lease = Lease(
        host=here.name,
        machine_id=here.machine_id,
        boot_id=here.boot_id,
        pid=os.getpid(),
        start_time=own_start(),
        token=secrets.token_hex(16),
        renewed=utc_now(),
        period_s=period_s,
        control_socket=control_socket,
    )
    contender = Contender(paths, lease, here, take_over)
    try:
        after_crash = contender.win()
        held = HeldLease(paths, lease, after_crash=after_crash)
        held.publish()
    except OSError as exc:
        raise CantCreate(
            f"The lease {paths.lease} cannot be written: {exc.strerror or exc}. Check the space, "
            "the quota and the owner of the endpoint's directory."
        ) from exc
    return held


class HeldLease:
    """The lease in our hands. Made by `acquire`.

    Attributes:
        after_crash: An earlier life of this endpoint ended without releasing its lease.
    """

    def __init__(self, paths: EndpointPaths, lease: Lease, *, after_crash: bool) -> None:
        self._paths = paths
        self._lease = lease
        self.after_crash = after_crash
        self._file = os.open(paths.lease, os.O_RDWR | os.O_CLOEXEC)
        self._held = True
        self._unreadable = False
        self._not_renewed = False

    @property
    def token(self) -> str:
        """The fencing token."""
        return self._lease.token

    def publish(self) -> None:
        """Write `daemon.pid`, for people and for the published endpoint's tools.

        Raises:
            OSError: It cannot be written.
        """
        new = self._paths.pid_file.with_name(f"daemon.pid.new-{self.token}")
        write_new(new, str(self._lease.pid).encode())
        new.rename(self._paths.pid_file)

    def check(self) -> None:
        """Make sure that the lease is still ours; cheap (one small read).

        A file that is gone is written again, unless another process is quicker. A file system
        that does not answer proves nothing, and is only warned of.

        Raises:
            LeaseLost: Another process holds it.
        """
        try:
            data = self._paths.lease.read_bytes()
        except FileNotFoundError:
            self._restore()
            return
        except OSError as exc:
            if not self._unreadable:
                log.warning(
                    "cannot read the lease %s: %s",
                    self._paths.lease,
                    exc,
                    extra={"event": "lease.unreadable"},
                )
            self._unreadable = True
            return
        self._unreadable = False
        other = decode(data)
        if other is None or other.token != self.token:
            self._lose(other)

    def renew(self) -> None:
        """Say that we live.

        Raises:
            LeaseLost: Another process holds the lease.
        """
        self.check()
        self._lease = replace(self._lease, renewed=utc_now())
        try:
            if not self._write():  # our file has gone, or its handle is stale: take it up anew
                stale = self._file
                self._file = os.open(self._paths.lease, os.O_RDWR | os.O_CLOEXEC)
                with suppress(OSError):  # it is closed even where close(2) complains
                    os.close(stale)
                self._write()
            os.utime(self._paths.pid_file)
        except OSError as exc:
            log.log(
                logging.DEBUG if self._not_renewed else logging.WARNING,
                "cannot renew the lease: %s",
                exc,
                extra={"event": "lease.not_renewed"},
            )
            self._not_renewed = True
        else:
            self._not_renewed = False

    def _write(self) -> bool:
        """Write into our open file, if the lease's name still means it.

        Returns:
            Whether it does. The handle may be stale, and an unlinked file may live on under
            another name (as on NFS), so its count of links says nothing.

        Raises:
            OSError: The file system refuses; the handle is good.
        """
        there = self._paths.lease.stat()
        try:
            mine = os.fstat(self._file)
            if (mine.st_dev, mine.st_ino) != (there.st_dev, there.st_ino):
                return False
            if token_of(os.pread(self._file, LARGEST, 0)) == self.token:
                os.pwrite(self._file, self._lease.encode(), 0)
                os.fsync(self._file)
        except OSError as exc:
            if exc.errno == errno.ESTALE:
                return False
            raise
        return True

    def release(self) -> None:
        """Give the lease back and remove `daemon.pid`; leaves another's files alone."""
        if not self._held:
            return
        self._held = False
        with suppress(OSError):
            os.close(self._file)
        mine = read(self._paths)
        if mine is None or mine.token != self.token:
            return
        if published_pid(self._paths) == self._lease.pid:
            with suppress(OSError):
                self._paths.pid_file.unlink()
        # Look once more at what was really moved: it may have been replaced in between.
        aside = beside(self._paths, f"old-{self.token}")
        try:
            self._paths.lease.rename(aside)
            moved = read(aside)
            if moved is not None and moved.token != self.token:
                with suppress(FileExistsError):
                    os.link(aside, self._paths.lease)
            aside.unlink()
        except OSError as exc:
            log.warning("cannot release the lease: %s", exc, extra={"event": "lease.not_released"})

    def _restore(self) -> None:
        new = beside(self._paths, f"new-{secrets.token_hex(16)}")
        try:
            write_new(new, self._lease.encode())
            try:
                link_exclusively(new, self._paths.lease)
            finally:
                new.unlink(missing_ok=True)
        except FileExistsError:
            other = read(self._paths)  # another thread's `check` may have been quicker, too
            if other is None or other.token != self.token:
                self._lose(other)
            return
        except OSError as exc:
            log.warning("cannot restore the lease: %s", exc, extra={"event": "lease.not_renewed"})
            return
        log.warning(
            "the lease file was removed by somebody; written again",
            extra={"event": "lease.restored"},
        )

    def _lose(self, other: Lease | None) -> None:
        who = "something else" if other is None else describe(other)
        raise LeaseLost(
            f"The lease of endpoint {self._paths.name} was taken over by {who}. This agent stops "
            "and touches nothing more."
        )
