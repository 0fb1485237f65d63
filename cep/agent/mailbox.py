"""The one door into the agent's main loop, and its timers.

Signals, the AMQP thread, engines and the control socket only *put*; the main thread alone takes.
`queue.SimpleQueue.put` is reentrant, so a signal handler may put while the main thread takes.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

from cep.agent.lease_keeper import LeaseGone
from cep.agent.live import Change
from cep.agent.retention import Swept
from cep.agent.watch import CameRound
from cep.amqp.events import AmqpEvent
from cep.engines.base import EngineEvent
from cep.errors import CepError
from cep.model import Registered
from cep.safety.audit import Trail

# One turn of the loop takes at most this many events, so that a flood of deliveries cannot keep
# results, heartbeats and signals waiting.
EVENTS_PER_TURN = 512
# With so many at hand a turn is worth its commit, and nothing more is waited for.
ENOUGH_EVENTS = 64


@dataclass(frozen=True, slots=True)
class Signalled:
    """A signal arrived: SIGHUP asks for a reload, the others for an orderly stop."""

    number: int


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """Somebody asks through the control socket; `reply` takes the answer, once."""

    request: dict[str, Any]
    reply: Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class ConfigRead:
    """The configuration was read again, for a reload.

    Attributes:
        change: What of it can be used now; None when it is wrong.
        error: Why nothing of it is used.
        warnings: About old keys.
        registered: The service's answer where it had to be told, else None.
        trail: The audit's new place, open, or None.
    """

    change: Change | None = None
    error: CepError | None = None
    warnings: tuple[str, ...] = ()
    registered: Registered | None = None
    trail: Trail | None = None


@dataclass(frozen=True, slots=True)
class RegisteredAgain:
    """The service gave new queue addresses after it had refused the old credentials."""

    registered: Registered


@dataclass(frozen=True, slots=True)
class RegistrationFailed:
    """The service refused or could not be reached for a new registration."""

    error: CepError


AgentEvent: TypeAlias = (
    AmqpEvent
    | EngineEvent
    | Signalled
    | ControlRequest
    | ConfigRead
    | RegisteredAgain
    | RegistrationFailed
    | Swept
    | LeaseGone
    | CameRound
)


class Mailbox:
    """Events for the main loop, in order of arrival."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[AgentEvent] = queue.SimpleQueue()
        self._lingering = False
        self._enough: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, event: AgentEvent) -> None:
        """Add an event; from any thread or signal handler, never blocks."""
        self._queue.put(event)
        if self._lingering and self._queue.qsize() >= ENOUGH_EVENTS:
            self._lingering = False
            self._enough.put(None)

    def gather(self, wait_s: float | None, linger_s: float = 0.0) -> list[AgentEvent]:
        """Wait for an event, then return all that are there (bounded).

        Args:
            wait_s: How long to wait for the first one; None waits for ever.
            linger_s: How long to let others join the first one, until there are enough.

        Returns:
            Events in order; empty when the time passed without any.
        """
        try:
            events = [self._queue.get(timeout=wait_s)]
        except queue.Empty:
            return []
        if linger_s:
            self._let_others_join(linger_s)
        while len(events) < EVENTS_PER_TURN:
            try:
                events.append(self._queue.get_nowait())
            except queue.Empty:
                break
        return events

    def _let_others_join(self, linger_s: float) -> None:
        """Wait for enough events, not for each next one: that would wake this thread as often."""
        while not self._enough.empty():  # said when the last wait was over
            self._enough.get_nowait()
        self._lingering = True
        if self._queue.qsize() < ENOUGH_EVENTS:
            with suppress(queue.Empty):
                self._enough.get(timeout=linger_s)
        self._lingering = False


class Timers:
    """Named one-shot deadlines of the main loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due_at: dict[str, float] = {}

    def set(self, name: str, in_s: float) -> None:
        """Fire `name` once in this many seconds, replacing an earlier deadline of that name."""
        self._due_at[name] = self._clock() + in_s

    def set_if_unset(self, name: str, in_s: float) -> None:
        """Like `set`, but an earlier deadline of that name stands."""
        self._due_at.setdefault(name, self._clock() + in_s)

    def cancel(self, name: str) -> None:
        """Forget the deadline, if there is one."""
        self._due_at.pop(name, None)

    def next_in_s(self) -> float | None:
        """Seconds until the earliest deadline (0 when passed), or None without any."""
        if not self._due_at:
            return None
        return max(0.0, min(self._due_at.values()) - self._clock())

    def take_due(self) -> list[str]:
        """Return and forget the names whose deadline has passed, earliest first."""
        now = self._clock()
        due = sorted((at, name) for name, at in self._due_at.items() if at <= now)
        for _, name in due:
            del self._due_at[name]
        return [name for _, name in due]
