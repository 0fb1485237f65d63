"""What state an endpoint is in, judged from its directory alone; nothing is changed.

The four words are those of the published endpoint's `list`. Works on directories made by it too,
which hold a `daemon.pid` and no lease. May be called from any thread or process.
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass

from cep.agent.host import Host, is_endpoint
from cep.agent.lease import (
    Lease,
    Standing,
    judge,
    published_pid,
    read,
)
from cep.paths import EndpointPaths


class EndpointState(enum.Enum):
    """The states, in the published words."""

    INITIALIZED = "Initialized"  # configured, never registered
    RUNNING = "Running"
    STOPPED = "Stopped"
    DISCONNECTED = "Disconnected"  # ended without cleaning up, or its host is silent


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen.

    Attributes:
        state: The state.
        endpoint_id: UUID text, or None before the first registration.
        lease: The lease, whatever it is worth; None without one.
        here: Whether the agent runs, or ran, on this host.
    """

    state: EndpointState
    endpoint_id: str | None
    lease: Lease | None
    here: bool


def observe(paths: EndpointPaths, host: Host | None = None) -> Observed:
    """Return the endpoint's state.

    An agent that runs counts as Running from its first moment, registered or not, so that it can
    be stopped.

    Args:
        paths: The endpoint.
        host: A test's own idea of where it runs.
    """
    endpoint_id = stored_endpoint_id(paths)
    lease = read(paths)
    if lease is not None:
        standing = judge(lease, host)
        running = standing in (Standing.ALIVE, Standing.ELSEWHERE)
        here = standing in (Standing.ALIVE, Standing.DEAD)
        left_behind = True
    else:
        running, here = _published(paths)
        left_behind = paths.pid_file.exists() or paths.lease.exists()
    if running:
        state = EndpointState.RUNNING
    elif endpoint_id is None:
        state = EndpointState.INITIALIZED
    else:
        state = EndpointState.DISCONNECTED if left_behind else EndpointState.STOPPED
    return Observed(state, endpoint_id, lease, here)


def stored_endpoint_id(paths: EndpointPaths) -> str | None:
    """Return the id from `endpoint.json`, or None when there is none to read."""
    try:
        stored = json.loads(paths.endpoint_json.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    endpoint_id = stored.get("endpoint_id") if isinstance(stored, dict) else None
    return endpoint_id if isinstance(endpoint_id, str) and endpoint_id else None


def _published(paths: EndpointPaths) -> tuple[bool, bool]:
    """Return (runs, runs here) of a directory without a lease: all there is, is a pid.

    A pid alone proves nothing, since another program may have it by now: the process must also
    call itself an endpoint.
    """
    pid = published_pid(paths)
    return pid is not None and is_endpoint(pid), True
