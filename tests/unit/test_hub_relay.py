"""Results are stored once and relayed; reports make endpoints online and offline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from cep.hub import housekeeping, settlement, topology
from cep.model import Delivery
from cep.wire.result import error_result, pack_result, unpack_result
from cep.wire.status import pack_status_report
from tests.unit.hub_rig import Hub, run, submit_body
from tests.unit.test_hub_rest import NOBODY


async def submitted(hub: Hub, count: int = 1) -> tuple[str, str, list[str]]:
    """An endpoint, a task group's queue, and the ids of its tasks."""
    endpoint_id, function_id = await hub.endpoint(), await hub.function()
    body = (
        await hub.call(
            "POST", f"/v3/endpoints/{endpoint_id}/submit", submit_body(function_id, count)
        )
    ).json
    queue = f"tg.{hub.secrets['alice'].client_id}.{body['task_group_id']}"
    return endpoint_id, queue, body["tasks"][function_id]


async def status(hub: Hub, endpoint_id: str) -> str:
    """What the service says of the endpoint."""
    return str((await hub.call("GET", f"/v2/endpoints/{endpoint_id}/status")).json["status"])


def test_a_result_is_stored_relayed_and_acked(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, (task_id,) = await submitted(hub)
        result = pack_result(task_id, "00\nYQ==\n", details={"python_version": "3.11.7"})
        tag = hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        await hub.settled()
        assert [body for _, body in hub.messaging.queues[queue]] == [result]
        assert hub.messaging.consumers["results"][0].acked == [tag]
        task = (await hub.call("GET", f"/v2/tasks/{task_id}")).json
        assert (task["status"], task["result"]) == ("success", "00\nYQ==\n")
        assert task["details"]["python_version"] == "3.11.7"
        assert task["completion_t"] == str(hub.now[0])

    run(work, tmp_path)


def test_an_error_result_is_a_failed_task_with_its_text(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, _, (task_id,) = await submitted(hub)
        hub.messaging.arrive(
            "results", f"{endpoint_id}.results", error_result(task_id, "WORKER_LOST", "It died.")
        )
        await hub.settled()
        answer = await hub.call("POST", "/v2/batch_status", {"task_ids": [task_id]})
        task = answer.json["results"][task_id]
        assert (task["status"], task["exception"]) == ("failed", "It died.")
        assert "result" not in task

    run(work, tmp_path)


def test_a_repeated_result_does_no_harm(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, (task_id,) = await submitted(hub)
        first, second = pack_result(task_id, "00\nYQ==\n"), pack_result(task_id, "00\nYg==\n")
        tags = [
            hub.messaging.arrive("results", f"{endpoint_id}.results", body)
            for body in (first, first)
        ]
        await hub.settled()
        tags.append(hub.messaging.arrive("results", f"{endpoint_id}.results", second))
        await hub.settled()
        assert [body for _, body in hub.messaging.queues[queue]] == [first]
        assert hub.messaging.consumers["results"][0].acked == tags
        assert hub.services.relay.counts.repeats == 2
        assert (await hub.call("GET", f"/v2/tasks/{task_id}")).json["result"] == "00\nYQ==\n"

    run(work, tmp_path)


def test_a_stored_result_that_was_never_relayed_is_relayed_when_it_comes_again(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, (task_id,) = await submitted(hub)
        result = pack_result(task_id, "00\nYQ==\n")
        hub.messaging.broken = True
        tag = hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        await hub.settled()
        consumer = hub.messaging.consumers["results"][0]
        assert (consumer.acked, consumer.given_back) == ([], [tag])
        hub.messaging.broken = False
        again = hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        await hub.settled()
        assert [body for _, body in hub.messaging.queues[queue]] == [result]
        assert consumer.acked == [again]

    run(work, tmp_path)


@pytest.mark.parametrize("broken", [False, True])
def test_a_result_that_comes_again_while_it_is_relayed_waits_for_that(
    tmp_path: Path, broken: bool
) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, (task_id,) = await submitted(hub)
        published, may = asyncio.Event(), asyncio.Event()
        publish = hub.messaging.publish

        async def slow(outgoing: Sequence[topology.Outgoing]) -> object:
            published.set()
            await may.wait()
            return await publish(outgoing)

        hub.messaging.publish = slow  # type: ignore[method-assign,assignment]
        result = pack_result(task_id, "00\nYQ==\n")
        first = hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        await published.wait()
        settled = asyncio.Event()
        settle = hub.services.relay._settle

        async def noted(batch: Sequence[Delivery]) -> None:
            await settle(batch)
            settled.set()

        hub.services.relay._settle = noted  # type: ignore[method-assign]
        again = hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        await settled.wait()
        consumer = hub.messaging.consumers["results"][0]
        assert consumer.acked == []
        hub.messaging.broken = broken
        may.set()
        await hub.settled()
        settled_as = consumer.given_back if broken else consumer.acked
        assert sorted(settled_as) == sorted([first, again])
        assert [body for _, body in hub.messaging.queues[queue]] == ([] if broken else [result])

    run(work, tmp_path)


def test_results_are_stored_when_the_store_can_take_them_again(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, (task_id,) = await submitted(hub)
        good, failures = hub.services.store.call, []

        async def full(work: object, *args: object) -> object:
            if work is settlement.settle_results and not failures:
                failures.append(1)
                raise OSError("the disk is full")
            return await good(work, *args)  # type: ignore[arg-type]

        hub.services.store.call = full  # type: ignore[method-assign,assignment]
        result = pack_result(task_id, "00\nYQ==\n")
        tag = hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        async with hub.messaging.changed:
            await hub.messaging.changed.wait_for(lambda: hub.messaging.queues[queue] != [])
        await hub.settled()
        assert failures == [1]
        assert hub.messaging.consumers["results"][0].acked == [tag]

    run(work, tmp_path)


def test_results_without_a_queue_are_stored_only(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        body = submit_body(function_id, create_queue=False)
        answer = (await hub.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body)).json
        task_id = answer["tasks"][function_id][0]
        result = pack_result(task_id, "00\nYQ==\n")
        hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        await hub.settled()
        assert not [name for name in hub.messaging.queues if name.startswith("tg.")]
        assert (await hub.call("GET", f"/v2/tasks/{task_id}")).json["status"] == "success"

    run(work, tmp_path)


def test_asking_for_a_task_group_makes_its_queue_for_later_results(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        body = submit_body(function_id, create_queue=False)
        answer = (await hub.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body)).json
        group = answer["task_group_id"]
        await hub.call("GET", f"/v2/taskgroup/{group}")
        result = pack_result(answer["tasks"][function_id][0], "00\nYQ==\n")
        hub.messaging.arrive("results", f"{endpoint_id}.results", result)
        await hub.settled()
        queue = f"tg.{hub.secrets['alice'].client_id}.{group}"
        assert [body for _, body in hub.messaging.queues[queue]] == [result]

    run(work, tmp_path)


@pytest.mark.parametrize("body", [b"", b"garbage", b"\x01{}", b"\x02{}", pack_result(NOBODY, "")])
def test_what_nobody_waits_for_is_dropped_counted_and_settled(tmp_path: Path, body: bytes) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        tag = hub.messaging.arrive("results", f"{endpoint_id}.results", body)
        await hub.settled()
        assert hub.services.relay.counts.dropped == 1
        assert hub.messaging.consumers["results"][0].acked == [tag]

    run(work, tmp_path)


def test_an_endpoint_cannot_answer_the_tasks_of_another(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        _, queue, (task_id,) = await submitted(hub)
        other = await hub.endpoint("other", as_="bob")
        hub.messaging.arrive("results", f"{other}.results", pack_result(task_id, "00\nYQ==\n"))
        await hub.settled()
        assert hub.messaging.queues[queue] == []
        assert hub.services.relay.counts.dropped == 1
        task = (await hub.call("GET", f"/v2/tasks/{task_id}")).json
        assert task["status"] == "waiting-for-ep"

    run(work, tmp_path)


def test_an_unreadable_answer_to_a_known_task_fails_that_task(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, (task_id,) = await submitted(hub)
        body = pack_result(task_id, "00\nYQ==\n").replace(b'"data":"00', b'"date":"00')
        hub.messaging.arrive("results", f"{endpoint_id}.results", body)
        await hub.settled()
        ((_, relayed),) = hub.messaging.queues[queue]
        assert unpack_result(relayed).error_code == "RESULT_UNREADABLE"

    run(work, tmp_path)


def test_an_endpoint_is_online_with_its_report_and_offline_within_three_periods(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        assert await status(hub, endpoint_id) == "offline"
        report = pack_status_report(endpoint_id, {"heartbeat_period": 10, "active": True})
        hub.messaging.arrive("heartbeats", f"{endpoint_id}.heartbeats", report)
        await hub.settled()
        assert await status(hub, endpoint_id) == "online"
        hub.now[0] += 20
        assert await status(hub, endpoint_id) == "online"
        hub.now[0] += 10
        assert await status(hub, endpoint_id) == "offline"

    run(work, tmp_path)


@pytest.mark.parametrize(
    "last", [{"heartbeat_period": 0}, {"heartbeat_period": 30, "active": False}]
)
def test_a_going_away_endpoint_is_offline_at_once(tmp_path: Path, last: dict[str, object]) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        for state in ({"heartbeat_period": 30}, last):
            report = pack_status_report(endpoint_id, state)
            hub.messaging.arrive("heartbeats", f"{endpoint_id}.heartbeats", report)
        await hub.settled()
        assert await status(hub, endpoint_id) == "offline"

    run(work, tmp_path)


def test_reports_on_the_way_of_results_count_as_2_19_sends_them(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id = await hub.endpoint()
        report = pack_status_report(endpoint_id, {"task_id": -2, "info": {"managers": 1}})
        hub.messaging.arrive("results", f"{endpoint_id}.results", report)
        await hub.settled()
        assert await status(hub, endpoint_id) == "online"

    run(work, tmp_path)


def test_the_state_of_endpoints_survives_a_restart_of_the_hub(tmp_path: Path) -> None:
    ids: list[str] = []

    async def before(hub: Hub) -> None:
        ids.append(await hub.endpoint())
        report = pack_status_report(ids[0], {"heartbeat_period": 30})
        hub.messaging.arrive("heartbeats", f"{ids[0]}.heartbeats", report)
        await hub.settled()

    async def after(hub: Hub) -> None:
        endpoint = await hub.services.directory.known(ids[0])
        assert endpoint is not None
        assert hub.services.directory.is_online(endpoint)

    run(before, tmp_path)
    run(after, tmp_path)


def test_a_start_failure_fails_the_waiting_tasks_and_takes_them_off_the_queue(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, ids = await submitted(hub, 3)
        report = pack_status_report(
            endpoint_id, {"error": "The engine does not start.", "heartbeat_period": 3}
        )
        hub.messaging.arrive("heartbeats", f"{endpoint_id}.heartbeats", report)
        await hub.settled()
        relayed = [unpack_result(body) for _, body in hub.messaging.queues[queue]]
        assert {one.task_id for one in relayed} == set(ids)
        assert {one.data for one in relayed} == {"The engine does not start."}
        assert all(one.is_error for one in relayed)
        assert hub.messaging.queues[f"{endpoint_id}.tasks"] == []
        assert await status(hub, endpoint_id) == "offline"

    run(work, tmp_path)


def test_old_tasks_and_idle_groups_are_forgotten_and_waiting_ones_kept(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, queue, (done, waiting) = await submitted(hub, 2)
        hub.messaging.arrive("results", f"{endpoint_id}.results", pack_result(done, "00\nYQ==\n"))
        await hub.settled()
        forget = housekeeping.forget_before
        assert (await hub.services.store.call(forget, hub.now[0])).tasks == 0
        gone = await hub.services.store.call(forget, hub.now[0] + 1)
        assert (gone.tasks, gone.queues) == (1, [])
        assert (await hub.call("GET", f"/v2/tasks/{waiting}")).status == 200
        assert (await hub.call("GET", f"/v2/tasks/{done}")).status == 404
        hub.messaging.arrive(
            "results", f"{endpoint_id}.results", pack_result(waiting, "00\nYQ==\n")
        )
        await hub.settled()
        gone = await hub.services.store.call(forget, hub.now[0] + 1)
        assert [f"tg.{owner}.{group}" for owner, group in gone.queues] == [queue]

    run(work, tmp_path)
