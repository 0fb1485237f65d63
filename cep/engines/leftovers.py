"""End the processes that an earlier life of this endpoint has left behind, and no other.

Everything an engine starts has `CEP_ENDPOINT_DIR=<the endpoint's run directory>` in its
environment, which children inherit; a process belongs to an endpoint exactly when /proc shows that
mark and our user. Used by the agent's main thread at start, before it classifies what it finds in
the journal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from cep.errors import EngineError

log = logging.getLogger(__name__)

MARK = "CEP_ENDPOINT_DIR"
_DEADLINE_S = 10.0
_PROC = Path("/proc")


def end_leftovers(run_dir: Path, endpoint_id: str, endpoint_name: str) -> list[int]:
    """Kill what is left of an earlier life and wait until it is gone.

    This process and those it descends from are never touched.

    Args:
        run_dir: The endpoint's run directory, whose real path is the mark's value.
        endpoint_id: For the log.
        endpoint_name: For the log.

    Returns:
        The process ids that were ended, in the order found.

    Raises:
        EngineError: Some did not go within 10 s (a process in an uninterruptible wait, say).
    """
    mark = f"{MARK}={run_dir.resolve()}".encode()
    spared = _ancestry()
    until = time.monotonic() + _DEADLINE_S
    ended: list[int] = []
    # Again until none is found: one may have started another while it was looked for.
    while found := [pid for pid in _marked(mark) if pid not in spared]:
        for pid in found:
            if _end(pid, mark, until) and pid not in ended:
                ended.append(pid)
        if time.monotonic() > until:
            raise EngineError(
                f"Processes of an earlier run of endpoint {endpoint_name} do not end: "
                f"{', '.join(map(str, found))}. End them by hand and start again."
            )
    if ended:
        log.warning(
            "Ended %d processes left over by an earlier run of endpoint %s (%s)",
            len(ended),
            endpoint_name,
            endpoint_id,
            extra={"event": "engine.leftovers", "pids": ended},
        )
    return ended


def _marked(mark: bytes) -> Iterator[int]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and _has_mark(int(entry.name), mark):
            yield int(entry.name)


def _has_mark(pid: int, mark: bytes) -> bool:
    """Whether a process of ours has the mark; a finished one (zombie) has none."""
    place = _PROC / str(pid)
    try:
        if place.stat().st_uid != os.getuid():
            return False
        return mark in (place / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _ancestry() -> set[int]:
    """This process and all it descends from."""
    found = set()
    pid = os.getpid()
    while pid > 0:
        found.add(pid)
        try:
            after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2]
        except OSError:
            break
        pid = int(after_name.split()[1])
    return found


def _end(pid: int, mark: bytes, until: float) -> bool:
    """Kill one process and wait for its end; False when it had gone before."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        # The number may have passed to another process before the handle was there.
        if not _has_mark(pid, mark):
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(max(0.0, until - time.monotonic()) * 1000)
        return True
    finally:
        os.close(handle)
