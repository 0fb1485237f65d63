"""What the hub forgets: by age and by size, the fetched before the unread, nothing that waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cep.hub.housekeeping import DAY_S, Keeping, forget
from cep.hub.options import HubOptions
from cep.wire.result import pack_result
from tests.unit.hub_rig import Hub, run, submit_body

FOR_EVER = Keeping(unread_s=0, fetched_s=0, results_bytes=0, functions_s=0)


async def answered(hub: Hub, *, fetch: bool = False, size: int = 1000, **more: object) -> str:
    """Submit a task in a group of its own, answer it, and return its id."""
    endpoint_id, function_id = await hub.endpoint(), await hub.function()
    body = submit_body(function_id, 1, **more)
    made = (await hub.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body)).json
    (task_id,) = made["tasks"][function_id]
    result = pack_result(task_id, "00\n" + "Y" * size)
    hub.messaging.arrive("results", f"{endpoint_id}.results", result)
    await hub.settled()
    if fetch:
        assert (await hub.call("GET", f"/v2/tasks/{task_id}")).json["status"] == "success"
    hub.now[0] += 1  # so that each is younger than the one before
    return task_id


async def later(hub: Hub, days: float, **keeping: float) -> None:
    """Housekeeping after some days; logins stay good, only housekeeping sees the time."""
    kept = replace(FOR_EVER, **keeping)
    at = hub.now[0] + days * DAY_S
    await forget(replace(hub.services, clock=lambda: at), kept)


async def known(hub: Hub, *task_ids: str) -> list[bool]:
    """Which of the tasks the hub knows; without fetching a result."""
    from cep.hub import ledger

    owner = hub.secrets["alice"].client_id
    rows = await hub.services.store.call(ledger.find_tasks, list(task_ids), owner)
    found = {row.task_id for row in rows}
    return [one in found for one in task_ids]


def test_a_fetched_result_goes_earlier_than_an_unread_one(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        fetched, unread = await answered(hub, fetch=True), await answered(hub)
        ages = {"fetched_s": 3 * DAY_S, "unread_s": 14 * DAY_S}
        await later(hub, 2.9, **ages)
        assert await known(hub, fetched, unread) == [True, True]
        await later(hub, 3.1, **ages)
        assert await known(hub, fetched, unread) == [False, True]
        await later(hub, 14.1, **ages)
        assert await known(hub, fetched, unread) == [False, False]

    run(work, tmp_path)


def test_a_batch_request_counts_as_fetching_too_and_only_the_first_time(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        task_id = await answered(hub)
        for _ in range(2):
            answer = await hub.call("POST", "/v2/batch_status", {"task_ids": [task_id]})
            assert answer.json["results"][task_id]["status"] == "success"
            hub.now[0] += 600
        await later(hub, 1 - 1000 / DAY_S, fetched_s=DAY_S)
        assert await known(hub, task_id) == [False]

    run(work, tmp_path)


def test_above_the_size_fetched_results_go_first_then_relayed_then_the_oldest_unread(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        no_queue = {"create_queue": False}
        unread = [await answered(hub, size=100_000, **no_queue) for _ in range(2)]
        relayed = await answered(hub, size=100_000)
        fetched = await answered(hub, size=100_000, fetch=True, **no_queue)
        everything = [*unread, relayed, fetched]
        for most, left in (
            (410_000, [True, True, True, True]),
            (310_000, [True, True, True, False]),
            (210_000, [True, True, False, False]),
            (110_000, [False, True, False, False]),
        ):
            await later(hub, 0, results_bytes=most)
            assert await known(hub, *everything) == left

    run(work, tmp_path)


def test_many_results_above_the_size_go_in_several_transactions(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        body = submit_body(function_id, 1200)
        made = (await hub.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body)).json
        ids = made["tasks"][function_id]
        for task_id in ids:
            hub.messaging.arrive("results", f"{endpoint_id}.results", pack_result(task_id, "00\nY"))
        await hub.settled()
        await later(hub, 0, results_bytes=1)
        assert not any(await known(hub, *ids))

    run(work, tmp_path)


def test_zero_keeps_everything_for_ever(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        task_id = await answered(hub, fetch=True)
        await later(hub, 100_000)
        assert await known(hub, task_id) == [True]

    run(work, tmp_path)


def test_a_task_that_waits_is_never_forgotten_nor_is_its_function(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        endpoint_id, function_id = await hub.endpoint(), await hub.function()
        body = submit_body(function_id)
        made = (await hub.call("POST", f"/v3/endpoints/{endpoint_id}/submit", body)).json
        await later(hub, 1000, unread_s=DAY_S, fetched_s=DAY_S, results_bytes=1, functions_s=1)
        assert await known(hub, *made["tasks"][function_id]) == [True]
        assert (await hub.call("GET", f"/v2/functions/{function_id}")).status == 200

    run(work, tmp_path)


def test_functions_go_when_they_are_deleted_or_long_unused(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        used, unused, deleted = [await hub.function() for _ in range(3)]
        allowed = await hub.function()
        await hub.endpoint("other", allowed_functions=[allowed])
        endpoint_id = await hub.endpoint()
        assert (await hub.call("DELETE", f"/v2/functions/{deleted}")).status == 200
        hub.now[0] += 3000
        made = await hub.call("POST", f"/v3/endpoints/{endpoint_id}/submit", submit_body(used))
        (task_id,) = made.json["tasks"][used]
        hub.messaging.arrive("results", f"{endpoint_id}.results", pack_result(task_id, "00\nY"))
        await hub.settled()

        await later(hub, 0)  # only what is deleted, and the use is noted
        await later(hub, 1, unread_s=1)  # the task is forgotten
        assert await known(hub, task_id) == [False]
        await later(hub, (DAY_S - 1000) / DAY_S, functions_s=DAY_S)
        statuses = [
            (await hub.call("GET", f"/v2/functions/{one}")).status
            for one in (used, unused, deleted, allowed)
        ]
        assert statuses == [200, 404, 404, 200]
        await later(hub, 1.1, functions_s=DAY_S)
        assert (await hub.call("GET", f"/v2/functions/{used}")).status == 404
        assert (await hub.call("GET", f"/v2/functions/{allowed}")).status == 200

    run(work, tmp_path)


def test_the_file_becomes_smaller_when_results_are_forgotten(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        for _ in range(5):
            await answered(hub, size=1_000_000)
        database = next(tmp_path.glob("hub.db"))
        checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)"
        store = hub.services.store
        store.call_now(lambda db: db.exec_driver_sql(checkpoint).fetchall())
        before = database.stat().st_size
        assert before > 5_000_000
        await later(hub, 0, results_bytes=1)
        store.call_now(lambda db: db.exec_driver_sql(checkpoint).fetchall())
        assert database.stat().st_size < before / 5

    run(work, tmp_path)


def test_the_options_of_serve_say_how_long() -> None:
    assert Keeping.of(HubOptions(state_dir=Path("x"))) == Keeping()
    options = HubOptions(state_dir=Path("x"), keep_unread_days=1, keep_results_bytes=7)
    assert Keeping.of(options) == Keeping(unread_s=DAY_S, results_bytes=7)
