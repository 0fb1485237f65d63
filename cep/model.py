"""The words of the house as types: standard library only, shared by every room, no behaviour.

None can be changed: what a thread puts into the mailbox stays what it is. Those of which there is
one for each task are named tuples, made in a third of the time that a frozen dataclass takes.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Delivery(NamedTuple):
    """One message of the task queue, not yet settled.

    Attributes:
        epoch: Number of the channel it came on; an ack is valid on that channel only.
        tag: The broker's delivery tag, unique within the epoch.
        headers: AMQP headers of the message (may hold anything: they come from outside).
        body: The message, unopened.
        redelivered: The broker says it may have been delivered before.
        routing_key: The key it was published with; the hub tells by it which endpoint sent it.
    """

    epoch: int
    tag: int
    headers: Mapping[str, Any]
    body: bytes
    redelivered: bool = False
    routing_key: str = ""


class Task(NamedTuple):
    """An accepted task.

    Attributes:
        seq: The journal's sequence number, unique in one journal, in order of acceptance.
        task_id: UUID, canonical lower-case text with hyphens.
        function_id: UUID of the function, canonical text.
        body: The task message as it came (envelope included); only workers open it.
        resource_specification: JSON text as sent, or None when there is none (`"null"` too).
        result_serializers: Import paths of the strategies for the result, in order; may be empty.
    """

    seq: int
    task_id: str
    function_id: str
    body: bytes
    resource_specification: str | None = None
    result_serializers: tuple[str, ...] = ()


class OutcomeKind(enum.Enum):
    """How a hand-over to an engine ended."""

    DONE = "done"  # `result` holds the packed result message, an error result included
    LOST = "lost"  # the worker, block or interchange went away; the task may have begun
    NOT_BEGUN = "not-begun"  # handed back untouched; it goes to the front of the queue
    REFUSED = "refused"  # this engine can never run this task; `reason` says why


@dataclass(frozen=True, slots=True)
class Place:
    """Where a task ran, as far as its engine can tell; what is not known is empty.

    Attributes:
        node: Host name; empty for the endpoint's own host.
        worker: What the engine calls the worker: a process id, a thread's name.
        block: Number of the block.
        job: The batch system's id of it.
    """

    node: str = ""
    worker: str = ""
    block: str = ""
    job: str = ""


class Outcome(NamedTuple):
    """What became of one task that was handed to an engine."""

    seq: int
    kind: OutcomeKind
    result: bytes = b""
    code: str = ""  # error code for LOST and REFUSED, e.g. WORKER_LOST
    reason: str = ""  # a sentence for LOST and REFUSED
    run_s: float | None = None  # how long it ran, by the worker's clock, for DONE
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """A truthful picture of an engine at one moment.

    Attributes:
        slots: How many tasks the engine wants to hold at most (given and unfinished).
        workers: Worker threads or processes that live now.
        idle_workers: Those of them with nothing to do, as far as known.
        report: The engine's part of a status report's `global_state` (the names of the
            published endpoint).
        blocks: One mapping per block (`block`, `job`, `state`, ...); empty without blocks.
        ended_blocks: The same for the last few that have ended, oldest first.
        silence: Why the scheduler did not answer the last question; empty when it did.
        breaker: Whether more blocks are asked for, and why not; None without blocks.
        summary: One phrase for `status` and systemd, e.g. `blocks 0/1, first starts with the
            first task`.
    """

    slots: int
    workers: int
    idle_workers: int
    report: Mapping[str, Any] = field(default_factory=dict)
    blocks: Sequence[Mapping[str, Any]] = ()
    summary: str = ""
    ended_blocks: Sequence[Mapping[str, Any]] = ()
    breaker: Mapping[str, Any] | None = None
    silence: str = ""


@dataclass(frozen=True, slots=True)
class PublishKwargs:
    """How to publish on a queue, as the service said at registration."""

    exchange: str
    routing_key: str
    mandatory: bool
    properties: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class QueueAddress:
    """One queue block of the registration answer.

    Attributes:
        url: AMQP URL with user and password (never logged).
        queue: Queue name.
        exchange: Exchange name, "" when the answer has none.
        publish: How to publish (result and heartbeat queues), else None.
    """

    url: str
    queue: str
    exchange: str = ""
    publish: PublishKwargs | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """The service's answer to a registration.

    Attributes:
        endpoint_id: UUID of the endpoint, canonical text.
        tasks: Where tasks come from.
        results: Where results go.
        heartbeats: Where status reports go; None means the result route (as 2.19).
    """

    endpoint_id: str
    tasks: QueueAddress
    results: QueueAddress
    heartbeats: QueueAddress | None = None


#: The published deployments of the web service: name -> address. `local` is where a hub listens
#: unless it was told otherwise, the one other address that the official SDK knows.
#: Source: the environment tables of globus-compute-sdk 2.19.0 and 4.19.0.
PRODUCTION = "production"
LOCAL = "local"
SERVICE_ENVIRONMENTS: Mapping[str, str] = {
    PRODUCTION: "https://compute.api.globus.org",
    "preview": "https://compute.api.preview.globus.org",
    "dev": "https://api.dev.funcx.org",
    "sandbox": "https://compute.api.sandbox.globuscs.info",
    "test": "https://compute.api.test.globuscs.info",
    "integration": "https://compute.api.integration.globuscs.info",
    "staging": "https://compute.api.staging.globuscs.info",
    LOCAL: "http://localhost:5000",
}
