"""What people ask of a running agent through its control socket: one answer per request.

Owned by the main thread, which is handed each request by the mailbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cep.agent.intake import HOLD_PAUSED
from cep.agent.mailbox import ControlRequest
from cep.agent.parts import Parts
from cep.engines.base import HasBlocks

log = logging.getLogger(__name__)


class Requests:
    """Answers requests; a new one is one more method and its name in the table.

    Args:
        parts: The agent.
        picture: Returns what the agent says of itself now.
        begin_stop: Begins an orderly stop; takes the seconds that running tasks get.
        reload: Reads the configuration again; takes who is told what came of it.
    """

    def __init__(
        self,
        parts: Parts,
        picture: Callable[[], dict[str, Any]],
        begin_stop: Callable[[float], None],
        reload: Callable[[Callable[[dict[str, Any]], None]], None],
    ) -> None:
        self._p = parts
        self._picture = picture
        self._begin_stop = begin_stop
        self._reload = reload
        self._verbs: dict[str, Callable[[ControlRequest], None]] = {
            "status": self._status,
            "pause": lambda request: self._pause(request, paused=True),
            "resume": lambda request: self._pause(request, paused=False),
            "blocks": self._blocks,
            "reload": self._reload_configuration,
            "stop": self._stop,
            "drain": self._stop,
        }

    def answer(self, request: ControlRequest) -> None:
        """Answer one request; every one of them gets exactly one answer."""
        verb = request.request.get("do")
        known = self._verbs.get(verb) if isinstance(verb, str) else None
        if known is None:
            request.reply({"error": f"The agent knows no request {verb!r}."})
        else:
            known(request)

    def _status(self, request: ControlRequest) -> None:
        request.reply(self._picture())

    def _pause(self, request: ControlRequest, *, paused: bool) -> None:
        mark = self._p.paths.paused_mark
        try:
            if paused:
                mark.touch(mode=0o600)
            else:
                mark.unlink(missing_ok=True)
        except OSError as exc:
            request.reply({"error": f"The mark {mark} cannot be changed: {exc.strerror or exc}."})
            return
        if paused:
            self._p.intake.hold(HOLD_PAUSED)
        else:
            self._p.intake.release(HOLD_PAUSED)
        request.reply(self._picture())

    def _blocks(self, request: ControlRequest) -> None:
        """`list`, `pause` or `resume`: no more blocks are asked for, or again."""
        engine, action = self._p.engine, request.request.get("action")
        if not isinstance(engine, HasBlocks):
            kind = engine.status().report.get("engine_type", "engine")
            request.reply({"error": f"The endpoint's {kind} has no blocks."})
            return
        if action in ("pause", "resume"):
            engine.pause_blocks(action == "pause")
        elif action != "list":
            request.reply({"error": f"Blocks can be listed, paused or resumed, not {action!r}."})
            return
        request.reply(self._picture())

    def _reload_configuration(self, request: ControlRequest) -> None:
        """Answered when it is done, or with `"wait": false` at once."""
        log.info("asked to read the configuration again", extra={"event": "agent.asked"})
        if request.request.get("wait", True):
            self._reload(request.reply)
        else:
            request.reply({"reloading": True})
            self._reload(lambda _outcome: None)

    def _stop(self, request: ControlRequest) -> None:
        drain_s = request.request.get("drain_s", self._p.settings.drain_timeout_s)
        if not isinstance(drain_s, int | float) or not 0 <= drain_s < float("inf"):
            request.reply({"error": f"drain_s must be a number of seconds, not {drain_s!r}."})
            return
        log.info("asked to stop within %s s", drain_s, extra={"event": "agent.asked"})
        request.reply({"stopping": True})
        self._begin_stop(float(drain_s))
