"""Who answers at a loopback port, before a credential goes there in clear.

Anybody on a login node can listen on 127.0.0.1:5000 while no hub does. TLS proves who answers; on
a plain connection to this host the kernel knows it: /proc/net/tcp names the account of each socket.
The check is made on the connected socket, so nothing can change between the check and the first
byte: the connection's other end is the one that is looked at.
"""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cep.errors import PeerUntrusted

#: Root's list of other accounts that may serve on loopback, one name a line.
OWNERS_FILE = Path("/etc/cep/hub-owner")
_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTEN = "0A"  # source: include/net/tcp_states.h

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class _End(NamedTuple):
    """One end of a connection."""

    address: _Address
    port: int


class _Row(NamedTuple):
    """One socket of the kernel's table."""

    local: _End
    remote: _End
    listening: bool
    uid: int


def check_peer(connected: socket.socket) -> None:
    """Check that a connection within this host leads to this user, to root, or to an account that
    `/etc/cep/hub-owner` names. Connections to other hosts are not judged.

    Where the kernel's table has nothing of the port there is nobody to refuse: root's own address
    translation (a container's published port) leads elsewhere then.

    Args:
        connected: A connected TCP socket on which nothing was sent yet.

    Raises:
        PeerUntrusted: The port is another account's, or the kernel's table cannot be read.
    """
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    there = _end(connected.getpeername())
    if not there.address.is_loopback:
        return
    trusted = {0, os.geteuid()}
    for uid in _owners(_end(connected.getsockname()), there):
        if uid not in trusted and uid not in named_owners():
            raise _refused(there, uid)


def is_loopback(host: str) -> bool:
    """Whether an address in numbers is one of this host alone.

    Raises:
        ValueError: It is a name.
    """
    return _plain(ipaddress.ip_address(host)).is_loopback


def named_owners() -> set[int]:
    """The uids of the accounts in `/etc/cep/hub-owner`; none when not only root can write it."""
    if not _is_roots_alone(OWNERS_FILE) or not _is_roots_alone(OWNERS_FILE.parent):
        return set()
    found = set()
    for line in OWNERS_FILE.read_text("utf-8", "replace").splitlines():
        name = line.partition("#")[0].strip()
        if name:
            try:
                found.add(pwd.getpwnam(name).pw_uid)
            except KeyError:
                continue
    return found


def _is_roots_alone(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _refused(there: _End, uid: int) -> PeerUntrusted:
    try:
        who = f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        who = f"uid {uid}"
    unsafe = OWNERS_FILE.exists() and not _is_roots_alone(OWNERS_FILE)
    return PeerUntrusted(
        f"Port {there.port} on {there.address} of this host belongs to {who}, which is neither "
        "your account nor root; nothing was sent there.",
        hint=f"{OWNERS_FILE} does not count: others than root can write it."
        if unsafe
        else "Use another port, or https:// and amqps://; if that account is to serve here, root "
        f"writes its name into {OWNERS_FILE}.",
    )


def _owners(here: _End, there: _End) -> set[int]:
    """The uids at the other end: of who listens there, and of who has taken our connection.

    Both count. A connection that is not accepted yet shows root as its owner; and whoever accepted
    it may have closed the listening socket since.
    """
    rows = list(_rows(there.port))
    listening = [row for row in rows if row.listening]
    exact = [row for row in listening if row.local.address == there.address]
    # The kernel prefers a socket of this very address to one of all addresses.
    wide = [row for row in listening if row.local.address.is_unspecified]
    taken = [row for row in rows if (row.local, row.remote) == (there, here)]
    return {row.uid for row in (*(exact or wide), *taken)}


def _rows(port: int) -> Iterator[_Row]:
    """The sockets whose own port is this one."""
    wanted = f":{port:04X}"
    read = False
    for table in _TABLES:
        try:
            lines = table.read_text("ascii").splitlines()[1:]
        except FileNotFoundError:
            continue  # no IPv6 here
        except OSError:
            break
        read = True
        for line in lines:
            # sl, local, remote, state, queues, timer, retransmits, uid; source: proc(5).
            fields = line.split()
            if not fields[1].endswith(wanted):
                continue
            listening = fields[3] == _LISTEN
            yield _Row(_hex_end(fields[1]), _hex_end(fields[2]), listening, int(fields[7]))
    if not read:
        raise PeerUntrusted(
            "/proc/net/tcp cannot be read, so nobody can say whose a port of this host is; nothing "
            "was sent.",
            hint="Use https:// and amqps://.",
        )


def _hex_end(text: str) -> _End:
    """An end as the kernel writes it: words of 32 bits in the machine's byte order."""
    address, _, port = text.partition(":")
    raw = bytes.fromhex(address)
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return _End(_plain(ipaddress.ip_address(raw)), int(port, 16))


def _end(name: tuple[str | int, ...]) -> _End:
    """An end as Python's sockets have it."""
    address = ipaddress.ip_address(str(name[0]).partition("%")[0])
    return _End(_plain(address), int(name[1]))


def _plain(address: _Address) -> _Address:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
