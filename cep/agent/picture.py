"""The agent's picture of itself, for `status.json`, the control socket and `cep status`."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timezone
from typing import Any

from cep import __version__
from cep.agent.parts import Parts

_COUNTED = ("received", "done", "lost", "retried", "refused", "malformed", "repeated")


def picture(parts: Parts, state: str, since: datetime) -> dict[str, Any]:
    """Describe the agent now; the names are documented in docs/cli.md.

    Args:
        parts: The agent.
        state: `starting`, `running`, `disconnected` (a link is down), `paused` or `stopping`.
        since: When it started (UTC).
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
        },
    }
