"""Steps 1 to 3 of a task's path: a delivery becomes a journaled task, or an error result.

Owned by the main thread. `take` only fills the journal's buffer; `acknowledge`, after the commit,
settles at the broker what the disk now holds. A delivery is settled exactly once: acked, rejected
without requeue (no task id in it), or given back (the disk could not take it).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from cep.agent.audit import Unaudited
from cep.agent.recent import Recent
from cep.config.settings import IntakeLimits
from cep.errors import WireError
from cep.journal.journal import Journal
from cep.journal.memory import key_of
from cep.model import Delivery
from cep.wire.headers import TaskHeaders, parse_task_headers
from cep.wire.result import (
    COULD_NOT_EXECUTE,
    FUNCTION_NOT_ALLOWED,
    TASK_TOO_LARGE,
    error_result,
)
from cep.wire.task import unpack_task

log = logging.getLogger(__name__)

# A broken message is opened only to look for its task id, and only when it is this small: half a
# megabyte of JSON costs milliseconds of the loop.
OPEN_BROKEN_UP_TO_BYTES = 512 * 1024

# Acks after which the broker is asked for proof of them, beside each heartbeat. A task whose ack is
# proven before it is answered needs no tombstone.
PROBE_AT = 256

# Reasons not to consume. The consumer runs only while none holds.
HOLD_FULL = "high mark reached"
HOLD_PAUSED = "paused"
HOLD_DISK = "disk"  # full, read-only or broken; the picture has the sentence
HOLD_AUDIT = "audit log not writable"
HOLD_STOPPING = "stopping"
#: What comes nevertheless goes back to the broker.
HOLDS_UNWRITABLE = (HOLD_DISK, HOLD_AUDIT)


class TaskConsumer(Protocol):
    """What intake needs of `cep.amqp.consumer.Consumer`."""

    def consume(self, most: int) -> None: ...
    def pause(self) -> None: ...
    def ack(self, epoch: int, tags: Sequence[int]) -> None: ...
    def reject(self, epoch: int, tags: Sequence[int]) -> None: ...
    def give_back(self, epoch: int, tags: Sequence[int]) -> None: ...
    def probe(self, epoch: int, mark: int) -> None: ...


class Accepted(Protocol):
    """Who is told of tasks: those to run, and those answered at once with an error."""

    def accepted(self, seq: int, headers: TaskHeaders, size: int) -> None: ...
    def answered(self, seq: int, size: int) -> None: ...


class Intake:
    """Takes deliveries and keeps the consumer within its marks."""

    def __init__(
        self,
        journal: Journal,
        consumer: TaskConsumer,
        onward: Accepted,
        *,
        endpoint_id: str,
        allowed_functions: Sequence[str] | None,
        task_size_limit: int,
        limits: IntakeLimits,
        holds: Sequence[str] = (),
        audit: Unaudited | None = None,
    ) -> None:
        self._audit = audit or Unaudited()
        self._journal = journal
        self._consumer = consumer
        self._onward = onward
        self._endpoint_id = endpoint_id
        self._allowed = None if allowed_functions is None else frozenset(allowed_functions)
        self._task_size_limit = task_size_limit
        self._limits = limits
        self._holds: set[str] = set(holds)
        self._epoch = 0
        self._cancelled = False  # the broker has confirmed that it delivers no more
        self._mark = 0
        self._unproven = 0  # acks since the last probe
        self._acks: list[tuple[int, int | None]] = []  # (tag, seq)
        # What this turn's commit makes durable: number and id of each task.
        self._fresh: dict[int, bytes | None] = {}
        self._recent = Recent()
        self._rejects: list[int] = []
        self._returns: list[int] = []
        self._complained: set[str] = set()
        self.counters: Counter[str] = Counter()

    def change(
        self,
        *,
        allowed_functions: Sequence[str] | None,
        task_size_limit: int,
        limits: IntakeLimits,
    ) -> None:
        """Judge by these from now on; what was taken before stays taken."""
        self._allowed = None if allowed_functions is None else frozenset(allowed_functions)
        self._task_size_limit = task_size_limit
        self._limits = limits
        if not self._holds:
            self._consume()

    # -- consuming -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Start consuming, unless something holds."""
        if not self._holds:
            self._consume()

    def hold(self, reason: str) -> None:
        """Stop consuming for one more reason; what is already delivered is still taken."""
        if not self._holds:
            self._consumer.pause()
        if reason not in self._holds:
            log.info("taking no more tasks: %s", reason, extra={"event": "intake.hold"})
        self._holds.add(reason)

    def release(self, reason: str) -> None:
        """This reason is gone; consume again when it was the last."""
        if reason not in self._holds:
            return
        self._holds.discard(reason)
        if not self._holds:
            log.info("taking tasks again", extra={"event": "intake.release"})
            self._consume()

    def held(self) -> list[str]:
        """The reasons that hold now, sorted."""
        return sorted(self._holds)

    def balance(self, tasks: int, size_bytes: int) -> None:
        """Hold at the high mark, release at the low one.

        Args:
            tasks: Tasks without an answer, and answers that the broker has not confirmed.
            size_bytes: The bytes of both.
        """
        limits = self._limits
        if tasks >= limits.high_tasks or size_bytes >= limits.high_bytes:
            self.hold(HOLD_FULL)
        elif tasks <= limits.low_tasks and size_bytes <= limits.low_bytes:
            self.release(HOLD_FULL)

    # -- deliveries ----------------------------------------------------------------------------

    def channel(self, epoch: int) -> None:
        """A new channel consumes: nothing of an older one can be settled any more."""
        if epoch == self._epoch:
            return
        if self._epoch:
            self._journal.channel_lost(self._epoch)
        self._epoch = epoch
        self._acks.clear()
        self._remember()
        self._rejects.clear()
        self._returns.clear()

    def take(self, deliveries: Sequence[Delivery]) -> None:
        """Buffer each delivery as a task, an error answer, a repeat, or a reject."""
        self.counters["received"] += len(deliveries)
        writable = self._holds.isdisjoint(HOLDS_UNWRITABLE)
        for delivery in deliveries:
            if delivery.epoch != self._epoch:
                self.channel(delivery.epoch)
            if writable:
                self._take_one(delivery)
            else:
                self._returns.append(delivery.tag)

    def _take_one(self, delivery: Delivery) -> None:
        try:
            headers = parse_task_headers(delivery.headers)
        except WireError as error:
            self._take_broken(delivery, error)
            return
        key = key_of(headers.task_id)
        if self._knows(key):
            self._repeat(delivery.tag, headers.task_id)
            return
        size = len(delivery.body)
        refusal = self._refusal(headers, size)
        if refusal is not None:
            self._answer(delivery, headers.task_id, *refusal, function_id=headers.function_id)
            return
        seq = self._journal.accept(
            headers.task_id,
            headers.function_id,
            delivery.body,
            headers.resource_specification,
            headers.result_serializers,
            key=key,
        )
        self._acks.append((delivery.tag, seq))
        self._fresh[seq] = key
        self._audit.arrived(seq, headers.task_id, headers.function_id, delivery.headers)
        self._onward.accepted(seq, headers, size)

    def _refusal(self, headers: TaskHeaders, size: int) -> tuple[str, str] | None:
        """Code and text when policy forbids the task, else None."""
        if self._allowed is not None and headers.function_id not in self._allowed:
            return FUNCTION_NOT_ALLOWED, (
                f"Function {headers.function_id} is not permitted on endpoint {self._endpoint_id}."
            )
        if size > self._task_size_limit:
            return TASK_TOO_LARGE, (
                f"The task's message of {size} bytes is over this endpoint's limit of "
                f"{self._task_size_limit} bytes (task_size_limit in its configuration)."
            )
        return None

    def _take_broken(self, delivery: Delivery, error: WireError) -> None:
        self._complain_once(str(error))
        self.counters["malformed"] += 1
        task_id = error.task_id or _task_id_inside(delivery.body)
        if task_id is None:
            self._rejects.append(delivery.tag)
        elif self._knows(key_of(task_id)):
            self._repeat(delivery.tag, task_id)
        else:
            self._answer(delivery, task_id, COULD_NOT_EXECUTE, str(error))

    def _answer(
        self,
        delivery: Delivery,
        task_id: str,
        code: str,
        text: str,
        *,
        function_id: str | None = None,
    ) -> None:
        self.counters["refused"] += 1
        details = {"endpoint_id": self._endpoint_id}
        result = error_result(task_id, code, text, details=details)
        seq = self._journal.accept_finished(task_id, result)
        self._acks.append((delivery.tag, seq))
        self._fresh[seq] = key_of(task_id)
        self._audit.arrived(seq, task_id, function_id, delivery.headers)
        self._audit.ended(seq, code)
        self._onward.answered(seq, len(result))

    def _repeat(self, tag: int, task_id: str) -> None:
        """An earlier ack was lost, or the service sent the task twice; the task is not run again.

        This ack is proved or lost like any other.
        """
        self.counters["repeated"] += 1
        self._acks.append((tag, self._journal.seq_of(task_id)))

    def _knows(self, key: bytes | None) -> bool:
        return self._journal.knows_key(key) or key in self._recent

    def _remember(self) -> None:
        """What was fresh is the journal's for good; should it come again, it is known."""
        self._recent.add(key for key in self._fresh.values() if key is not None)
        self._fresh.clear()

    def _complain_once(self, text: str) -> None:
        level = logging.DEBUG if text in self._complained else logging.WARNING
        if len(self._complained) < 1000:  # a flood of different garbage must not fill memory
            self._complained.add(text)
        log.log(
            level,
            "a message of the task queue is broken: %s",
            text,
            extra={"event": "intake.malformed"},
        )

    # -- settling ------------------------------------------------------------------------------

    def acknowledge(self) -> None:
        """Settle at the broker what has been committed."""
        if self._acks:
            self._mark += 1
            self._consumer.ack(self._epoch, [tag for tag, _ in self._acks])
            seqs = [seq for _, seq in self._acks if seq is not None]
            self._journal.ack_sent(seqs, self._epoch, self._mark)
            self._unproven += len(seqs)
            self._acks.clear()
            if self._unproven >= PROBE_AT:
                self.probe()
            self._remember()
        if self._rejects:
            self._consumer.reject(self._epoch, self._rejects)
            self._rejects = []

    def probe(self) -> None:
        """Ask the broker, on the same channel, for proof that the acks so far were processed."""
        self._unproven = 0
        if self._epoch:
            self._consumer.probe(self._epoch, self._mark)

    def withdraw(self) -> list[int]:
        """The disk could not take this turn's tasks: the later half goes back to the broker.

        Returns:
            Sequence numbers that must be forgotten everywhere; empty when none is left.
        """
        fresh = list(self._fresh)
        seqs = fresh[len(fresh) // 2 :]
        for seq in seqs:
            del self._fresh[seq]  # they are to come again
        gone = set(seqs)
        self._returns += [tag for tag, seq in self._acks if seq in gone]
        self._acks = [(tag, seq) for tag, seq in self._acks if seq not in gone]
        self._give_back()
        return seqs

    def consuming_stopped(self, epoch: int) -> None:
        """The cancel is through: what could not be taken goes back, and cannot come again now."""
        if epoch == self._epoch:
            self._cancelled = True
            self._give_back()

    def _consume(self) -> None:
        self._cancelled = False
        # What is on its way at the high mark is taken too: let it be no more than the mark itself.
        self._consumer.consume(self._limits.high_tasks)

    def _give_back(self) -> None:
        if self._cancelled and self._returns:
            self._consumer.give_back(self._epoch, self._returns)
            self._returns = []


def _task_id_inside(body: bytes) -> str | None:
    """The task id of a message whose headers are broken, if it can be read."""
    if len(body) > OPEN_BROKEN_UP_TO_BYTES:
        return None
    try:
        return unpack_task(body).task_id
    except WireError as error:
        return error.task_id
