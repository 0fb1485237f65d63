"""Stop an endpoint's agent from outside: the request, the wait, and the last resort.

The wait is on the process itself (a pidfd), never a poll of its pid.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time

from cep.agent.control import call
from cep.agent.leftover_jobs import cancel_leftover_jobs
from cep.agent.state import EndpointState, observe
from cep.errors import AlreadyRunning, CepError, NotAllowed, SoftwareError
from cep.paths import EndpointPaths

log = logging.getLogger(__name__)

# After the drain the agent still flushes results, ends blocks and runs the teardown script.
ORDERLY_END_S = 60.0
KILLED_END_S = 10.0


def stop(paths: EndpointPaths, *, drain_s: float = 10.0, now: bool = False) -> bool:
    """End the agent of this endpoint and wait until it is gone.

    Args:
        paths: The endpoint.
        drain_s: Seconds that running tasks are given to finish.
        now: Give them none.

    Returns:
        False when no agent was running.

    Raises:
        AlreadyRunning: It runs on another host; the message says how to stop it there.
        NotAllowed: The process belongs to another user.
        SoftwareError: It could not be ended.
    """
    seen = observe(paths)
    if seen.state is EndpointState.DISCONNECTED:
        _end_jobs(paths, seen.endpoint_id)
    if seen.state is not EndpointState.RUNNING:
        return False
    pid = _local_pid(paths)
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        _ask_to_stop(paths, pid, process, 0.0 if now else drain_s)
        if _ended(process, (0.0 if now else drain_s) + ORDERLY_END_S):
            return True
        log.warning("the agent (pid %s) did not end in time and is killed", pid)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        if _ended(process, KILLED_END_S):
            _end_jobs(paths, seen.endpoint_id)
            return True
    finally:
        os.close(process)
    raise SoftwareError(f"The agent of endpoint {paths.name} (pid {pid}) could not be ended.")


def _end_jobs(paths: EndpointPaths, endpoint_id: str | None) -> None:
    """End the batch jobs and containers of an agent that could not do it itself."""
    try:
        jobs = cancel_leftover_jobs(paths, endpoint_id)
    except CepError as exc:
        log.warning("jobs or containers that it has left behind cannot be looked for: %s", exc)
        return
    if jobs:
        log.warning("ended jobs or containers that it had left behind: %s", ", ".join(jobs))


def _local_pid(paths: EndpointPaths) -> int:
    seen = observe(paths)
    if seen.lease is not None and not seen.here:
        raise AlreadyRunning(
            f"Endpoint {paths.name} runs on host {seen.lease.host}, not on this one.",
            hint=f"Stop it there: ssh {seen.lease.host} cep stop {paths.name}",
        )
    if seen.lease is not None:
        return seen.lease.pid
    # Started by the published endpoint, which writes only its pid.
    return int(paths.pid_file.read_text().strip())


def _ask_to_stop(paths: EndpointPaths, pid: int, process: int, drain_s: float) -> None:
    """By the control socket, which can say how long; else by signal, which means the default."""
    try:
        call(paths, {"do": "stop", "drain_s": drain_s})
        return
    except CepError as exc:
        log.debug("no control socket (%s); using a signal", exc)
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if drain_s == 0:
                signal.pidfd_send_signal(process, signal.SIGTERM)
    except PermissionError as exc:
        raise NotAllowed(
            f"The agent of endpoint {paths.name} (pid {pid}) belongs to another user."
        ) from exc


def _ended(process: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    poller = select.poll()
    poller.register(process, select.POLLIN)
    remaining = max(0.0, deadline - time.monotonic())
    return bool(poller.poll(remaining * 1000))
