"""Make the golden vectors with the official packages.

Run `python -m tests.unit.golden.make` and look at the difference before you commit it: a changed
vector is a changed protocol. What is made here does not depend on the Python version.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("vectors.json")
TASK_ID = "5b0c2e2e-1111-4222-8333-000000000001"
ENDPOINT_ID = "1f0e9a52-1111-4222-8333-000000000002"
TEXTS = ["", "plain", 'line\nbreak\ttab "quoted" back\\slash', "ÄÖ€ 漢字 😀", "\x00\x1f\x7f\u2028"]
VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2**70,
    1.5,
    "text",
    "ÄÖ€😀",
    b"bytes",
    b"x" * 200,
    [1, [2, [3]]],
    {"a": (1, 2), "b": {"c": None}},
    (1,),
    set(),
    frozenset((1,)),
    "y" * 70_000,
    list(range(1500)),
]
TRANSITIONS = [
    (1795341330000000000, "execution-start", "worker"),
    (1795341330000900000, "execution-end", "worker"),
]


def wire() -> dict[str, Any]:
    """Messages as globus-compute-common packs them, in hexadecimal."""
    from globus_compute_common import messagepack
    from globus_compute_common.messagepack.message_types import (
        EPStatusReport,
        Result,
        ResultErrorDetails,
        Task,
        TaskTransition,
    )

    task_id, endpoint_id = uuid.UUID(TASK_ID), uuid.UUID(ENDPOINT_ID)
    transitions = [TaskTransition(timestamp=t, state=s, actor=a) for t, s, a in TRANSITIONS]
    details = {"os": "Linux ÄÖ", "dill_version": "0.3.9", "endpoint_id": endpoint_id}
    made = {"task": [Task(task_id=task_id, task_buffer=text) for text in TEXTS]}
    made["result"] = [Result(task_id=task_id, data=text) for text in TEXTS]
    made["result_full"] = [
        Result(task_id=task_id, data=text, details=details, task_statuses=transitions)
        for text in TEXTS
    ]
    made["result_error"] = [
        Result(
            task_id=task_id,
            data=text,
            details=details,
            error_details=ResultErrorDetails(code="RemoteExecutionError", user_message=text),
            task_statuses=[],
        )
        for text in TEXTS
    ]
    made["status"] = [
        EPStatusReport(
            endpoint_id=endpoint_id,
            global_state={"total_mem": 23.5, "active": True, "text": text, "nothing": None},
            task_statuses={TASK_ID: transitions},
        )
        for text in TEXTS
    ]
    return {
        name: [messagepack.pack(message).hex() for message in messages]
        for name, messages in made.items()
    }


def serialized() -> dict[str, Any]:
    """Values as the SDK's serializer writes them for results."""
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData

    data, as_json = ComputeSerializer(), ComputeSerializer(strategy_data=JSONData)
    jsonable = [value for value in VALUES if _is_json(value)]
    return {
        "dill": [data.serialize(value) for value in VALUES],
        "json": [as_json.serialize(value) for value in jsonable],
        "packed": [
            data.pack_buffers(TEXTS),
            data.pack_buffers(data.serialize(value) for value in ((1,), {"b": 41})),
        ],
    }


def _is_json(value: object) -> bool:
    try:
        json.dumps(value)
    except TypeError:
        return False
    return True


def vectors() -> dict[str, Any]:
    """Everything in the file."""
    return {"wire": wire(), "serialized": serialized()}


if __name__ == "__main__":
    FILE.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="ascii")
