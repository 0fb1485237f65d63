"""The lease: which process runs this endpoint, and the token that fences out every other.

`lease.json` in the endpoint's directory is the authority, on any file system that can make a hard
link or create a file exclusively; no locks are needed. It comes into being whole (a hard link to
a finished file). A stale one is replaced only by the process that holds the *claim* on it, a file
named after the stale lease's token that can exist once; a claim whose maker died is claimed in the
same way. The holder renews by writing into its own open file, so when another process has put a
new file in its place, a late renewal lands in the old one and harms nobody.

Acquired, renewed and released on the agent's main thread; `check` may be called from the
connection's thread too, `read` and `judge` from anywhere.
"""

from __future__ import annotations

import enum
import errno
import hashlib
import json
import logging
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from cep.agent.host import Host, is_endpoint, own_start, process_start, this_host
from cep.errors import AlreadyRunning, CantCreate, LeaseLost
from cep.paths import EndpointPaths

log = logging.getLogger(__name__)

FORMAT = 1  # of lease.json; a newer cep adds fields and keeps these
SILENT_PERIODS = 3  # a lease not renewed for so many periods is that of a Disconnected endpoint
_LARGEST = 65536  # bytes of a lease; a path and a host name do not fill a tenth of it
_GARBAGE_AGE_S = 60
_ROUNDS = 1000  # a contender that never wins and never finds a holder stops here
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True, slots=True)
class Lease:
    """What `lease.json` says.

    Attributes:
        host: Name of the machine the agent runs on.
        machine_id: Its machine id, may be empty.
        boot_id: Which boot of it.
        pid: The agent's process.
        start_time: When that process began, in clock ticks since boot.
        token: The fencing token, new with each start.
        renewed: When the agent last renewed the lease (UTC).
        period_s: Seconds between renewals.
        control_socket: Path of the agent's control socket.
    """

    host: str
    machine_id: str
    boot_id: str
    pid: int
    start_time: int
    token: str
    renewed: datetime
    period_s: float
    control_socket: str

    def encode(self) -> bytes:
        """Return the file's bytes; the length does not change with `renewed`."""
        fields = {
            "format": FORMAT,
            "host": self.host,
            "machine_id": self.machine_id,
            "boot_id": self.boot_id,
            "pid": self.pid,
            "start_time": self.start_time,
            "token": self.token,
            "renewed": _text(self.renewed),
            "period_s": self.period_s,
            "control_socket": self.control_socket,
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    def silent_for_s(self, now: datetime | None = None) -> float:
        """Return the seconds since the last renewal, 0 when the clocks disagree."""
        return max(0.0, ((now or _now()) - self.renewed).total_seconds())


class Standing(enum.Enum):
    """What a lease is worth, seen from this host."""

    ALIVE = "alive"  # its process runs here
    DEAD = "dead"  # it ran here, in this boot or an earlier one, and does no more
    ELSEWHERE = "elsewhere"  # another host renews it
    SILENT = "silent"  # another host's, and not renewed for three periods


def read(where: EndpointPaths | Path) -> Lease | None:
    """Return the lease, or None when there is none, or none that can be understood."""
    try:
        return _decode((where.lease if isinstance(where, EndpointPaths) else where).read_bytes())
    except OSError:
        return None


def judge(lease: Lease, host: Host | None = None, now: datetime | None = None) -> Standing:
    """Say what a lease is worth.

    Args:
        lease: The lease.
        host: Who asks; this host by default.
        now: When; the present by default.
    """
    here = host or this_host()
    if (lease.host, lease.machine_id) != (here.name, here.machine_id):
        silent = lease.silent_for_s(now) > SILENT_PERIODS * lease.period_s
        return Standing.SILENT if silent else Standing.ELSEWHERE
    if lease.boot_id != here.boot_id:
        return Standing.DEAD
    start = process_start(lease.pid)
    return Standing.ALIVE if start is not None and start == lease.start_time else Standing.DEAD


def describe(lease: Lease) -> str:
    """Return the holder in one phrase for people."""
    return (
        f"process {lease.pid} on host {lease.host}, lease renewed {lease.silent_for_s():.0f} s ago"
    )


def published_pid(paths: EndpointPaths) -> int | None:
    """Return the pid in `daemon.pid`, or None when there is no such file or no pid in it."""
    try:
        return int(paths.pid_file.read_bytes())
    except (OSError, ValueError):
        return None


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
        renewed=_now(),
        period_s=period_s,
        control_socket=control_socket,
    )
    contender = _Contender(paths, lease, here, take_over)
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
        _write_new(new, str(self._lease.pid).encode())
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
        other = _decode(data)
        if other is None or other.token != self.token:
            self._lose(other)

    def renew(self) -> None:
        """Say that we live.

        Raises:
            LeaseLost: Another process holds the lease.
        """
        self.check()
        self._lease = replace(self._lease, renewed=_now())
        try:
            if os.fstat(self._file).st_nlink == 0:  # deleted, and written again by `check`
                os.close(self._file)
                self._file = os.open(self._paths.lease, os.O_RDWR | os.O_CLOEXEC)
            if _decode_token(os.pread(self._file, _LARGEST, 0)) == self.token:
                os.pwrite(self._file, self._lease.encode(), 0)
                os.fsync(self._file)
            os.utime(self._paths.pid_file)
        except OSError as exc:
            log.warning("cannot renew the lease: %s", exc, extra={"event": "lease.not_renewed"})

    def release(self) -> None:
        """Give the lease back and remove `daemon.pid`; leaves another's files alone."""
        if not self._held:
            return
        self._held = False
        os.close(self._file)
        mine = read(self._paths)
        if mine is None or mine.token != self.token:
            return
        if published_pid(self._paths) == self._lease.pid:
            with suppress(OSError):
                self._paths.pid_file.unlink()
        # Look once more at what was really moved: it may have been replaced in between.
        aside = _beside(self._paths, f"old-{self.token}")
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
        new = _beside(self._paths, f"new-{secrets.token_hex(16)}")
        try:
            _write_new(new, self._lease.encode())
            try:
                _link(new, self._paths.lease)
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


class _Contender:
    """One process that wants the lease: look, claim, look again, replace."""

    def __init__(self, paths: EndpointPaths, lease: Lease, here: Host, take_over: bool) -> None:
        self._paths = paths
        self._lease = lease
        self._here = here
        self._take_over = take_over
        self._new = _beside(paths, f"new-{lease.token}")

    def win(self) -> bool:
        """Get the lease.

        Returns:
            Whether an earlier life had left its lease or pid file behind.

        Raises:
            AlreadyRunning: Another process has it.
            OSError: The directory cannot be written.
        """
        _write_new(self._new, self._lease.encode())
        try:
            for _ in range(_ROUNDS):
                found = _read_bytes(self._paths.lease)
                if found is None:
                    crashed = self._published_was_here()
                    if self._create(self._paths.lease):
                        break
                elif self._replace(found):
                    crashed = True
                    break
            else:
                raise CantCreate(
                    f"The lease {self._paths.lease} can be neither read nor made. Remove it if it "
                    "is not a regular file, and look at its file system."
                )
        finally:
            self._new.unlink(missing_ok=True)
        _sync(self._paths.lease.parent)
        self._sweep()
        return crashed

    def _published_was_here(self) -> bool:
        """Whether a published endpoint left its pid file; one that lives is not disturbed."""
        pid = published_pid(self._paths)
        if pid is not None and is_endpoint(pid) and pid != os.getpid():
            raise AlreadyRunning(
                f"Endpoint {self._paths.name} is already running here as process {pid}, started "
                "by another program than this one.",
                hint=f"Stop it first: cep stop {self._paths.name}",
            )
        return self._paths.pid_file.exists()

    def _replace(self, found: bytes) -> bool:
        """Replace a stale lease; False when the world changed meanwhile and must be read again."""
        chain = [found]
        while True:
            self._refuse_living(chain[-1])
            claim = _beside(self._paths, f"after-{_name_of(chain[-1])}")
            if self._create(claim):
                break
            earlier = _read_bytes(claim)
            if earlier is None:
                return False
            chain.append(earlier)
        try:
            if not self._unchanged(chain):
                return False
            _write_new(self._new, self._lease.encode(), again=True)
            self._new.rename(self._paths.lease)
        finally:
            claim.unlink(missing_ok=True)
        for link in chain[:-1]:
            _beside(self._paths, f"after-{_name_of(link)}").unlink(missing_ok=True)
        return True

    def _unchanged(self, chain: list[bytes]) -> bool:
        """Whether, now that the claim is ours, everything is as it was when we judged it."""
        names = [self._paths.lease]
        names += [_beside(self._paths, f"after-{_name_of(link)}") for link in chain[:-1]]
        return all(
            (now := _read_bytes(name)) is not None and _name_of(now) == _name_of(then)
            for name, then in zip(names, chain, strict=True)
        )

    def _refuse_living(self, data: bytes) -> None:
        other = _decode(data)
        if other is None:
            log.warning(
                "the lease %s cannot be understood and is replaced",
                self._paths.lease,
                extra={"event": "lease.garbled"},
            )
            return
        standing = judge(other, self._here)
        name = self._paths.name
        if standing is Standing.ALIVE:
            raise AlreadyRunning(
                f"Endpoint {name} is already running: process {other.pid} on this host "
                f"({other.host}).",
                hint=f"Stop it first: cep stop {name}",
            )
        if standing is Standing.DEAD or self._take_over:
            return
        raise AlreadyRunning(
            f"Endpoint {name} belongs to {describe(other)}"
            + (
                ", and that host has been silent since."
                if standing is Standing.SILENT
                else ", and it runs there."
            ),
            hint=f"Stop it there:          ssh {other.host} cep stop {name}\n"
            f"If that host is gone:   cep start {name} --take-over",
        )

    def _create(self, name: Path) -> bool:
        """Put our lease under a name that must be free; False when it is not."""
        try:
            _link(self._new, name)
        except FileExistsError:
            return False
        except FileNotFoundError:  # swept by a winner who took us for a relic
            _write_new(self._new, self._lease.encode(), again=True)
            return False
        return True

    def _sweep(self) -> None:
        """Remove what contenders that died long ago left behind."""
        newest = self._paths.lease.stat().st_mtime
        for pattern in ("new-*", "after-*", "old-*"):
            for file in self._paths.lease.parent.glob(f"{self._paths.lease.name}.{pattern}"):
                with suppress(OSError):
                    if file.stat().st_mtime < newest - _GARBAGE_AGE_S:
                        file.unlink()


def _decode_token(data: bytes) -> str | None:
    lease = _decode(data)
    return None if lease is None else lease.token


def _decode(data: bytes) -> Lease | None:
    try:
        fields = json.loads(data)
        renewed = datetime.strptime(fields["renewed"], _TIME_FORMAT).replace(tzinfo=timezone.utc)
        return Lease(
            host=str(fields["host"]),
            machine_id=str(fields["machine_id"]),
            boot_id=str(fields["boot_id"]),
            pid=int(fields["pid"]),
            start_time=int(fields["start_time"]),
            token=str(fields["token"]),
            renewed=renewed,
            period_s=float(fields["period_s"]),
            control_socket=str(fields["control_socket"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


def _text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime(_TIME_FORMAT)


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _name_of(data: bytes) -> str:
    """Return what a lease is called in the name of a claim on it; renewals do not change it."""
    lease = _decode(data)
    return hashlib.sha256(data if lease is None else lease.token.encode()).hexdigest()[:32]


def _beside(paths: EndpointPaths, suffix: str) -> Path:
    return paths.lease.with_name(f"{paths.lease.name}.{suffix}")


def _read_bytes(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def _write_new(file: Path, data: bytes, *, again: bool = False) -> None:
    """Write a file of ours, flushed, mode 0600 whatever the umask."""
    exclusive = 0 if again else os.O_EXCL
    if again:
        file.unlink(missing_ok=True)  # it may be linked under another name: leave that one alone
    flags = os.O_WRONLY | os.O_CREAT | exclusive | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(file, flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(file: Path, name: Path) -> None:
    """Give a finished file a second name that must be free.

    Raises:
        FileExistsError: It is not.
    """
    try:
        os.link(file, name)
    except OSError as exc:
        if exc.errno not in _NO_LINKS:
            raise
        _write_new(name, file.read_bytes())  # no hard links here: created exclusively, then filled


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
