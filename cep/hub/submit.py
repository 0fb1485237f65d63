"""Submits: store, send to the endpoint's queue, then answer; and once only when the SDK retries.

Runs on the event loop. The SDK repeats a POST after a broken connection, a time-out or a 5xx, with
the same bytes and without an idempotency key; but two equal submits in a row are also what a user
does who runs the same function twice. They are told apart by what happened to the first: only a
submit whose client *cannot have got its answer* is remembered - its connection was gone before the
answer was written, it was answered 5xx, or the hub ended in the middle - and only for
`RETRY_WINDOW_S`. The next equal body of the same client takes that submit over, once, and gets its
task ids. Not covered: an answer that was written to a connection which broke before the client
read it.

Several hubs on one store tell each other by `open_submits` which of them works on a submit and
whether its client is gone. A submit whose client is gone, or whose hub is dead, is taken over by
whichever hub gets the repeat.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cep.errors import TemporaryFailure
from cep.hub import ledger, open_submits, settlement, topology
from cep.hub.ledger import NewSubmit, NewTask, StoredSubmit
from cep.hub.relay import Relay
from cep.hub.store import Store
from cep.wire.task import pack_task

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cep.hub.messaging import Messaging

log = logging.getLogger(__name__)

# globus-sdk repeats a request up to 5 times, each with 60 s of time-out and up to 10 s of waiting.
RETRY_WINDOW_S = 600.0
# For how long a declared queue is taken as there; one that housekeeping takes away was not used
# for far longer.
QUEUE_TRUST_S = 3600.0


@dataclass(frozen=True, slots=True)
class Request:
    """A checked submit.

    Attributes:
        client_id: Who submits.
        endpoint_id: To which endpoint.
        task_group_id: The group; made here when the client named none.
        create_queue: Whether results must reach the group's queue.
        payloads: Function id and packed arguments of each task, in the order of the body.
        code: Packed code by function id.
        resource_specification: JSON text, or None.
        result_serializers: Import paths.
        digest: What an equal body of the same client would have, too.
    """

    client_id: str
    endpoint_id: str
    task_group_id: str
    create_queue: bool
    payloads: Sequence[tuple[str, str]]
    code: Mapping[str, str]
    resource_specification: str | None
    result_serializers: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the client is told."""

    task_group_id: str
    task_ids: Sequence[str]


@dataclass(slots=True)
class Attempt:
    """One submit on its way, or left over without an answer.

    Attributes:
        orphaned: The client cannot have got its answer.
        outcome: The work of sending; None when an earlier hub was to do it, or it failed.
        confirmed: Tasks that the broker has.
    """

    key: tuple[str, str]
    submit_id: int | None
    task_group_id: str
    created_at: float
    orphaned: bool = False
    outcome: asyncio.Task[Accepted] | None = None
    confirmed: set[str] = field(default_factory=set)


class Submitter:
    """Takes submits.

    Args:
        store: The open store.
        messaging: The started links.
        relay: Sends stored results once more after a take-over.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, store: Store, messaging: Messaging, relay: Relay, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._messaging = messaging
        self._relay = relay
        self._clock = clock
        self._attempts: dict[tuple[str, str], list[Attempt]] = {}
        self._hub = store.hub_number
        self._queues: dict[str, float] = {}  # task groups, and when their queue was declared
        self._background: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Remember the submits that an earlier hub left without an answer.

        Of several hubs, each finds those of dead ones when they come again.
        """
        if self._hub is not None:
            await self.forget_old()
            return
        since = self._clock() - RETRY_WINDOW_S
        for one in await self._store.call(ledger.unanswered_submits, since):
            self._remember(_left_over(one))

    async def forget_old(self) -> None:
        """Forget what dead hubs left without an answer so long ago that nobody repeats it."""
        if self._hub is not None:
            before = self._clock() - RETRY_WINDOW_S
            await self._store.call(open_submits.forget_before, before)

    def _remember(self, attempt: Attempt) -> None:
        self._attempts.setdefault(attempt.key, []).append(attempt)

    def _forget(self, attempt: Attempt) -> None:
        remaining = [one for one in self._attempts.get(attempt.key, ()) if one is not attempt]
        if remaining:
            self._attempts[attempt.key] = remaining
        else:
            self._attempts.pop(attempt.key, None)

    async def begin(self, request: Request) -> Attempt:
        """Start the work on a submit, or take over the one that this is the repeat of."""
        self._prune()
        attempt = await self._repeated(request)
        if attempt is None:
            key = (request.client_id, request.digest)
            attempt = Attempt(key, None, request.task_group_id, self._clock())
            self._remember(attempt)
        else:
            log.info("A submit came again and is taken over", extra={"event": "hub.submit_again"})
        if attempt.outcome is None or (attempt.outcome.done() and _failed(attempt.outcome)):
            loop = asyncio.get_running_loop()
            attempt.outcome = loop.create_task(self._work(request, attempt))
        return attempt

    async def _repeated(self, request: Request) -> Attempt | None:
        """The attempt that this request is the repeat of, taken over; None for a new submit."""
        for one in list(self._attempts.get((request.client_id, request.digest), ())):
            if not one.orphaned:
                continue
            one.orphaned = False  # before anything is waited for: it is taken over once
            if self._hub is None or one.submit_id is None:
                return one
            try:
                if self._background:  # that its client was gone may still be on its way
                    await asyncio.wait(set(self._background))
                kept = await self._store.call(open_submits.keep, one.submit_id, self._hub)
            except BaseException:
                one.orphaned = True
                raise
            if kept:
                return one
            self._forget(one)  # another hub has taken it over
        if self._hub is None:
            return None
        stored = await self._store.call(
            open_submits.take_over,
            client_id=request.client_id,
            digest=request.digest,
            since=self._clock() - RETRY_WINDOW_S,
            hub=self._hub,
        )
        if stored is None:
            return None
        attempt = _left_over(stored)
        attempt.orphaned = False
        self._remember(attempt)
        return attempt

    def orphan(self, attempt: Attempt) -> asyncio.Task[None] | None:
        """The client's connection is gone or it is told of a passing failure: it may repeat.

        Returns:
            What notes it for other hubs, where there are any: before, they would take the repeat
            for a new submit.
        """
        if not attempt.orphaned:
            attempt.orphaned = True
            if self._hub is not None and attempt.submit_id is not None:
                work = self._store.call(open_submits.orphan, attempt.submit_id, self._hub)
                return self._note(work)
        return None

    def refuse(self, attempt: Attempt) -> None:
        """The client was told that this will not do; a repeat is a new submit."""
        self.answered(attempt)

    def answered(self, attempt: Attempt) -> None:
        """The client has its answer; an equal body from now on is another submit."""
        self._forget(attempt)
        if attempt.submit_id is not None:
            self._note(self._store.call(self._close, attempt.submit_id))

    def _close(self, connection: Connection, submit_id: int) -> None:
        ledger.mark_answered(connection, submit_id)
        if self._hub is not None:
            open_submits.close(connection, submit_id)

    def _note(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._noted)
        return task

    def _noted(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.warning(
                "What became of a submit cannot be noted: %s",
                error,
                extra={"event": "hub.submit_not_noted"},
            )

    def _prune(self) -> None:
        now = self._clock()
        while self._queues and next(iter(self._queues.values())) <= now - QUEUE_TRUST_S:
            del self._queues[next(iter(self._queues))]
        oldest = now - RETRY_WINDOW_S
        for attempts in list(self._attempts.values()):
            for one in attempts:
                if one.orphaned and one.created_at < oldest:
                    self._forget(one)

    async def stop(self) -> None:
        """Wait until what was answered is noted."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def _work(self, request: Request, attempt: Attempt) -> Accepted:
        again = attempt.submit_id is not None
        if attempt.submit_id is None:
            task_ids = new_task_ids(len(request.payloads))
            await self._store.confirm_presence()
            attempt.submit_id = await self._store.call(
                self._add,
                NewSubmit(
                    client_id=request.client_id,
                    endpoint_id=request.endpoint_id,
                    task_group_id=attempt.task_group_id,
                    digest=request.digest,
                    create_queue=request.create_queue,
                    tasks=[
                        NewTask(task_id, function_id)
                        for task_id, (function_id, _) in zip(
                            task_ids, request.payloads, strict=True
                        )
                    ],
                    now=self._clock(),
                ),
            )
            if attempt.orphaned and self._hub is not None:  # the client did not wait for so long
                await self._store.call(open_submits.orphan, attempt.submit_id, self._hub)
        else:
            task_ids = await self._store.call(ledger.submit_task_ids, attempt.submit_id)
        if request.create_queue:
            await self.make_queue(request.client_id, attempt.task_group_id)
        await self._send(request, attempt, task_ids)
        await self._store.call(ledger.mark_sent, attempt.submit_id)
        if again:
            due = await self._store.call(settlement.results_of_submit, attempt.submit_id)
            await self._relay.relay(due)
        return Accepted(attempt.task_group_id, task_ids)

    def _add(self, connection: Connection, new: NewSubmit) -> int:
        submit_id = ledger.add_submit(connection, new)
        if self._hub is not None:
            open_submits.open_submit(
                connection, submit_id, client_id=new.client_id, digest=new.digest, hub=self._hub
            )
        return submit_id

    async def make_queue(self, client_id: str, task_group_id: str) -> None:
        """Make sure that the task group has its result queue."""
        now = self._clock()
        if self._queues.get(task_group_id, 0.0) <= now - QUEUE_TRUST_S:
            await self._messaging.declare(topology.group_operations(client_id, task_group_id))
            self._queues.pop(task_group_id, None)  # the oldest comes first
            self._queues[task_group_id] = now

    def forget_queue(self, task_group_id: str) -> None:
        """The group's queue was taken away."""
        self._queues.pop(task_group_id, None)

    async def _send(self, request: Request, attempt: Attempt, task_ids: Sequence[str]) -> None:
        outgoing = []
        sent = []
        for task_id, (function_id, arguments) in zip(task_ids, request.payloads, strict=True):
            if task_id in attempt.confirmed:
                continue
            sent.append(task_id)
            outgoing.append(
                topology.Outgoing(
                    topology.task_route(
                        request.endpoint_id,
                        task_id,
                        function_id,
                        request.resource_specification,
                        request.result_serializers,
                    ),
                    [pack_task(task_id, request.code[function_id] + arguments)],
                )
            )
        refused = await self._messaging.publish(outgoing)
        attempt.confirmed.update(
            task_id for position, task_id in enumerate(sent) if position not in refused
        )
        if refused:
            raise TemporaryFailure(
                f"The broker took {len(sent) - len(refused)} of {len(sent)} tasks; the queue of "
                f"endpoint {request.endpoint_id} is full or gone."
            )


def _left_over(stored: StoredSubmit) -> Attempt:
    return Attempt(
        key=(stored.client_id, stored.digest),
        submit_id=stored.submit_id,
        task_group_id=stored.task_group_id,
        created_at=stored.created_at,
        orphaned=True,
    )


def _failed(task: asyncio.Task[Accepted]) -> bool:
    return task.cancelled() or task.exception() is not None


def new_task_ids(count: int) -> list[str]:
    """Return new UUIDs that grow with time, which keeps the store's index compact.

    Version 7 of RFC 9562: 48 bits of milliseconds, then random bits.
    """
    stamp = (time.time_ns() // 1_000_000) << 80
    ids = []
    for _ in range(count):
        noise = uuid.uuid4().int & ((1 << 80) - 1)
        value = stamp | noise
        value = (value & ~(0xF << 76)) | (0x7 << 76)
        ids.append(str(uuid.UUID(int=value)))
    return ids


def specification_text(value: Any) -> str | None:
    """Return a resource specification as the JSON text of its header, None when there is none."""
    return json.dumps(value) if value else None
