"""The functions that the benchmarks run, and the messages that carry them.

Functions travel by value in the SDK's default strategy (dill), so workers need nothing of ours.
What is the same for all tasks of a kind is serialized once; only the ids differ.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

from globus_compute_sdk.serialize import ComputeSerializer

from benchmarks.side_by_side.client import Client
from cep.wire.task import pack_task

FUNCTION_ID = "0f0f0f0f-1111-4222-8333-555555555555"
_SOURCES = {
    "no_op": """
def no_op():
    return None
""",
    "same": """
def same(value):
    return value
""",
    "nap": """
def nap(seconds):
    import time
    time.sleep(seconds)
""",
}


def _function(name: str) -> Any:
    """A function as a user's script would define it, so that it travels by value, and alone."""
    found: dict[str, Any] = {"__name__": "__main__"}
    exec(_SOURCES[name], found)
    return found[name]


_serializer = ComputeSerializer()


def payload(name: str, *args: Any) -> str:
    """The packed buffers of a call."""
    parts = [_serializer.serialize(part) for part in (_function(name), args, {})]
    return str(_serializer.pack_buffers(parts))


def no_op() -> str:
    """Nothing, and the answer None."""
    return payload("no_op")


def nap(seconds: float) -> str:
    """Wait, without using the processor."""
    return payload("nap", seconds)


def large(size_bytes: int) -> str:
    """An argument that comes back as the result; the message has about this many bytes.

    Random bytes, so that nothing on the way could compress them; the serializer writes base64.
    """
    return payload("same", os.urandom(max(0, size_bytes - 500) * 3 // 4 * 76 // 77))


def messages(client: Client, buffers: str, count: int) -> list[bytes]:
    """This many tasks with the same payload, ready to be written."""
    made = []
    for _ in range(count):
        task_id = str(uuid.uuid4())
        made.append(client.frames_of(task_id, pack_task(task_id, buffers), FUNCTION_ID))
    return made
