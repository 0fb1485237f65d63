"""The answer to a task whose body, or whose result's body, is gone from the journal's directory."""

from __future__ import annotations

from cep.wire.result import UNKNOWN_TASK_FAILURE, error_result

LOST_BODY = (
    "The endpoint's journal lost the body of this task or of its result: its file was removed or "
    "cut short. The endpoint's owner finds more in its log."
)


def lost_body(task_id: str) -> bytes:
    """Return the error result that takes the place of what was lost."""
    return error_result(task_id, UNKNOWN_TASK_FAILURE, LOST_BODY)
