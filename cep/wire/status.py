"""The endpoint's status report, sent with every heartbeat. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cep.errors import WireError
from cep.wire import envelope
from cep.wire.result import Transition, read_transitions, transition_data

MESSAGE_TYPE = "ep_status_report"


@dataclass(frozen=True, slots=True)
class StatusReport:
    """A status report as it travels.

    Attributes:
        endpoint_id: UUID, canonical text.
        global_state: Figures about engine and endpoint, `heartbeat_period` and `active` included.
        task_statuses: Per task id the transitions seen since the last report.
    """

    endpoint_id: str
    global_state: Mapping[str, Any]
    task_statuses: Mapping[str, tuple[Transition, ...]]


def pack_status_report(
    endpoint_id: str,
    global_state: Mapping[str, Any],
    task_statuses: Mapping[str, Sequence[Transition]] | None = None,
) -> bytes:
    """Pack a status report, byte for byte as globus-compute-common 1.0.0 does.

    Args:
        endpoint_id: UUID, canonical text.
        global_state: JSON object.
        task_statuses: Per task id its transitions; usually none.
    """
    return envelope.pack(
        MESSAGE_TYPE,
        {
            "endpoint_id": endpoint_id,
            "global_state": global_state,
            "task_statuses": {
                task_id: [transition_data(one) for one in transitions]
                for task_id, transitions in (task_statuses or {}).items()
            },
        },
    )


def unpack_status_report(body: bytes) -> StatusReport:
    """Open a status report; the older field name `ep_status_report` is understood too.

    Raises:
        WireError: It is not one.
    """
    data = envelope.expect(body, MESSAGE_TYPE)
    endpoint_id = envelope.read_uuid(data.get("endpoint_id"))
    if endpoint_id is None:
        raise WireError("The status report has no UUID in 'endpoint_id'.")
    state = data.get("ep_status_report", data.get("global_state"))
    if not isinstance(state, dict):
        raise WireError("The status report has no object in 'global_state'.")
    statuses = data.get("task_statuses")
    if not isinstance(statuses, dict):
        raise WireError("The status report has no object in 'task_statuses'.")
    return StatusReport(
        endpoint_id=endpoint_id,
        global_state=state,
        task_statuses={
            task_id: read_transitions(items, "task_statuses", envelope.read_uuid(task_id))
            for task_id, items in statuses.items()
        },
    )
