"""The result message: a value or an error, where it ran, and when. Pure functions.

A result is an error exactly when it has error details; its `data` is then text for people, and
otherwise one serialized buffer.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cep.errors import WireError
from cep.wire import envelope
from cep.wire.envelope import Encoded, encode
from cep.wire.lines import Written

MESSAGE_TYPE = "result"

# Codes the published endpoint 4.19 uses; the SDK and the service know them.
REMOTE_EXECUTION_ERROR = "RemoteExecutionError"
MAX_RESULT_SIZE = "MaxResultSizeExceeded"
COULD_NOT_EXECUTE = "CouldNotExecuteUserTaskError"
FUNCTION_NOT_ALLOWED = "FUNCTION_NOT_ALLOWED"
UNKNOWN_TASK_FAILURE = "UNKNOWN_TASK_FAILURE"
# Ours.
ENDPOINT_RESTARTED = "ENDPOINT_RESTARTED"
WORKER_LOST = "WORKER_LOST"
BLOCK_LOST = "BLOCK_LOST"
BLOCKS_PAUSED = "BLOCKS_PAUSED"
TASK_TOO_LARGE = "TASK_TOO_LARGE"
TASK_REFUSED = "TASK_REFUSED"

# The one sentence the published endpoint gives with RemoteExecutionError.
EXECUTION_ERROR_MESSAGE = "An error occurred during the execution of this task"

# Source: globus-compute-common 1.0.0, tasks.constants.
STATES = frozenset(
    (
        "received",
        "waiting-for-ep",
        "waiting-for-nodes",
        "waiting-for-launch",
        "execution-start",
        "execution-end",
        "running",
        "success",
        "failed",
        "result-received",
        "result-enqueued",
        "action-provider-received",
        "action-provider-task-submitted",
        "action-provider-task-group-in-progress",
        "action-provider-task-group-completed",
        "action-provider-task-group-error",
    )
)
ACTORS = frozenset(
    (
        "worker",
        "manager",
        "interchange",
        "endpoint",
        "result-processor",
        "web-service",
        "action-provider",
    )
)


class Transition(NamedTuple):
    """A task changed its state.

    Attributes:
        timestamp_ns: Nanoseconds since the epoch.
        state: One of `STATES`.
        actor: One of `ACTORS`.
    """

    timestamp_ns: int
    state: str
    actor: str


@dataclass(frozen=True, slots=True)
class ResultMessage:
    """A result as it travels.

    Attributes:
        task_id: UUID, canonical text.
        data: A serialized buffer, or the error's text when `error_code` is set.
        details: Where it ran; None when the sender said nothing.
        error_code: None for a success.
        user_message: The sentence for the user, with `error_code`.
        transitions: What the sender saw of the task's states.
    """

    task_id: str
    data: str
    details: Mapping[str, Any] | None = None
    error_code: str | None = None
    user_message: str | None = None
    transitions: tuple[Transition, ...] = field(default_factory=tuple)

    @property
    def is_error(self) -> bool:
        """Whether the task failed."""
        return self.error_code is not None


def transition_data(transition: Transition) -> dict[str, Any]:
    """Return a transition as its JSON object."""
    return {
        "timestamp": transition.timestamp_ns,
        "state": transition.state,
        "actor": transition.actor,
    }


def _encode_transitions(transitions: Sequence[Transition] | None) -> str:
    """The JSON text of a list of `transition_data`, without the way over an object for each."""
    if transitions is None:
        return "null"
    inner = ",".join(
        [
            f'{{"timestamp":{encode(timestamp_ns)},{_encode_state(state, actor)}}}'
            for timestamp_ns, state, actor in transitions
        ]
    )
    return f"[{inner}]"


@functools.lru_cache(maxsize=64)  # there are some ten
def _encode_state(state: str, actor: str) -> str:
    return f'"state":{encode(state)},"actor":{encode(actor)}'


def read_transitions(value: object, what: str, task_id: str | None) -> tuple[Transition, ...]:
    """Read a list of transitions.

    Args:
        value: What stood in the message.
        what: Name of the field, for the error.
        task_id: The task, for the error.

    Raises:
        WireError: It is not a list of transitions.
    """
    if not isinstance(value, list):
        raise WireError(f"The field {what!r} is not a list.", task_id=task_id)
    found = []
    for item in value:
        timestamp = item.get("timestamp") if isinstance(item, dict) else None
        if (
            not isinstance(item, dict)
            or not isinstance(timestamp, int)
            or isinstance(timestamp, bool)
            or not _known(item.get("state"), STATES)
            or not _known(item.get("actor"), ACTORS)
        ):
            raise WireError(
                f"The field {what!r} holds something that is not a task transition.",
                task_id=task_id,
            )
        found.append(Transition(timestamp, item["state"], item["actor"]))
    return tuple(found)


def _known(value: object, names: frozenset[str]) -> bool:
    return isinstance(value, str) and value in names


def pack_result(
    task_id: str,
    data: str | Written,
    *,
    details: Mapping[str, Any] | Encoded | None = None,
    error: tuple[str, str] | None = None,
    transitions: Sequence[Transition] | None = (),
) -> bytes:
    """Pack a result message, byte for byte as globus-compute-common 1.0.0 does.

    Args:
        task_id: UUID, canonical text.
        data: Serialized buffer, or text for people when `error` is given.
        details: JSON object about the place of execution, or its text.
        error: Code and user message, for a failure.
        transitions: In order of time; None is sent as null.
    """
    if type(data) is Written:
        return envelope.pack_around(
            MESSAGE_TYPE,
            {
                "task_id": task_id,
                "data": data,
                "details": details,
                "error_details": _error_data(error),
                "task_statuses": Encoded(_encode_transitions(transitions)),
            },
        )
    try:
        # As `envelope.pack` would, in half of its time: there is one for each task.
        failure = "null" if error is None else encode(_error_data(error))
        text = (
            f'{{"message_type":"result","data":{{"task_id":{encode(task_id)},"data":{encode(data)},'
            f'"details":{encode(details)},"error_details":{failure},'
            f'"task_statuses":{_encode_transitions(transitions)}}}}}'
        )
    except (TypeError, ValueError, RecursionError) as exc:
        raise envelope.no_word(MESSAGE_TYPE, exc) from exc
    return envelope.VERSION_BYTE + envelope.to_utf8(text)


def _error_data(error: tuple[str, str] | None) -> dict[str, str] | None:
    return None if error is None else {"code": error[0], "user_message": error[1]}


def error_result(
    task_id: str,
    code: str,
    text: str,
    *,
    user_message: str | None = None,
    details: Mapping[str, Any] | None = None,
    actor: str = "interchange",
) -> bytes:
    """Pack the answer to a task that never came to run, or whose end nobody saw.

    Args:
        task_id: UUID, canonical text.
        code: One of the codes above.
        text: What happened, in full sentences; the SDK shows it as the exception's text.
        user_message: A shorter sentence; default `text`, or the published one for
            `RemoteExecutionError`.
        details: JSON object about the place.
        actor: Who noticed, one of `ACTORS`.
    """
    if user_message is None:
        user_message = EXECUTION_ERROR_MESSAGE if code == REMOTE_EXECUTION_ERROR else text
    return pack_result(
        task_id,
        text,
        details=details,
        error=(code, user_message),
        transitions=(Transition(time.time_ns(), "execution-end", actor),),
    )


_ERROR_KEY = b'"error_details":'
_ERROR_CODE = re.compile(rb'\{"code":"([^"\\]{1,128})"')


def peek_error(body: bytes) -> str | None:
    """Return the error's code in a message that `pack_result` made, None for a success.

    Without opening it: results may be large. The key cannot stand in any text of the message,
    since a quotation mark in a JSON text has a backslash before it.
    """
    at = body.rfind(_ERROR_KEY)
    if at < 0 or body.startswith(b"null", at + len(_ERROR_KEY)):
        return None
    found = _ERROR_CODE.match(body, at + len(_ERROR_KEY))
    return REMOTE_EXECUTION_ERROR if found is None else found[1].decode("utf-8", "replace")


def unpack_result(body: bytes) -> ResultMessage:
    """Open a result message.

    Raises:
        WireError: It is not one; `task_id` is set when that field was readable.
    """
    data = envelope.expect(body, MESSAGE_TYPE)
    task_id = envelope.read_uuid(data.get("task_id"))
    if task_id is None:
        raise WireError("The result message has no UUID in 'task_id'.")
    text = data.get("data")
    if not isinstance(text, str):
        raise WireError("The result message has no text in 'data'.", task_id=task_id)
    details = data.get("details")
    if details is not None and not isinstance(details, dict):
        raise WireError(
            "The result message's 'details' is neither an object nor null.", task_id=task_id
        )
    error_code = user_message = None
    error = data.get("error_details")
    if error is not None:
        error_code = error.get("code") if isinstance(error, dict) else None
        user_message = error.get("user_message") if isinstance(error, dict) else None
        if not isinstance(error_code, str) or not isinstance(user_message, str):
            raise WireError(
                "The result message's 'error_details' has no texts 'code' and 'user_message'.",
                task_id=task_id,
            )
    statuses = data.get("task_statuses")
    return ResultMessage(
        task_id=task_id,
        data=text,
        details=details,
        error_code=error_code,
        user_message=user_message,
        transitions=(
            () if statuses is None else read_transitions(statuses, "task_statuses", task_id)
        ),
    )
