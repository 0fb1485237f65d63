"""The agent's picture of itself, for `status.json`, the control socket and `cep status`."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from cep import __version__
from cep.agent.parts import Parts

_COUNTED = ("received", "done", "lost", "retried", "refused", "malformed", "repeated")


def picture(
    parts: Parts,
    state: str,
    since: datetime,
    trouble: str | None = None,
    reload: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe the agent now; the names are documented in docs/cli.md.

    Args:
        parts: The agent.
        state: `starting`, `running`, `disconnected` (a link is down), `paused` or `stopping`.
        since: When it started (UTC).
        trouble: What is wrong with the journal's disk, as a sentence; None when nothing is.
        reload: The last reload, as `of_reload` describes it.
    """
    engine = parts.engine.status()
    counts = parts.intake.counters + parts.dispatcher.counters
    return {
        "version": __version__,
        "endpoint_id": parts.endpoint_id,
        "name": parts.paths.name,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": since.isoformat(timespec="seconds"),
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "state": state,
        "holds": parts.intake.held(),
        "audit_log": parts.audit.where,
        "disk": trouble,
        "reload": reload,
        "summary": summary(state, parts.intake.held(), trouble),
        "links": dict(parts.links.up),
        "link_troubles": dict(parts.links.troubles),
        "tasks": {
            "waiting": parts.dispatcher.waiting,
            "running": parts.dispatcher.given,
            "unsent": parts.outbox.unconfirmed,
            "answered": parts.outbox.counters["confirmed"],
            **{name: counts[name] for name in _COUNTED},
        },
        "engine": {
            "type": engine.report.get("engine_type", ""),
            "workers": engine.workers,
            "idle_workers": engine.idle_workers,
            "slots": engine.slots,
            "encrypted": getattr(parts.settings.engine, "encrypted", None),
            "summary": engine.summary,
            "blocks": [dict(block) for block in engine.blocks],
            "ended_blocks": [dict(block) for block in engine.ended_blocks],
            "scheduler": engine.silence,
            "breaker": None if engine.breaker is None else dict(engine.breaker),
        },
    }


def of_reload(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a reload that ended now.

    Args:
        outcome: As `cep.agent.reload.Reply` has it.
    """
    return {
        # Whoever sent a SIGHUP knows by it that another reload has ended since.
        "at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "error": outcome.get("error"),
        "hint": outcome.get("hint"),
        "kind": outcome.get("kind"),
        "changed": outcome.get("changed", []),
        "restart_needed": outcome.get("restart_needed", []),
    }


def line(
    parts: Parts, state: str, trouble: str | None = None, reload: Mapping[str, Any] | None = None
) -> str:
    """Say in one line how the agent stands, for `systemctl status`.

    E.g. `connected; tasks 12 run/3 wait; blocks 2/4, 8 workers, 0 idle`.

    Args:
        parts: The agent.
        state: As in `picture`.
        trouble: What is wrong with the journal's disk.
        reload: As in `picture`.
    """
    told = summary("connected" if state == "running" else state, parts.intake.held(), trouble)
    if state == "disconnected":
        reasons = parts.links.troubles.items()
        told += "".join(f" ({link}: {reason})" for link, reason in list(reasons)[:1])
    tasks = f"tasks {parts.dispatcher.given} run/{parts.dispatcher.waiting} wait"
    engine = parts.engine.status().summary
    return "; ".join([told, tasks, *([engine] if engine else []), *_of_last_reload(reload or {})])


def _of_last_reload(reload: Mapping[str, Any]) -> list[str]:
    if reload.get("error"):
        return [f"the last reload failed: {reload['error']}"]
    if reload.get("restart_needed"):
        return [f"needs a restart: {', '.join(reload['restart_needed'])}"]
    return []


def summary(state: str, holds: Sequence[str], trouble: str | None) -> str:
    """Say in one line what the agent does, for a service manager's status text and for people.

    Args:
        state: As in `picture`.
        holds: Why no tasks are taken.
        trouble: What is wrong with the journal's disk.
    """
    if trouble is not None:
        return f"{state}; no new tasks: {trouble}"
    return "; ".join([state, *(f"no new tasks: {hold}" for hold in holds if hold != state)])
