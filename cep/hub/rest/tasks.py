"""Tasks: submit, look up, batch status, task groups; and the address of the result queues."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from cep.errors import CepError, TemporaryFailure, WireError
from cep.hub import housekeeping, ledger, records, topology
from cep.hub.ledger import TaskRow
from cep.hub.records import Client, Endpoint
from cep.hub.rest.errors import Refusal, bad_request, unprocessable
from cep.hub.rest.requests import (
    SUBMIT_BODY,
    as_uuid,
    compute_client,
    field,
    find_endpoint,
    parse_object,
    path_uuid,
    read_body,
    read_object,
    services_of,
    uuid_field,
    uuid_list,
)
from cep.hub.schema import WAITING
from cep.hub.submit import Attempt, Submitter, specification_text
from cep.hub.submit import Request as SubmitRequest
from cep.wire.buffers import unpack_buffers
from cep.wire.result import unpack_result

_MOST_TASKS = 20_000  # per submit; the Executor sends 128 at a time
_RESULT_IN_THREAD = 256 * 1024


# Submit -----------------------------------------------------------------------------------


def _payloads(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Return function id and packed arguments of each task, in the order of the body."""
    tasks = field(body, "tasks", dict)
    if not tasks:
        raise unprocessable("The field 'tasks' is missing or empty.")
    # Counted before anything is looked at: to check millions would hold everybody up.
    count = sum(len(values) if isinstance(values, list) else 1 for values in tasks.values())
    if count > _MOST_TASKS:
        raise Refusal(
            413,
            "TOO_MANY_TASKS",
            f"The submit has {count} tasks; {_MOST_TASKS} at a time are taken.",
        )
    payloads: list[tuple[str, str]] = []
    for key, values in tasks.items():
        function_id = as_uuid(key, "A key of the field 'tasks'")
        if not isinstance(values, list) or not values:
            raise unprocessable(f"The tasks of function {function_id} are not a list.")
        for one in values:
            _check_arguments(one, function_id)
            payloads.append((function_id, one))
    return payloads


def _check_arguments(packed: object, function_id: str) -> None:
    try:
        count = len(unpack_buffers(packed)) if isinstance(packed, str) else 0
    except WireError:
        count = 0
    if count != 2:
        raise unprocessable(
            f"A task of function {function_id} is not the packed pair of its arguments."
        )


def _serializers(body: dict[str, Any]) -> tuple[str, ...]:
    values = field(body, "result_serializers", list) or []
    if not all(isinstance(one, str) for one in values):
        raise unprocessable("The field 'result_serializers' is not a list of texts.")
    return tuple(values)


async def _code(
    request: Request, client: Client, endpoint: Endpoint, function_ids: list[str]
) -> dict[str, str]:
    """Return the packed code of the functions, all of which the client may run there."""
    store = services_of(request).store
    code = await store.call(records.usable_functions, client.client_id, function_ids)
    missing = [one for one in function_ids if one not in code]
    if missing:
        known = await store.call(records.known_functions, missing)
        unknown = [one for one in missing if one not in known]
        if unknown:
            raise Refusal(
                404, "FUNCTION_NOT_FOUND", f"There is no function {unknown[0]}.", *unknown
            )
        raise Refusal(
            403,
            "FUNCTION_FORBIDDEN",
            f"The function {missing[0]} belongs to somebody else.",
            *missing,
        )
    allowed = endpoint.allowed_functions
    if allowed is not None:
        refused = [one for one in function_ids if one not in allowed]
        if refused:
            raise Refusal(
                403,
                "FUNCTION_NOT_PERMITTED",
                f"The function {refused[0]} is not permitted on endpoint {endpoint.endpoint_id}.",
                *refused,
                endpoint.endpoint_id,
            )
    return code


async def _checked_submit(
    request: Request, client: Client, endpoint: Endpoint, raw: bytes
) -> tuple[SubmitRequest, dict[str, Any]]:
    body = await parse_object(raw)
    if field(body, "user_endpoint_config", dict):
        raise Refusal(
            422,
            "NO_CONFIG_TEMPLATE",
            f"The endpoint {endpoint.endpoint_id} has a fixed configuration and no template, so it "
            "cannot take a 'user_endpoint_config'; leave it out.",
            endpoint.endpoint_id,
        )
    payloads = _payloads(body)
    group = uuid_field(body, "task_group_id")
    if group is not None:
        owner = await services_of(request).store.call(ledger.group_owner, group)
        if owner not in (None, client.client_id):
            raise Refusal(
                403,
                "TASK_GROUP_FORBIDDEN",
                f"The task group {group} belongs to somebody else.",
                group,
            )
    function_ids = list(dict.fromkeys(function_id for function_id, _ in payloads))
    checked = SubmitRequest(
        client_id=client.client_id,
        endpoint_id=endpoint.endpoint_id,
        task_group_id=group or str(uuid.uuid4()),
        create_queue=bool(field(body, "create_queue", bool)),
        payloads=payloads,
        code=await _code(request, client, endpoint, function_ids),
        resource_specification=specification_text(field(body, "resource_specification", dict)),
        result_serializers=_serializers(body),
        digest=hashlib.sha256(endpoint.endpoint_id.encode() + raw).hexdigest(),
    )
    return checked, body


#: A client hears of a passing failure no later, whatever becomes of the note for other hubs.
_NOTED_S = 10.0


class _SubmitAnswer(JSONResponse):
    """An answer that tells the submitter whether the client was still there to get it."""

    def __init__(
        self, content: Any, submitter: Submitter, attempt: Attempt, gone: asyncio.Task[None]
    ) -> None:
        super().__init__(content)
        self._submitter = submitter
        self._attempt = attempt
        self._gone = gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        was_there = not self._gone.done()
        self._gone.cancel()
        try:
            await super().__call__(scope, receive, send)
        except BaseException:
            self._submitter.orphan(self._attempt)
            raise
        if was_there:
            self._submitter.answered(self._attempt)


async def _submit(request: Request) -> Response:
    client = await compute_client(request)
    endpoint = await find_endpoint(request, client)
    raw = await read_body(request, SUBMIT_BODY)
    checked, body = await _checked_submit(request, client, endpoint, raw)
    services = services_of(request)
    services.audit.require()
    submitter = services.submitter
    if await request.is_disconnected():
        # Nothing has been done yet, so that its repeat can be taken as a new submit.
        raise bad_request("The client went away before its submit was begun.")
    attempt = await submitter.begin(checked)
    assert attempt.outcome is not None
    gone = asyncio.get_running_loop().create_task(_watch(request, submitter, attempt))
    try:
        # The work goes on when this request is given up: its repeat will want the outcome.
        accepted = await asyncio.shield(attempt.outcome)
    except BaseException as exc:
        gone.cancel()
        if isinstance(exc, CepError) and not isinstance(exc, TemporaryFailure):
            submitter.refuse(attempt)
        else:
            noted = submitter.orphan(attempt)
            if noted is not None and isinstance(exc, CepError):
                await asyncio.wait({noted}, timeout=_NOTED_S)
        raise
    functions = (function_id for function_id, _ in checked.payloads)
    pairs = list(zip(accepted.task_ids, functions, strict=True))
    services.audit.submitted(request, endpoint.endpoint_id, accepted.task_group_id, pairs)
    ids = iter(accepted.task_ids)
    tasks = {key: [next(ids) for _ in values] for key, values in body["tasks"].items()}
    answer = {
        "request_id": str(uuid.uuid4()),
        "task_group_id": accepted.task_group_id,
        "endpoint_id": endpoint.endpoint_id,
        "tasks": tasks,
    }
    return _SubmitAnswer(answer, submitter, attempt, gone)


async def _watch(request: Request, submitter: Submitter, attempt: Attempt) -> None:
    """End when the client goes away before it has its answer."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    submitter.orphan(attempt)


# Look up ----------------------------------------------------------------------------------


def _task_status(row: TaskRow, online: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "task_id": row.task_id,
        "task_group_id": row.task_group_id,
        "function_id": row.function_id,
        "endpoint_id": row.endpoint_id,
    }
    if row.state == WAITING or row.body is None:
        answer["status"] = "waiting-for-nodes" if online else "waiting-for-ep"
        return answer
    result = unpack_result(row.body)
    answer["status"] = row.state
    answer["completion_t"] = str(row.completed_at)
    answer["details"] = {**(result.details or {}), "endpoint_id": row.endpoint_id}
    answer["exception" if result.is_error else "result"] = result.data
    return answer


async def _statuses(request: Request, rows: list[TaskRow]) -> dict[str, dict[str, Any]]:
    directory = services_of(request).directory
    ids = {row.endpoint_id for row in rows}
    endpoints = {endpoint_id: await directory.known(endpoint_id) for endpoint_id in ids}
    online = {key: one is not None and directory.is_online(one) for key, one in endpoints.items()}

    def build() -> dict[str, dict[str, Any]]:
        return {row.task_id: _task_status(row, online[row.endpoint_id]) for row in rows}

    if sum(len(row.body or b"") for row in rows) > _RESULT_IN_THREAD:
        return await asyncio.to_thread(build)
    return build()


async def _note_fetched(request: Request, rows: list[TaskRow]) -> None:
    """From now on the results count as fetched, and are kept for a shorter time."""
    services = services_of(request)
    ids = [row.task_id for row in rows if row.body is not None]
    if ids:
        await services.store.call(housekeeping.mark_fetched, ids, services.clock())


async def _task(request: Request) -> Response:
    client = await compute_client(request)
    task_id = path_uuid(request, "task_id", "task")
    rows = await services_of(request).store.call(ledger.find_tasks, [task_id], client.client_id)
    if not rows:
        raise Refusal(404, "TASK_NOT_FOUND", f"There is no task {task_id}.", task_id)
    answer = (await _statuses(request, rows))[task_id]
    await _note_fetched(request, rows)
    return JSONResponse(answer)


async def _batch_status(request: Request) -> Response:
    client = await compute_client(request)
    task_ids = uuid_list(await read_object(request), "task_ids")
    if task_ids is None:
        raise unprocessable("The field 'task_ids' is missing.")
    wanted = list(dict.fromkeys(task_ids))
    rows = await services_of(request).store.call(ledger.find_tasks, wanted, client.client_id)
    found = await _statuses(request, rows)
    await _note_fetched(request, rows)
    for task_id in wanted:
        if task_id not in found:
            found[task_id] = {
                "task_id": task_id,
                "status": "failed",
                "reason": f"There is no task {task_id}.",
            }
    return JSONResponse({"response": "batch", "results": found})


async def _task_group(request: Request) -> Response:
    client = await compute_client(request)
    group = path_uuid(request, "task_group_id", "task_group")
    services = services_of(request)
    owner = await services.store.call(ledger.group_owner, group)
    if owner is None:
        raise Refusal(404, "TASK_GROUP_NOT_FOUND", f"There is no task group {group}.", group)
    if owner != client.client_id:
        raise Refusal(
            403, "TASK_GROUP_FORBIDDEN", f"The task group {group} belongs to somebody else.", group
        )
    # Who asks is an Executor that takes the group up again: it waits on the queue next.
    await services.submitter.make_queue(client.client_id, group)
    await services.store.call(ledger.mark_queue, group)
    ids = await services.store.call(ledger.group_tasks, group)
    return JSONResponse({"taskgroup_id": group, "tasks": [{"id": one} for one in ids]})


async def _result_queues(request: Request) -> Response:
    client = await compute_client(request)
    services = services_of(request)
    user, password = topology.client_user(client.client_id), services.access.amqp_password(client)
    await services.accounts.admit_client(client.client_id, password)
    # As for endpoints: who disables or rotates a client changes the store first.
    present = await services.access.known(client.client_id)
    if present is None or present.disabled or present.generation != client.generation:
        await services.accounts.remove(user)
        raise Refusal(401, "NOT_AUTHENTICATED", "The client was changed a moment ago.")
    url = services.addresses.amqp_url(user, password, request.url.hostname)
    return JSONResponse(
        {"queue_prefix": topology.group_prefix(client.client_id), "connection_url": url}
    )


routes = [
    Route("/v3/endpoints/{endpoint_id}/submit", _submit, methods=["POST"]),
    Route("/v2/tasks/{task_id}", _task, methods=["GET"]),
    Route("/v2/batch_status", _batch_status, methods=["POST"]),
    Route("/v2/taskgroup/{task_group_id}", _task_group, methods=["GET"]),
    Route("/v2/get_amqp_result_connection_url", _result_queues, methods=["GET"]),
]
