"""The hub's listening sockets, and the name of whoever has the port already."""

from __future__ import annotations

import contextlib
import errno
import socket

import psutil

from cep.errors import Unavailable, UsageError

_BACKLOG = 512


def listen(host: str, port: int) -> list[socket.socket]:
    """Open the REST service's listening sockets.

    On loopback both 127.0.0.1 and ::1 are taken where the machine has them: `localhost`, the name
    the SDK uses, may mean either.

    Args:
        host: Address or name.
        port: TCP port; 0 lets the system choose, the same one for all.

    Raises:
        Unavailable: The port is in use; the text names the owner where it is visible.
        UsageError: The address is none of this machine.
    """
    loopback = host in ("127.0.0.1", "localhost")
    first = _bind("127.0.0.1" if loopback else host, port)
    sockets = [first]
    if loopback:
        try:
            second = _bind("::1", first.getsockname()[1])
        except Unavailable:
            if port != 0:
                first.close()
                raise
        except UsageError:
            pass  # no IPv6 here
        else:
            sockets.append(second)
    return sockets


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise UsageError(f"The address {host!r} cannot be resolved: {exc.strerror}.") from exc
    try:
        opened = socket.socket(family, kind, protocol)
    except OSError as exc:
        raise UsageError(f"This machine cannot listen on {host}: {exc.strerror}.") from exc
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.bind(address)
        opened.listen(_BACKLOG)
        opened.setblocking(False)
    except OSError as exc:
        opened.close()
        if exc.errno == errno.EADDRINUSE:
            raise in_use(host, port) from exc
        raise UsageError(
            f"The hub cannot listen on {host} port {port}: {exc.strerror}.",
            hint="Choose another address with --host or another port with --port.",
        ) from exc
    return opened


def in_use(host: str, port: int) -> Unavailable:
    """Return the error for a port that somebody has."""
    owner = port_owner(port)
    by = "another process" if owner is None else f"process {owner[0]} ({owner[1]})"
    return Unavailable(
        f"Port {port} on {host} is in use by {by}.",
        hint="Stop it, or choose another port with --port.",
    )


def port_owner(port: int) -> tuple[int, str] | None:
    """Return pid and name of the process that listens on the port, where we may see it."""
    try:
        for one in psutil.net_connections(kind="tcp"):
            if (
                one.status == psutil.CONN_LISTEN
                and one.laddr
                and one.laddr.port == port
                and one.pid is not None
            ):
                return one.pid, psutil.Process(one.pid).name()
    except psutil.Error:
        return None
    return None
