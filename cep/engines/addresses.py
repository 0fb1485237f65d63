"""The one address of this host at which workers on other hosts reach the interchange.

Parsl would listen on all of them. Called on the thread that starts the engine.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from cep.errors import ConfigError

# Only for asking the kernel's routing table: nothing is sent (documentation address, RFC 5737).
_FAR_AWAY = ("192.0.2.1", 9)


def own_address() -> str:
    """Return an IPv4 address of this host's own that is not loopback.

    The host name's, since that is how the nodes of a cluster know each other; else that of the
    default route; else the first there is.

    Raises:
        ConfigError: There is none.
    """
    mine = _interface_addresses()
    for candidate in (*_by_name(), *_by_route(), *mine):
        if candidate in mine:
            return candidate
    raise ConfigError(
        "This host has no network address but loopback, so workers on other hosts cannot reach "
        "it, and engine.address is not set.",
        hint="Set engine.address to the address or name by which compute nodes reach this host.",
    )


def _interface_addresses() -> list[str]:
    import psutil

    active = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return [
        one.address
        for name, addresses in psutil.net_if_addrs().items()
        if name in active
        for one in addresses
        if one.family == socket.AF_INET and _is_of_use(one.address)
    ]


def _is_of_use(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not (address.is_loopback or address.is_link_local or address.is_unspecified)


def _by_name() -> list[str]:
    with contextlib.suppress(OSError):
        found = socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        return [str(entry[4][0]) for entry in found]
    return []


def _by_route() -> list[str]:
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        probe.connect(_FAR_AWAY)
        return [str(probe.getsockname()[0])]
    return []
