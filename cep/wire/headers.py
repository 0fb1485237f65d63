"""The AMQP headers of a task message. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from cep.errors import WireError
from cep.wire.envelope import DEEPEST, deeper_than, read_uuid

TASK_ID = "task_uuid"
FUNCTION_ID = "function_uuid"
RESOURCE_SPECIFICATION = "resource_specification"
RESULT_SERIALIZERS = "result_serializers"


class TaskHeaders(NamedTuple):
    """What the service says about a task beside its body.

    Attributes:
        task_id: UUID, canonical text.
        function_id: UUID, canonical text.
        resource_specification: JSON text of a non-empty object as sent, else None.
        result_serializers: Import paths of strategies for the result, in order; may be empty.
    """

    task_id: str
    function_id: str
    resource_specification: str | None
    result_serializers: tuple[str, ...]


def parse_task_headers(headers: Mapping[str, object]) -> TaskHeaders:
    """Read a task's headers; headers that are not ours are ignored.

    Raises:
        WireError: An id is missing or not a UUID, the resource specification is not the JSON text
            of an object, or the serializers are not a list of texts. `task_id` is set when that
            header was readable.
    """
    if type(headers) is not dict and not isinstance(headers, Mapping):
        raise WireError("The task message has no headers, so nobody can say whose task it is.")
    task_id = read_uuid(headers.get(TASK_ID))
    if task_id is None:
        raise WireError(f"The task message has no UUID in its header {TASK_ID!r}.")
    function_id = read_uuid(headers.get(FUNCTION_ID))
    if function_id is None:
        raise WireError(
            f"The task message has no UUID in its header {FUNCTION_ID!r}.", task_id=task_id
        )
    wish, serializers = headers.get(RESOURCE_SPECIFICATION), headers.get(RESULT_SERIALIZERS)
    return TaskHeaders(
        task_id,
        function_id,
        None if wish is None else _specification(wish, task_id),
        () if serializers is None else _serializers(serializers, task_id),
    )


def _specification(value: object, task_id: str) -> str | None:
    if value in ("", "null"):
        return None
    wrong = WireError(
        f"The header {RESOURCE_SPECIFICATION!r} is not the JSON text of an object.",
        task_id=task_id,
    )
    if not isinstance(value, str):
        raise wrong
    try:
        content = json.loads(value, parse_constant=_no_constant)
    except (ValueError, RecursionError) as exc:
        raise wrong from exc
    if deeper_than(content, DEEPEST):
        raise wrong
    if content is None:
        return None
    if not isinstance(content, dict):
        raise wrong
    return value if content else None


def _no_constant(name: str) -> NoReturn:
    # NaN as a priority would upset every order it takes part in.
    raise ValueError(f"{name} is not JSON")


def _serializers(value: object, task_id: str) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) for one in value):
        raise WireError(
            f"The header {RESULT_SERIALIZERS!r} is not a list of texts.", task_id=task_id
        )
    return tuple(value)
