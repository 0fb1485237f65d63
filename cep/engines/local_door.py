"""The Unix socket by which managers on the endpoint's own host reach its interchange.

It lies in a directory that only the endpoint's account can enter (`cep.engines.interchange_link`),
so what goes through it is not encrypted. A manager is told of it beside the network's address, and
takes it when somebody listens there: on another host, in a container, and after the directory was
removed (logind does so with `$XDG_RUNTIME_DIR` when the account logs out) it goes by the network.
"""

from __future__ import annotations

import contextlib
import socket as sockets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zmq

_SCHEME = "ipc://"
_PATIENCE_S = 5.0  # an interchange that lives takes connections at once


def is_door(url: str) -> bool:
    """Whether it is the address of a Unix socket."""
    return url.startswith(_SCHEME)


def unencrypted(socket: Any) -> Any:
    """Let what a socket binds or connects to from now on be plain (libzmq, options.cpp)."""
    socket.setsockopt(zmq.CURVE_SERVER, 0)
    return socket


def bind(socket: Any, door: str) -> None:
    """Let managers come by the door as well; the interchange's side.

    Args:
        socket: Listens at its other addresses already, which stay as they are.
        door: The address.
    """
    unencrypted(socket)
    socket.bind(door)
    Path(door.removeprefix(_SCHEME)).chmod(0o600)  # whatever the umask


def remove(door: str) -> None:
    """Remove it, and its directory when nothing else is there; who has come by stays connected."""
    path = Path(door.removeprefix(_SCHEME))
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def open_one(urls: Iterable[str]) -> str | None:
    """Find the door that somebody listens at; a manager's side.

    Args:
        urls: Where the interchange may be.

    Returns:
        None when all of them are to be reached by the network.
    """
    doors = sorted(filter(is_door, urls))
    return next((door for door in doors if _somebody_listens(door.removeprefix(_SCHEME))), None)


def _somebody_listens(path: str) -> bool:
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as trial:
        trial.settimeout(_PATIENCE_S)
        try:
            trial.connect(path)
        except OSError:  # not there, or of another host or life
            return False
    return True
