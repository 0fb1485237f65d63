"""Network interfaces of this host, and which of them compute nodes can probably reach, with why.

Evidence is a route: the way from here to a compute node that the scheduler names leaves by one
interface, and workers come back the same way on all but unusual networks. Without a node to ask
about, an interface's name and address give a guess, which is told as one.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cep.profiles.detect.commands import Site
from cep.profiles.detect.facts import Interface

#: Names of interfaces of containers and virtual machines on this host, which no other host sees.
_VIRTUAL = re.compile(
    r"(docker|br-|veth|virbr|vnet|cni|flannel|cali|cilium|podman|lxc|lxd|tun|tap)"
)
#: Names of fast networks between the nodes of a cluster: InfiniBand, Slingshot, Omni-Path.
_FAST = re.compile(r"(ib|hsn|opa|ibp)[0-9a-z]*")
Addresses = Mapping[str, Sequence[Any]]


def find(site: Site, nodes: Iterable[str]) -> tuple[Interface, ...]:
    """Look at the interfaces of this host.

    Args:
        site: The host.
        nodes: Names or addresses of compute nodes.
    """
    import psutil

    stats = psutil.net_if_stats()
    up = {name for name, one in stats.items() if one.isup}
    return judged(psutil.net_if_addrs(), up, ways(site, nodes))


def ways(site: Site, nodes: Iterable[str]) -> dict[str, str]:
    """By which interface the way to each node leaves: node -> interface."""
    found: dict[str, str] = {}
    if site.which("ip") is None:
        return found
    for node in nodes:
        address = node if _is_address(node) else _resolved(site, node)
        if address is None:
            continue
        answer = site.ask("ip", "-o", "route", "get", address)
        route = re.search(r"\bdev (\S+)", answer.out)
        if answer.answered and route:
            found[f"{node} ({address})" if node != address else node] = route[1]
    return found


def judged(addresses: Addresses, up: set[str], by_node: Mapping[str, str]) -> tuple[Interface, ...]:
    """The interfaces with what is thought of each.

    Args:
        addresses: By interface, as psutil tells them.
        up: Interfaces that work.
        by_node: Interface that the way to a node takes, by node.
    """
    found = []
    by_node = {node: name for node, name in by_node.items() if name != "lo"}  # this host itself
    for name, entries in addresses.items():
        own = [one.address.partition("%")[0] for one in entries if one.family in _IP]
        reach, reason = _reach(name, own, name in up, by_node)
        found.append(Interface(name, tuple(own), reach, reason))
    order = ("yes", "likely", "unknown", "no")
    return tuple(sorted(found, key=lambda one: (order.index(one.reach), one.name)))


_IP = (socket.AF_INET, socket.AF_INET6)


def _reach(name: str, own: list[str], is_up: bool, by_node: Mapping[str, str]) -> tuple[str, str]:
    parsed = [ipaddress.ip_address(one) for one in own]
    if any(one.is_loopback for one in parsed):
        return "no", "it is the loopback, which ends on this host"
    if not is_up:
        return "no", "it is down"
    if not any(not one.is_link_local for one in parsed):
        return "no", "it has no address"
    nodes = [node for node, interface in by_node.items() if interface == name]
    if nodes:
        return "yes", f"the way from here to the compute node {nodes[0]} takes it"
    if _VIRTUAL.match(name):
        return "no", "by its name it belongs to containers or virtual machines of this host"
    if by_node:
        return "unknown", "the way to none of the compute nodes that were tried takes it"
    if _FAST.fullmatch(name):
        return "likely", "by its name it is the fast network between the nodes"
    if all(one.is_global for one in parsed if not one.is_link_local):
        return "unknown", "its address is public; compute nodes often cannot reach those"
    return "unknown", "its address is private; no compute node could be asked about"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _resolved(site: Site, node: str) -> str | None:
    """A node's address by way of `getent`, which ends in time even where a resolver hangs."""
    if site.which("getent") is None:
        return None
    answer = site.ask("getent", "ahosts", node)
    first = answer.out.split()[:1]
    return first[0] if answer.answered and first and _is_address(first[0]) else None
