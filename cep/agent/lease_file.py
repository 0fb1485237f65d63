"""The lease file: what it says, what it is worth, and the few ways it may be touched.

Owns no state; may be called from any thread.
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cep.agent.host import Host, process_start, this_host
from cep.paths import EndpointPaths

FORMAT = 1  # of lease.json; a newer cep adds fields and keeps these
SILENT_PERIODS = 3  # a lease not renewed for so many periods is that of a Disconnected endpoint
LARGEST = 65536  # bytes of a lease; a path and a host name do not fill a tenth of it
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


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
        return max(0.0, ((now or utc_now()) - self.renewed).total_seconds())


class Standing(enum.Enum):
    """What a lease is worth, seen from this host."""

    ALIVE = "alive"  # its process runs here
    DEAD = "dead"  # it ran here, in this boot or an earlier one, and does no more
    ELSEWHERE = "elsewhere"  # another host renews it
    SILENT = "silent"  # another host's, and not renewed for three periods


def read(where: EndpointPaths | Path) -> Lease | None:
    """Return the lease, or None when there is none, or none that can be understood."""
    try:
        return decode((where.lease if isinstance(where, EndpointPaths) else where).read_bytes())
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


def token_of(data: bytes) -> str | None:
    """Return the token of a lease's bytes, or None when they are no lease."""
    lease = decode(data)
    return None if lease is None else lease.token


def decode(data: bytes) -> Lease | None:
    """Return what a lease's bytes say, or None when they are torn or somebody else's."""
    try:
        fields = json.loads(data)
        period_s = float(fields["period_s"])
        if not 0 < period_s < float("inf"):
            return None  # no silence could ever be too long
        renewed = datetime.strptime(fields["renewed"], _TIME_FORMAT).replace(tzinfo=timezone.utc)
        return Lease(
            host=str(fields["host"]),
            machine_id=str(fields["machine_id"]),
            boot_id=str(fields["boot_id"]),
            pid=int(fields["pid"]),
            start_time=int(fields["start_time"]),
            token=str(fields["token"]),
            renewed=renewed,
            period_s=period_s,
            control_socket=str(fields["control_socket"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _text(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).strftime(_TIME_FORMAT)


def utc_now() -> datetime:
    """Return the present moment."""
    return datetime.now(timezone.utc)


def name_of(data: bytes) -> str:
    """Return what a lease is called in the name of a claim on it; renewals do not change it."""
    lease = decode(data)
    return hashlib.sha256(data if lease is None else lease.token.encode()).hexdigest()[:32]


def beside(paths: EndpointPaths, suffix: str) -> Path:
    """Return the name of a file that belongs to the lease."""
    return paths.lease.with_name(f"{paths.lease.name}.{suffix}")


def read_bytes(file: Path) -> bytes | None:
    """Return a file's bytes, or None when it is not there; other troubles are raised."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None


def sync_directory(directory: Path) -> None:
    """Flush a directory, so that the names in it survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
