"""The task message: which task, and the packed function and arguments. Pure functions."""

from __future__ import annotations

from typing import NamedTuple

from cep.errors import WireError
from cep.wire import envelope

MESSAGE_TYPE = "task"


class TaskMessage(NamedTuple):
    """A task as it travels.

    Attributes:
        task_id: UUID, canonical text.
        task_buffer: Packed buffers of function, positional and keyword arguments, unopened.
        container_id: UUID of a container, canonical text, or None; kept for old services only.
    """

    task_id: str
    task_buffer: str
    container_id: str | None = None


def pack_task(task_id: str, task_buffer: str) -> bytes:
    """Pack a task message, byte for byte as globus-compute-common 1.0.0 does.

    Args:
        task_id: UUID, canonical text.
        task_buffer: Packed buffers, see `cep.wire.buffers`.
    """
    return envelope.pack(
        MESSAGE_TYPE,
        {
            "task_id": task_id,
            "container_id": None,
            "container": None,
            "task_buffer": task_buffer,
        },
    )


def unpack_task(body: bytes) -> TaskMessage:
    """Open a task message.

    Raises:
        WireError: It is not one; `task_id` is set when that field was readable.
    """
    data = envelope.expect(body, MESSAGE_TYPE, large="task_buffer")
    task_id = envelope.read_uuid(data.get("task_id"))
    if task_id is None:
        raise WireError("The task message has no UUID in 'task_id'.")
    task_buffer = data.get("task_buffer")
    if not isinstance(task_buffer, str):
        raise WireError("The task message has no text in 'task_buffer'.", task_id=task_id)
    container_id = None
    if data.get("container_id") is not None:
        container_id = envelope.read_uuid(data["container_id"])
        if container_id is None:
            raise WireError(
                "The task message's 'container_id' is neither a UUID nor null.", task_id=task_id
            )
    container = data.get("container")
    if container is not None and not isinstance(container, dict):
        raise WireError(
            "The task message's 'container' is neither an object nor null.", task_id=task_id
        )
    return TaskMessage(task_id=task_id, task_buffer=task_buffer, container_id=container_id)
