"""The task message: which task, and the packed function and arguments. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from cep.errors import WireError
from cep.wire import envelope, lines

MESSAGE_TYPE = "task"

# A message as `pack_task` writes it, and the service too: what stands before and after the id.
_BEFORE_ID = b'\x01{"message_type":"task","data":{"task_id":"'
_AFTER_ID = b'","container_id":null,"container":null,"task_buffer":"'
_ID_AT = len(_BEFORE_ID)
_ID_ENDS = _ID_AT + 36
_BUFFER_AT = _ID_ENDS + len(_AFTER_ID)
_TAIL = '"}}'
# What JSON's decoder reads each text with: from behind its quotation mark to behind the next one.
_read_text: Callable[[str, int], tuple[str, int]] = json.decoder.scanstring  # type: ignore[attr-defined]


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
    return _as_packed(body) or _as_json(body)


def _as_packed(body: bytes) -> TaskMessage | None:
    """A task message that is written as `pack_task` would; None for any other.

    What surrounds its two texts is compared and not read, which takes half of the time.
    """
    if not isinstance(body, bytes) or len(body) > lines.LARGE:
        return None
    if not (body.startswith(_BEFORE_ID) and body.startswith(_AFTER_ID, _ID_ENDS)):
        return None
    try:
        text = body.decode()
        task_buffer, end = _read_text(text, _BUFFER_AT)
    except ValueError:  # what is wrong with it shall be said in the words of the other way
        return None
    # A half of a surrogate pair can be named by a number only, which these texts do not need.
    if text[end - 1 :] != _TAIL or "\\u" in text:
        return None
    task_id = text[_ID_AT:_ID_ENDS]
    if envelope.read_uuid(task_id) != task_id:
        return None
    return TaskMessage(task_id, task_buffer)


def _as_json(body: bytes) -> TaskMessage:
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
