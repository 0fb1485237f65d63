"""Checks and renews the lease from a thread of its own, so that a home that hangs stops no task.

The lease lies in the endpoint's shared directory, often on a network file system. Whoever must
know that the lease is still ours asks here and waits a moment; a file system that does not answer
proves nothing, and work goes on. When it answers again and the lease is another's, that is told
through the mailbox at once.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from cep.agent.lease import HeldLease
from cep.errors import CepError, LeaseLost

log = logging.getLogger(__name__)

# A healthy file server answers in milliseconds; a busy one in this time. Only the first question of
# a hang waits for it.
PATIENCE_S = 2.0
END_S = 2.0


@dataclass(frozen=True, slots=True)
class LeaseGone:
    """The lease is another's; this agent must end and touch nothing more."""

    error: LeaseLost


@dataclass(frozen=True, slots=True)
class _Question:
    what: Callable[[], None]
    answer: queue.SimpleQueue[LeaseLost | None]


class LeaseKeeper:
    """Asks the lease's file system in its own thread.

    Args:
        held: The lease; nobody else may touch it between `start` and `stop`.
        put: Takes `LeaseGone`.
    """

    def __init__(self, held: HeldLease, put: Callable[[LeaseGone], None]) -> None:
        self._held = held
        self._put = put
        self._questions: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._silent = False  # a question is unanswered for too long
        self._thread = threading.Thread(target=self._serve, name="lease", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, but do not wait for a file system that hangs."""
        self._questions.put(None)
        self._thread.join(END_S)

    def check(self) -> None:
        """Make sure that the lease is still ours, as far as its file system answers; any thread.

        Raises:
            LeaseLost: Another process holds it.
        """
        if self._silent:
            return
        question = _Question(self._held.check, queue.SimpleQueue())
        self._questions.put(question)
        try:
            lost = question.answer.get(timeout=PATIENCE_S)
        except queue.Empty:
            self._silent = True
            log.warning(
                "the file system of the endpoint's directory does not answer; going on without it",
                extra={"event": "lease.silent"},
            )
            return
        if lost is not None:
            raise lost

    def renew(self) -> None:
        """Say that we live; does not wait. A lost lease is told through the mailbox."""
        if not self._silent:
            self._questions.put(_Question(self._held.renew, queue.SimpleQueue()))

    def _serve(self) -> None:
        while (question := self._questions.get()) is not None:
            lost = None
            try:
                question.what()
            except LeaseLost as error:
                lost = error
                self._put(LeaseGone(error))
            except (CepError, OSError) as error:  # what is not proven is not lost
                log.warning("the lease: %s", error, extra={"event": "lease.unreadable"})
            if self._silent:
                self._silent = False
                log.info(
                    "the file system of the endpoint's directory answers again",
                    extra={"event": "lease.answers"},
                )
            question.answer.put(lost)
