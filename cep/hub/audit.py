"""The hub's audit: who logged in, registered, submitted, was refused, and what became of clients.

Owned by the event loop. A line is written when the deed is done and before its answer is sent.
When the log takes no more (a full disk), what must be audited is refused before it is done, with
an answer that makes clients try again; lines that could not be written wait here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request

from cep.errors import AuditUnwritable, TemporaryFailure
from cep.safety.audit import Trail, now_text
from cep.safety.text import printable

log = logging.getLogger(__name__)

#: Refusals that are worth a line: wrong or missing credentials, not one's own, locked, too much.
AUDITED_STATUSES = frozenset((401, 403, 413, 423, 429))
TASKS_PER_LINE = 500  # 20 KB: a datagram for journald must stay below 200 KB
_LONGEST_TEXT = 128
_MOST_WAITING = 10_000  # lines


class HubAudit:
    """Composes lines; without a trail (in tests of other things) it does nothing.

    Args:
        trail: Where they go; `close` closes it.
    """

    def __init__(self, trail: Trail | None = None) -> None:
        self._trail = trail
        self._waiting: list[dict[str, Any]] = []
        self._dropped = 0

    def require(self) -> None:
        """See that lines can be written, before something is done that needs one.

        Raises:
            TemporaryFailure: They cannot.
        """
        self._flush()
        if self._waiting:
            raise TemporaryFailure(
                "The hub cannot write its audit log, so it does nothing that belongs there."
            )

    def note(self, event: str, request: Request, **about: Any) -> None:
        """Write a line about a request.

        Args:
            event: What happened.
            request: Whose peer address goes into the line, and who it says it is.
            about: Ids, codes and names; None is left out.
        """
        if self._trail is None:
            return
        peer = None if request.client is None else request.client.host
        caller = getattr(request.state, "caller", None)
        words = {"client": caller, "peer": peer, **about}
        line: dict[str, Any] = {"time": now_text(), "event": event}
        line |= {key: _short(value) for key, value in words.items() if value is not None}
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(line)
        else:
            self._dropped += 1
        self._flush()

    def submitted(
        self, request: Request, endpoint_id: str, group: str, tasks: Sequence[tuple[str, str]]
    ) -> None:
        """Write who submitted what where; long submits take several lines.

        Args:
            request: The submit.
            endpoint_id: Where to.
            group: The task group.
            tasks: (task id, function id) of each.
        """
        for at in range(0, len(tasks), TASKS_PER_LINE):
            by_function: dict[str, list[str]] = {}
            for task_id, function_id in tasks[at : at + TASKS_PER_LINE]:
                by_function.setdefault(function_id, []).append(task_id)
            self.note("submit", request, endpoint=endpoint_id, group=group, tasks=by_function)

    def refused(self, request: Request, status: int, code: str) -> None:
        """Write that a request was refused, when it is of those that matter."""
        if status in AUDITED_STATUSES:
            self.note(
                "refusal",
                request,
                status=status,
                code=code,
                method=request.method,
                path=request.url.path,
            )

    def close(self) -> None:
        """Write what is left, if possible, and close the log."""
        if self._trail is not None:
            self._flush()
            self._trail.close()

    def _flush(self) -> None:
        if self._trail is None or not self._waiting:
            return
        failed_before = len(self._waiting) > 1
        if self._dropped:
            lost = {"time": now_text(), "event": "lines-lost", "count": self._dropped}
            self._waiting.append(lost)
            self._dropped = 0
        try:
            self._trail.append(self._waiting)
        except AuditUnwritable as error:
            del self._waiting[: error.taken]
            if not failed_before:
                log.error("%s", error, extra={"event": "hub.audit_unwritable"})
            return
        self._waiting.clear()


def _short(value: Any) -> Any:
    return printable(value)[:_LONGEST_TEXT] if isinstance(value, str) else value
