"""Names of exchanges and queues, who may use them, and what the hub declares. Pure functions.

Names of the direct, durable exchanges and the endpoint's queue are the customary ones of Globus
Compute; clients take every name from the hub's answers. Task-group queues carry the client in
their name, so that a client's rights are a prefix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cep.amqp.declarer import (
    Bind,
    DeclareExchange,
    DeclareQueue,
    DeleteQueue,
    Operation,
    PurgeQueue,
)
from cep.model import PublishKwargs

TASKS = "tasks"
RESULTS = "results"
HEARTBEATS = "heartbeats"

HUB_USER = "hub"
_ENDPOINT_USER = "endpoint."
_CLIENT_USER = "client."

PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Messages that share a route."""

    route: PublishKwargs
    bodies: Sequence[bytes]


def task_queue(endpoint_id: str) -> str:
    """The queue from which an endpoint takes its tasks; also the routing key."""
    return f"{endpoint_id}.{TASKS}"


def result_key(endpoint_id: str) -> str:
    """The routing key with which an endpoint sends its results."""
    return f"{endpoint_id}.{RESULTS}"


def heartbeat_key(endpoint_id: str) -> str:
    """The routing key with which an endpoint sends its status reports."""
    return f"{endpoint_id}.{HEARTBEATS}"


def sender(routing_key: str) -> str:
    """The endpoint that sent a result or status report with this key."""
    return routing_key.partition(".")[0]


def group_prefix(client_id: str) -> str:
    """What the names of a client's task-group queues begin with."""
    return f"tg.{client_id}."


def group_queue(client_id: str, task_group_id: str) -> str:
    """The queue on which the SDK gets the results of a task group."""
    return f"{group_prefix(client_id)}{task_group_id}"


def endpoint_user(endpoint_id: str) -> str:
    """An endpoint's user name at the broker."""
    return _ENDPOINT_USER + endpoint_id


def client_user(client_id: str) -> str:
    """An SDK client's user name at the broker."""
    return _CLIENT_USER + client_id


def user_kind(user: str) -> tuple[str, str]:
    """Split a user name into its kind (`endpoint`, `client`, `hub` or "") and the id."""
    for kind in (_ENDPOINT_USER, _CLIENT_USER):
        if user.startswith(kind):
            return kind[:-1], user[len(kind) :]
    return ("hub", "") if user == HUB_USER else ("", "")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a hub declares; the names are the same at both brokers.

    The embedded broker checks routing keys itself and knows direct exchanges only. RabbitMQ limits
    the routing keys of a user at topic exchanges only (topic permissions), so that there the two
    exchanges to which endpoints publish are of that kind.

    Attributes:
        topics: Whether the broker is RabbitMQ.
    """

    topics: bool = False

    def base(self) -> list[Operation]:
        """What every hub has."""
        if not self.topics:
            return [
                DeclareExchange(TASKS),
                DeclareExchange(RESULTS),
                DeclareExchange(HEARTBEATS),
                DeclareQueue(RESULTS),
                DeclareQueue(HEARTBEATS),
            ]
        return [
            DeclareExchange(TASKS),
            DeclareExchange(RESULTS, "topic"),
            DeclareExchange(HEARTBEATS, "topic"),
            DeclareQueue(RESULTS),
            # One hub at a time takes status reports, or two of one endpoint could be noted in the
            # wrong order; when that hub goes, the broker lets the next one have them.
            DeclareQueue(HEARTBEATS, {"x-single-active-consumer": True}),
            # One binding each, however many endpoints come and go: who may publish with which key
            # is the permissions' business.
            Bind(RESULTS, RESULTS, f"*.{RESULTS}"),
            Bind(HEARTBEATS, HEARTBEATS, f"*.{HEARTBEATS}"),
        ]

    def endpoint(self, endpoint_id: str) -> list[Operation]:
        """What an endpoint needs before it may be told that it is registered."""
        queue = task_queue(endpoint_id)
        own: list[Operation] = [DeclareQueue(queue), Bind(queue, TASKS, queue)]
        if self.topics:
            return own
        return [
            *own,
            Bind(RESULTS, RESULTS, result_key(endpoint_id)),
            Bind(HEARTBEATS, HEARTBEATS, heartbeat_key(endpoint_id)),
        ]


def group_operations(client_id: str, task_group_id: str) -> list[Operation]:
    """What a task group needs before its results can reach the SDK."""
    return [DeclareQueue(group_queue(client_id, task_group_id))]


def purge_operations(endpoint_id: str) -> list[Operation]:
    """Take away the tasks that wait for an endpoint."""
    queue = task_queue(endpoint_id)
    return [DeclareQueue(queue), PurgeQueue(queue)]


def removal_operations(endpoint_id: str) -> list[Operation]:
    """Take away what a deleted endpoint had."""
    return [DeleteQueue(task_queue(endpoint_id))]


def group_removal_operations(client_id: str, task_group_id: str) -> list[Operation]:
    """Take away the queue of a task group that nobody has used for long."""
    return [DeleteQueue(group_queue(client_id, task_group_id))]


def task_route(
    endpoint_id: str,
    task_id: str,
    function_id: str,
    resource_specification: str | None,
    result_serializers: tuple[str, ...],
) -> PublishKwargs:
    """How a task goes to its endpoint; the headers are those that endpoints read."""
    headers: dict[str, Any] = {"task_uuid": task_id, "function_uuid": function_id}
    if resource_specification is not None:
        headers["resource_specification"] = resource_specification
    if result_serializers:
        headers["result_serializers"] = list(result_serializers)
    return PublishKwargs(
        exchange=TASKS,
        routing_key=task_queue(endpoint_id),
        mandatory=True,
        properties={"delivery_mode": PERSISTENT, "headers": headers},
    )


def result_route(client_id: str, task_group_id: str, now: float) -> PublishKwargs:
    """How a result goes to its task group's queue; the SDK takes the timestamp as its end."""
    return PublishKwargs(
        exchange="",
        routing_key=group_queue(client_id, task_group_id),
        mandatory=True,
        properties={"delivery_mode": PERSISTENT, "timestamp": int(now)},
    )


def queue_blocks(endpoint_id: str, url: str) -> Mapping[str, Any]:
    """The queue blocks of a registration's answer."""
    return {
        "task_queue_info": {
            "connection_url": url,
            "exchange": TASKS,
            "queue": task_queue(endpoint_id),
        },
        "result_queue_info": _publish_block(url, RESULTS, result_key(endpoint_id)),
        "heartbeat_queue_info": _publish_block(url, HEARTBEATS, heartbeat_key(endpoint_id)),
    }


def _publish_block(url: str, name: str, key: str) -> Mapping[str, Any]:
    return {
        "connection_url": url,
        "exchange": name,
        "queue": name,
        "queue_publish_kwargs": {
            "exchange": name,
            "routing_key": key,
            "mandatory": True,
            "properties": {"delivery_mode": PERSISTENT},
        },
    }
