"""Every route of the hub: what it answers to good requests, and how it refuses bad ones."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from cep.wire.buffers import unpack_buffers
from cep.wire.headers import parse_task_headers
from cep.wire.task import unpack_task
from tests.unit.hub_rig import ARGUMENTS, Answer, Hub, run, submit_body

NOBODY = str(uuid.uuid4())


def check_refusal(answer: Answer, status: int, code: str | None = None) -> None:
    """The answer has the status and the one error shape that every client version reads."""
    assert answer.status == status, answer.raw
    body = answer.json
    assert isinstance(body["code"], str)
    assert isinstance(body["message"], str)
    assert body["reason"] == body["message"]
    assert body["http_status_code"] == status
    assert body["status"] == "Failed"
    assert isinstance(body["error_args"], list)
    if code is not None:
        assert body["code"] == code


def test_version_needs_no_login_and_names_the_least_versions(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        answer = await hub.request("GET", "/v2/version?service=all")
        assert answer.status == 200
        assert {"min_ep_version", "min_sdk_version"} <= set(answer.json)

    run(work, tmp_path)


def test_every_route_of_the_service_wants_a_token(tmp_path: Path) -> None:
    routes = [
        ("POST", "/v3/endpoints"),
        ("PUT", f"/v3/endpoints/{NOBODY}"),
        ("GET", "/v2/endpoints"),
        ("GET", f"/v2/endpoints/{NOBODY}"),
        ("GET", f"/v2/endpoints/{NOBODY}/status"),
        ("POST", f"/v3/endpoints/{NOBODY}/lock"),
        ("POST", f"/v2/endpoints/{NOBODY}/lock"),
        ("DELETE", f"/v2/endpoints/{NOBODY}"),
        ("GET", f"/v3/endpoints/{NOBODY}/allowed_functions"),
        ("GET", f"/v2/endpoints/{NOBODY}/whitelist"),
        ("POST", f"/v2/endpoints/{NOBODY}/whitelist"),
        ("DELETE", f"/v2/endpoints/{NOBODY}/whitelist/{NOBODY}"),
        ("POST", "/v3/functions"),
        ("POST", "/v2/functions"),
        ("GET", f"/v2/functions/{NOBODY}"),
        ("DELETE", f"/v2/functions/{NOBODY}"),
        ("POST", f"/v3/endpoints/{NOBODY}/submit"),
        ("GET", "/v2/get_amqp_result_connection_url"),
        ("GET", f"/v2/tasks/{NOBODY}"),
        ("POST", "/v2/batch_status"),
        ("GET", f"/v2/taskgroup/{NOBODY}"),
        ("POST", "/v2/containers"),
        ("POST", "/v2/get_containers"),
        ("POST", "/v2/containers/build"),
        ("GET", f"/v2/containers/{NOBODY}/docker"),
        ("GET", f"/v2/containers/build/{NOBODY}"),
        ("GET", "/v2/oauth2/userinfo"),
        ("GET", "/v2/api/identities"),
    ]

    async def work(hub: Hub) -> None:
        for method, path in routes:
            check_refusal(await hub.request(method, path), 401, "NOT_AUTHENTICATED")
            wrong = {"authorization": "Bearer guessed"}
            check_refusal(await hub.request(method, path, headers=wrong), 401)

    run(work, tmp_path)


def test_unknown_paths_and_methods_have_the_error_shape(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        check_refusal(await hub.request("GET", "/v9/nothing"), 404, "NO_SUCH_ROUTE")
        check_refusal(await hub.request("PATCH", "/v2/version"), 405, "METHOD_NOT_ALLOWED")

    run(work, tmp_path)


def test_a_registration_answers_all_queue_blocks(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        answer = await hub.call(
            "POST", "/v3/endpoints", {"endpoint_name": "site", "metadata": {"hostname": "h"}}
        )
        body = answer.json
        endpoint_id = body["endpoint_id"]
        assert str(uuid.UUID(endpoint_id)) == endpoint_id
        assert body["task_queue_info"]["queue"] in hub.messaging.queues
        for block in ("result_queue_info", "heartbeat_queue_info"):
            kwargs = body[block]["queue_publish_kwargs"]
            bound = (body[block]["queue"], kwargs["exchange"], kwargs["routing_key"])
            assert bound in hub.messaging.bindings
            assert kwargs["mandatory"] is True
        assert body["task_queue_info"]["connection_url"].startswith("amqp://endpoint.")

    run(work, tmp_path)


def test_registering_again_rotates_the_password_and_drops_the_old_connections(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        content = {"endpoint_name": "site"}
        first = (await hub.call("POST", "/v3/endpoints", content)).json
        again = (await hub.call("PUT", f"/v3/endpoints/{first['endpoint_id']}", content)).json
        assert again["endpoint_id"] == first["endpoint_id"]
        urls = [one["task_queue_info"]["connection_url"] for one in (first, again)]
        assert urls[0] != urls[1]
        assert hub.dropped[-1] == f"endpoint.{first['endpoint_id']}"

    run(work, tmp_path)


def test_an_id_the_hub_has_never_seen_is_taken_as_it_is(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        answer = await hub.call("PUT", f"/v3/endpoints/{NOBODY}", {"endpoint_name": "site"})
        assert answer.json["endpoint_id"] == NOBODY

    run(work, tmp_path)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b'{"endpoint_name": NaN}', 400),
        (b'{"endpoint_name": "a", "metadata": {"x": 1e999}}', 400),
        (b'{"endpoint_name": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"endpoint_name": ' + b"9" * 10_000 + b"}", 400),
        ({}, 422),
        ({"endpoint_name": ""}, 422),
        ({"endpoint_name": 7}, 422),
        ({"endpoint_name": "x" * 200}, 422),
        ({"endpoint_name": "a", "display_name": []}, 422),
        ({"endpoint_name": "a", "metadata": "text"}, 422),
        ({"endpoint_name": "a", "public": "yes"}, 422),
        ({"endpoint_name": "a", "allowed_functions": ["no uuid"]}, 422),
        ({"endpoint_name": "a", "allowed_functions": {}}, 422),
        ({"endpoint_name": "a", "admins": [1]}, 422),
        ({"endpoint_name": "a", "multi_user": True}, 422),
        ({"endpoint_name": "a", "metadata": {"user_config_template": "engine:"}}, 422),
        ({"endpoint_name": "a", "authentication_policy": NOBODY}, 422),
        (b'{"endpoint_name": "' + b"x" * (1 << 20) + b'"}', 413),
    ],
)
def test_a_wrong_registration_is_refused(
    tmp_path: Path, content: bytes | dict[str, object], status: int
) -> None:
    async def work(hub: Hub) -> None:
        check_refusal(await hub.call("POST", "/v3/endpoints", content), status)
        assert (await hub.call("GET", "/v2/endpoints")).json == []

    run(work, tmp_path)


def test_an_endpoint_is_its_owners_only(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        function_id = await hub.function(as_="bob")
        for method, path, content in [
            ("PUT", f"/v3/endpoints/{endpoint_id}", {"endpoint_name": "site"}),
            ("GET", f"/v2/endpoints/{endpoint_id}", None),
            ("GET", f"/v2/endpoints/{endpoint_id}/status", None),
            ("POST", f"/v3/endpoints/{endpoint_id}/lock", None),
            ("DELETE", f"/v2/endpoints/{endpoint_id}", None),
            ("GET", f"/v3/endpoints/{endpoint_id}/allowed_functions", None),
            ("POST", f"/v2/endpoints/{endpoint_id}/whitelist", {"func": [function_id]}),
            ("DELETE", f"/v2/endpoints/{endpoint_id}/whitelist/{function_id}", None),
            ("POST", f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)),
        ]:
            answer = await hub.call(method, path, content, as_="bob")
            check_refusal(answer, 403, "ENDPOINT_FORBIDDEN")
        assert (await hub.call("GET", "/v2/endpoints?role=any", as_="bob")).json == []

    run(work, tmp_path)


def test_a_public_endpoint_takes_tasks_of_others_but_is_not_theirs(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint(public=True)
        function_id = await hub.function(as_="bob")
        path = f"/v3/endpoints/{endpoint_id}/submit"
        assert (await hub.call("POST", path, submit_body(function_id), as_="bob")).status == 200
        check_refusal(await hub.call("DELETE", f"/v2/endpoints/{endpoint_id}", as_="bob"), 403)
        listed = (await hub.call("GET", "/v2/endpoints?role=any", as_="bob")).json
        assert [one["uuid"] for one in listed] == [endpoint_id]
        assert (await hub.call("GET", "/v2/endpoints?role=owner", as_="bob")).json == []

    run(work, tmp_path)


def test_unknown_endpoints_are_not_found(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        for one in (NOBODY, "not-a-uuid"):
            answer = await hub.call("GET", f"/v2/endpoints/{one}/status")
            check_refusal(answer, 404, "ENDPOINT_NOT_FOUND")

    run(work, tmp_path)


def test_a_locked_endpoint_is_offline_cut_off_and_may_not_register_for_a_while(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        hub.dropped.clear()
        assert (await hub.call("POST", f"/v3/endpoints/{endpoint_id}/lock")).status == 200
        assert hub.dropped == [f"endpoint.{endpoint_id}"]
        path, content = f"/v3/endpoints/{endpoint_id}", {"endpoint_name": "site"}
        check_refusal(await hub.call("PUT", path, content), 423, "ENDPOINT_LOCKED")
        hub.now[0] += 61
        assert (await hub.call("PUT", path, content)).status == 200

    run(work, tmp_path)


def test_a_deleted_endpoint_is_gone_and_its_waiting_tasks_fail(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        function_id = await hub.function()
        submitted = await hub.call(
            "POST", f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)
        )
        task_id = submitted.json["tasks"][function_id][0]
        assert (await hub.call("DELETE", f"/v2/endpoints/{endpoint_id}")).status == 200
        check_refusal(await hub.call("GET", f"/v2/endpoints/{endpoint_id}"), 404)
        task = (await hub.call("GET", f"/v2/tasks/{task_id}")).json
        assert task["status"] == "failed"
        assert "was deleted" in task["exception"]
        assert f"{endpoint_id}.tasks" not in hub.messaging.queues
        content = {"endpoint_name": "site"}
        check_refusal(await hub.call("PUT", f"/v3/endpoints/{endpoint_id}", content), 404)

    run(work, tmp_path)


def test_details_and_lists_show_the_endpoint(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint("site", display_name="Our site", metadata={"a": 1})
        details = (await hub.call("GET", f"/v2/endpoints/{endpoint_id}")).json
        assert (details["uuid"], details["name"]) == (endpoint_id, "site")
        assert details["display_name"] == "Our site"
        assert details["metadata"] == {"a": 1}
        assert [one["uuid"] for one in (await hub.call("GET", "/v2/endpoints")).json] == [
            endpoint_id
        ]
        check_refusal(await hub.call("GET", "/v2/endpoints?role=king"), 422)

    run(work, tmp_path)


def test_the_allow_list_is_kept_and_enforced(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        good, other = await hub.function(), await hub.function()
        endpoint_id = await hub.endpoint(allowed_functions=[good])
        submit = f"/v3/endpoints/{endpoint_id}/submit"
        listed = (await hub.call("GET", f"/v3/endpoints/{endpoint_id}/allowed_functions")).json
        assert listed["functions"] == [good]
        assert listed["restricted"] is True
        refused = await hub.call("POST", submit, submit_body(other))
        check_refusal(refused, 403, "FUNCTION_NOT_PERMITTED")
        whitelist = f"/v2/endpoints/{endpoint_id}/whitelist"
        assert (await hub.call("POST", whitelist, {"func": [other]})).status == 200
        assert (await hub.call("POST", submit, submit_body(other))).status == 200
        await hub.call("DELETE", f"{whitelist}/{good}")
        assert (await hub.call("GET", whitelist)).json["functions"] == [other]
        check_refusal(await hub.call("POST", submit, submit_body(good)), 403)
        check_refusal(await hub.call("POST", whitelist, {"func": "all"}), 422)

    run(work, tmp_path)


def test_functions_are_registered_by_both_routes_and_deleted(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        new = await hub.function(description="adds", meta={"python_version": "3.11"})
        old = await hub.call(
            "POST",
            "/v2/functions",
            {
                "function_name": "add",
                "function_code": ARGUMENTS[: len(ARGUMENTS) // 2],
                "container_uuid": None,
                "description": None,
                "metadata": None,
                "public": False,
                "group": None,
            },
        )
        assert old.status == 200
        details = (await hub.call("GET", f"/v2/functions/{new}")).json
        assert details["function_name"] == "add"
        assert details["description"] == "adds"
        check_refusal(await hub.call("GET", f"/v2/functions/{new}", as_="bob"), 403)
        check_refusal(await hub.call("DELETE", f"/v2/functions/{new}", as_="bob"), 403)
        assert (await hub.call("DELETE", f"/v2/functions/{new}")).status == 200
        check_refusal(await hub.call("GET", f"/v2/functions/{new}"), 404, "FUNCTION_NOT_FOUND")

    run(work, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"function_name": None},
        {"function_name": 3},
        {"function_code": ""},
        {"function_code": "not packed"},
        {"function_code": ARGUMENTS},
        {"serialized": "yes"},
        {"public": 1},
    ],
)
def test_a_wrong_function_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    async def work(hub: Hub) -> None:
        content = {"function_name": "f", "function_code": "3\n01\n", "serialized": True}
        check_refusal(await hub.call("POST", "/v3/functions", {**content, **change}), 422)

    run(work, tmp_path)


def test_source_code_becomes_a_buffer_that_workers_read(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        source = "def add(a, b):\n    return a + b\n"
        function_id = await hub.function(function_code=source, serialized=False)
        endpoint_id = await hub.endpoint()
        await hub.call("POST", f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id))
        _, body = hub.messaging.queues[f"{endpoint_id}.tasks"][0]
        code, *arguments = unpack_buffers(unpack_task(body).task_buffer)
        assert code == f"st\nadd:{source}"
        assert arguments == unpack_buffers(ARGUMENTS)

    run(work, tmp_path)


def test_a_submit_puts_tasks_with_their_headers_on_the_endpoints_queue(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, first, second = (
            await hub.endpoint(),
            await hub.function(),
            await hub.function(),
        )
        group = str(uuid.uuid4())
        answer = await hub.call(
            "POST",
            f"/v3/endpoints/{endpoint_id}/submit",
            {
                "create_queue": True,
                "task_group_id": group,
                "tasks": {first: [ARGUMENTS] * 2, second: [ARGUMENTS]},
                "resource_specification": {"num_nodes": 2},
                "result_serializers": ["a.B"],
                "user_runtime": {"python_version": "3"},
                "user_endpoint_config": {},
            },
        )
        body = answer.json
        assert body["task_group_id"] == group
        assert body["endpoint_id"] == endpoint_id
        uuid.UUID(body["request_id"])
        assert [len(body["tasks"][one]) for one in (first, second)] == [2, 1]
        queued = hub.messaging.queues[f"{endpoint_id}.tasks"]
        headers = [parse_task_headers(one) for one, _ in queued]
        assert [one.task_id for one in headers] == [*body["tasks"][first], *body["tasks"][second]]
        assert [one.function_id for one in headers] == [first, first, second]
        assert json.loads(headers[0].resource_specification or "") == {"num_nodes": 2}
        assert headers[0].result_serializers == ("a.B",)
        assert [unpack_task(one).task_id for _, one in queued] == [one.task_id for one in headers]
        client_id = hub.secrets["alice"].client_id
        assert f"tg.{client_id}.{group}" in hub.messaging.queues

    run(work, tmp_path)


def test_a_user_endpoint_config_is_refused_and_never_ignored(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        answer = await hub.call(
            "POST",
            f"/v3/endpoints/{endpoint_id}/submit",
            submit_body(function_id, user_endpoint_config={"worker_init": "x"}),
        )
        check_refusal(answer, 422, "NO_CONFIG_TEMPLATE")
        assert hub.messaging.queues[f"{endpoint_id}.tasks"] == []

    run(work, tmp_path)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"tasks": {}}, 422),
        ({"tasks": []}, 422),
        ({"tasks": {"x": [ARGUMENTS]}}, 422),
        ({"tasks": {NOBODY: []}}, 422),
        ({"tasks": {NOBODY: "text"}}, 422),
        ({"tasks": {NOBODY: [5]}}, 422),
        ({"tasks": {NOBODY: ["garbage"]}}, 422),
        ({"tasks": {NOBODY: ["3\n00\n"]}}, 422),
        ({"tasks": {NOBODY: [ARGUMENTS]}}, 404),
        ({"create_queue": "yes"}, 422),
        ({"task_group_id": "x"}, 422),
        ({"resource_specification": []}, 422),
        ({"user_endpoint_config": "x"}, 422),
        ({"result_serializers": [1]}, 422),
        ({"result_serializers": "x"}, 422),
    ],
)
def test_a_wrong_submit_is_refused(tmp_path: Path, change: dict[str, object], status: int) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        content = {**submit_body(function_id), **change}
        path = f"/v3/endpoints/{endpoint_id}/submit"
        check_refusal(await hub.call("POST", path, content), status)
        assert hub.messaging.queues[f"{endpoint_id}.tasks"] == []
        huge = {"content-length": str(1 << 40), "authorization": f"Bearer {hub.tokens['alice']}"}
        check_refusal(await hub.request("POST", path, headers=huge), 413)

    run(work, tmp_path)


def test_functions_and_task_groups_of_others_cannot_be_used(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        mine, theirs = await hub.function(), await hub.function(as_="bob")
        path = f"/v3/endpoints/{endpoint_id}/submit"
        check_refusal(await hub.call("POST", path, submit_body(theirs)), 403, "FUNCTION_FORBIDDEN")
        group = (await hub.call("POST", path, submit_body(mine))).json["task_group_id"]
        their_endpoint = await hub.endpoint(as_="bob")
        answer = await hub.call(
            "POST",
            f"/v3/endpoints/{their_endpoint}/submit",
            submit_body(theirs, task_group_id=group),
            as_="bob",
        )
        check_refusal(answer, 403, "TASK_GROUP_FORBIDDEN")
        check_refusal(await hub.call("GET", f"/v2/taskgroup/{group}", as_="bob"), 403)

    run(work, tmp_path)


def test_a_public_function_may_be_used_by_others(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        theirs = await hub.function(as_="bob", public=True)
        endpoint_id = await hub.endpoint()
        path = f"/v3/endpoints/{endpoint_id}/submit"
        assert (await hub.call("POST", path, submit_body(theirs))).status == 200

    run(work, tmp_path)


def test_tasks_are_pending_and_visible_to_their_client_only(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path = f"/v3/endpoints/{endpoint_id}/submit"
        body = (await hub.call("POST", path, submit_body(function_id, 3))).json
        ids = body["tasks"][function_id]
        task = (await hub.call("GET", f"/v2/tasks/{ids[0]}")).json
        assert (task["task_id"], task["status"]) == (ids[0], "waiting-for-ep")
        check_refusal(await hub.call("GET", f"/v2/tasks/{ids[0]}", as_="bob"), 404)
        check_refusal(await hub.call("GET", f"/v2/tasks/{NOBODY}"), 404, "TASK_NOT_FOUND")
        wanted = {"task_ids": [*ids, NOBODY]}
        statuses = (await hub.call("POST", "/v2/batch_status", wanted)).json["results"]
        assert set(statuses) == {*ids, NOBODY}
        assert statuses[NOBODY]["status"] == "failed"
        theirs = (await hub.call("POST", "/v2/batch_status", wanted, as_="bob")).json["results"]
        assert {one["status"] for one in theirs.values()} == {"failed"}
        check_refusal(await hub.call("POST", "/v2/batch_status", {}), 422)
        group = (await hub.call("GET", f"/v2/taskgroup/{body['task_group_id']}")).json
        assert group["taskgroup_id"] == body["task_group_id"]
        assert [one["id"] for one in group["tasks"]] == ids
        check_refusal(await hub.call("GET", f"/v2/taskgroup/{NOBODY}"), 404)

    run(work, tmp_path)


def test_the_result_address_belongs_to_the_client_and_stays_the_same(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        path = "/v2/get_amqp_result_connection_url"
        first = (await hub.call("GET", path)).json
        again = (await hub.call("GET", path)).json
        other = (await hub.call("GET", path, as_="bob")).json
        assert first == again
        assert first["queue_prefix"] == f"tg.{hub.secrets['alice'].client_id}."
        assert first["connection_url"] != other["connection_url"]

    run(work, tmp_path)


def test_containers_are_refused_with_what_to_do(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        answer = await hub.call("POST", "/v2/containers", {"name": "c"})
        check_refusal(answer, 400, "CONTAINERS_NOT_SUPPORTED")
        assert "container_uri" in answer.json["message"]

    run(work, tmp_path)


def test_a_fault_of_the_hub_is_a_500_of_the_error_shape(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        async def broken(*_args: object) -> None:
            raise ZeroDivisionError

        hub.services.directory.register = broken  # type: ignore[method-assign,assignment]
        sent = []
        with pytest.raises(ZeroDivisionError):  # for the server's log
            await hub.call("POST", "/v3/endpoints", {"endpoint_name": "site"}, sent=sent)
        assert sent[0]["status"] == 500
        check_refusal(Answer(500, {}, sent[1]["body"]), 500, "INTERNAL_ERROR")

    run(work, tmp_path)
