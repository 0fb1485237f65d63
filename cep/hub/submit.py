"""Submits: store, send to the endpoint's queue, then answer; and once only when the SDK retries.

Runs on the event loop. The SDK repeats a POST after a broken connection, a time-out or a 5xx, with
the same bytes and without an idempotency key; but two equal submits in a row are also what a user
does who runs the same function twice. They are told apart by what happened to the first: only a
submit whose client *cannot have got its answer* is remembered - its connection was gone before the
answer was written, it was answered 5xx, or the hub ended in the middle - and only for
`RETRY_WINDOW_S`. The next equal body of the same client takes that submit over, once, and gets its
task ids. Not covered: an answer that was written to a connection which broke before the client
read it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cep.errors import TemporaryFailure
from cep.hub import ledger, topology
from cep.hub.ledger import NewSubmit, NewTask, StoredSubmit
from cep.hub.relay import Relay
from cep.hub.store import Store
from cep.wire.task import pack_task

if TYPE_CHECKING:
    from cep.hub.messaging import Messaging

log = logging.getLogger(__name__)

# globus-sdk repeats a request up to 5 times, each with 60 s of time-out and up to 10 s of waiting.
RETRY_WINDOW_S = 600.0


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
        self._queues: set[str] = set()  # task groups whose queue was declared since the start
        self._background: set[asyncio.Task[None]] = set()

    async def load(self) -> None:
        """Remember the submits that an earlier hub left without an answer."""
        since = self._clock() - RETRY_WINDOW_S
        for one in await self._store.call(ledger.unanswered_submits, since):
            self._remember(_left_over(one))

    def _remember(self, attempt: Attempt) -> None:
        self._attempts.setdefault(attempt.key, []).append(attempt)

    def _forget(self, attempt: Attempt) -> None:
        remaining = [one for one in self._attempts.get(attempt.key, ()) if one is not attempt]
        if remaining:
            self._attempts[attempt.key] = remaining
        else:
            self._attempts.pop(attempt.key, None)

    def begin(self, request: Request) -> Attempt:
        """Start the work on a submit, or take over the one that this is the repeat of."""
        self._prune()
        key = (request.client_id, request.digest)
        attempt = next((one for one in self._attempts.get(key, ()) if one.orphaned), None)
        if attempt is None:
            attempt = Attempt(key, None, request.task_group_id, self._clock())
            self._remember(attempt)
        else:
            attempt.orphaned = False
            log.info("A submit came again and is taken over", extra={"event": "hub.submit_again"})
        if attempt.outcome is None or (attempt.outcome.done() and _failed(attempt.outcome)):
            loop = asyncio.get_running_loop()
            attempt.outcome = loop.create_task(self._work(request, attempt))
        return attempt

    def orphan(self, attempt: Attempt) -> None:
        """The client's connection is gone or it was told of a passing failure: it may repeat."""
        attempt.orphaned = True

    def refuse(self, attempt: Attempt) -> None:
        """The client was told that this will not do; a repeat is a new submit."""
        self._forget(attempt)

    def answered(self, attempt: Attempt) -> None:
        """The client has its answer; an equal body from now on is another submit."""
        self._forget(attempt)
        if attempt.submit_id is not None:
            task = asyncio.get_running_loop().create_task(
                self._store.call(ledger.mark_answered, attempt.submit_id)
            )
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _prune(self) -> None:
        oldest = self._clock() - RETRY_WINDOW_S
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
            attempt.submit_id = await self._store.call(
                ledger.add_submit,
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
        else:
            task_ids = await self._store.call(ledger.submit_task_ids, attempt.submit_id)
        if request.create_queue:
            await self.make_queue(request.client_id, attempt.task_group_id)
        await self._send(request, attempt, task_ids)
        await self._store.call(ledger.mark_sent, attempt.submit_id)
        if again:
            due = await self._store.call(ledger.results_of_submit, attempt.submit_id)
            await self._relay.relay(due)
        return Accepted(attempt.task_group_id, task_ids)

    async def make_queue(self, client_id: str, task_group_id: str) -> None:
        """Make sure that the task group has its result queue."""
        if task_group_id not in self._queues:
            await self._messaging.declare(topology.group_operations(client_id, task_group_id))
            self._queues.add(task_group_id)

    def forget_queue(self, task_group_id: str) -> None:
        """The group's queue was taken away."""
        self._queues.discard(task_group_id)

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
