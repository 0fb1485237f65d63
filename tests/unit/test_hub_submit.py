"""Submits that come again: taken over when the client cannot have its answer, else new."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

from cep.hub.submit import RETRY_WINDOW_S, new_task_ids
from tests.unit.hub_rig import FakeMessaging, Hub, run, submit_body


def queued_ids(hub: Hub, endpoint_id: str) -> list[str]:
    """Ids on the endpoint's queue, in order."""
    return [h["task_uuid"] for h, _ in hub.messaging.queues[f"{endpoint_id}.tasks"]]


def test_two_equal_submits_that_were_answered_are_two(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path, body = f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)
        first = (await hub.call("POST", path, body)).json["tasks"][function_id]
        second = (await hub.call("POST", path, body)).json["tasks"][function_id]
        assert first != second
        assert queued_ids(hub, endpoint_id) == [*first, *second]

    run(work, tmp_path)


def test_a_submit_that_failed_for_a_moment_is_the_same_one_when_repeated(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path, body = f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id, 2)
        hub.messaging.broken = True
        failed = await hub.call("POST", path, body)
        assert failed.status == 503
        assert failed.json["code"] == "TRY_AGAIN"
        hub.messaging.broken = False
        repeated = (await hub.call("POST", path, body)).json
        assert queued_ids(hub, endpoint_id) == repeated["tasks"][function_id]
        group = (await hub.call("GET", f"/v2/taskgroup/{repeated['task_group_id']}")).json
        assert [one["id"] for one in group["tasks"]] == repeated["tasks"][function_id]
        another = (await hub.call("POST", path, body)).json
        assert another["tasks"] != repeated["tasks"]

    run(work, tmp_path)


def test_tasks_of_a_failed_submit_are_not_listed(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path, group = f"/v3/endpoints/{endpoint_id}/submit", str(uuid.uuid4())
        hub.messaging.broken = True
        await hub.call("POST", path, submit_body(function_id, task_group_id=group))
        hub.messaging.broken = False
        assert (await hub.call("GET", f"/v2/taskgroup/{group}")).json["tasks"] == []

    run(work, tmp_path)


def test_a_client_that_goes_away_before_the_answer_gets_the_same_ids_next_time(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path, body = f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)
        hub.messaging.hold = asyncio.Event()
        gone = asyncio.Event()
        first = asyncio.create_task(hub.call("POST", path, body, gone=gone))
        await hub.until(hub.attempts)
        gone.set()
        await hub.until(lambda: all(attempt.orphaned for attempt in hub.attempts()))
        repeat = asyncio.create_task(hub.call("POST", path, body))
        await hub.settled()
        hub.messaging.hold.set()
        answers = [(await one).json["tasks"] for one in (first, repeat)]
        assert answers[0] == answers[1]
        assert queued_ids(hub, endpoint_id) == answers[0][function_id]

    run(work, tmp_path)


def test_a_client_that_is_gone_before_the_work_begins_has_submitted_nothing(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path, body = f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)
        gone = asyncio.Event()
        gone.set()
        await hub.call("POST", path, body, gone=gone)
        assert queued_ids(hub, endpoint_id) == []
        repeated = (await hub.call("POST", path, body)).json["tasks"][function_id]
        assert queued_ids(hub, endpoint_id) == repeated

    run(work, tmp_path)


def test_equal_submits_under_way_from_connected_clients_are_two(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path, body = f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)
        hub.messaging.hold = asyncio.Event()
        both = [asyncio.create_task(hub.call("POST", path, body)) for _ in range(2)]
        await hub.until(lambda: len(hub.attempts()) == 2)
        hub.messaging.hold.set()
        answers = [(await one).json["tasks"][function_id] for one in both]
        assert answers[0] != answers[1]
        assert sorted(queued_ids(hub, endpoint_id)) == sorted(answers[0] + answers[1])

    run(work, tmp_path)


def test_a_submit_cut_short_by_the_hubs_end_is_taken_over_after_its_restart(
    tmp_path: Path,
) -> None:
    ids: dict[str, str] = {}
    messaging = FakeMessaging()

    async def before(hub: Hub) -> None:
        ids["endpoint"], ids["function"] = await hub.endpoint(), await hub.function()
        hub.messaging.hold = asyncio.Event()
        path = f"/v3/endpoints/{ids['endpoint']}/submit"
        request = asyncio.create_task(hub.call("POST", path, submit_body(ids["function"])))
        await hub.until(lambda: any(attempt.submit_id for attempt in hub.attempts()))
        request.cancel()
        ids["token"] = hub.tokens["alice"]

    async def after(hub: Hub) -> None:
        hub.messaging.hold = None
        hub.tokens["alice"] = ids["token"]
        path = f"/v3/endpoints/{ids['endpoint']}/submit"
        body = submit_body(ids["function"])
        answer = (await hub.call("POST", path, body)).json
        stored = await hub.services.store.call(
            lambda c: c.exec_driver_sql("SELECT task_id FROM tasks").scalars().all()
        )
        assert answer["tasks"][ids["function"]] == list(stored)
        again = (await hub.call("POST", path, body)).json
        assert again["tasks"] != answer["tasks"]

    run(before, tmp_path, messaging=messaging)
    run(after, tmp_path, messaging=messaging)


def test_a_failed_submit_is_forgotten_after_the_window_of_retries(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        path, body = f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)
        hub.messaging.broken = True
        await hub.call("POST", path, body)
        hub.messaging.broken = False
        hub.now[0] += RETRY_WINDOW_S + 1
        await hub.call("POST", path, body)
        stored = await hub.services.store.call(
            lambda c: c.exec_driver_sql("SELECT count(*) FROM submits").scalar_one()
        )
        assert stored == 2

    run(work, tmp_path)


def test_another_client_never_takes_a_submit_over(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint(public=True)
        function_id = await hub.function(public=True)
        path, body = f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id)
        hub.messaging.broken = True
        await hub.call("POST", path, body)
        hub.messaging.broken = False
        theirs = (await hub.call("POST", path, body, as_="bob")).json["tasks"][function_id]
        mine = (await hub.call("POST", path, body)).json["tasks"][function_id]
        assert theirs != mine

    run(work, tmp_path)


def test_new_task_ids_are_uuids_that_grow_with_time() -> None:
    ids = new_task_ids(1000)
    assert len(set(ids)) == 1000
    parsed = [uuid.UUID(one) for one in ids]
    assert {one.version for one in parsed} == {7}
    assert {one.variant for one in parsed} == {uuid.RFC_4122}
    later = new_task_ids(1)[0]
    assert later[:13] >= ids[0][:13]
