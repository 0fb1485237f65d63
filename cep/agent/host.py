"""Who we are and who is alive: this machine's identity, and the life of a process on it.

Owns nothing; may be called from any thread. Everything is read from /proc (proc(5)) and
/etc/machine-id (machine-id(5)).
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_MACHINE_ID_FILES = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))
_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
# What the published endpoint's processes are called: its title, its command, its module.
_ENDPOINT_NAMES = (
    b"globus compute endpoint",
    b"globus-compute-endpoint",
    b"globus_compute_endpoint",
)


@dataclass(frozen=True, slots=True)
class Host:
    """A machine during one boot.

    Attributes:
        name: Its host name, as `ssh` would be told.
        machine_id: Stays over boots; empty where there is none. Disk images are cloned with it,
            so two machines count as one only when their names agree too.
        boot_id: New with each boot.
    """

    name: str
    machine_id: str
    boot_id: str


@lru_cache(maxsize=1)
def this_host() -> Host:
    """Return the machine we run on."""
    machine_id = ""
    for file in _MACHINE_ID_FILES:
        machine_id = _first_line(file)
        if machine_id:
            break
    return Host(
        name=socket.gethostname(), machine_id=machine_id, boot_id=_first_line(_BOOT_ID_FILE)
    )


def process_start(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot; None when it does not live.

    The number tells a process from a later one that was given the same pid. A zombie has ended:
    it holds nothing any more, whoever forgot to wait for it.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name, in parentheses, may hold spaces and parentheses: count from its end (proc(5)).
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def is_endpoint(pid: int) -> bool:
    """Whether a living process calls itself a Globus Compute endpoint."""
    if process_start(pid) is None:
        return False
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().lower()
    except OSError:
        return False
    return any(name in command for name in _ENDPOINT_NAMES)


def own_start() -> int:
    """Return when this process began, in clock ticks since boot."""
    return process_start(os.getpid()) or 0


def _first_line(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
