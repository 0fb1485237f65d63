"""A hub as a user runs it: its commands, its ports, its end, and what survives a kill.

It runs on the embedded broker with SQLite and, where that matters, on RabbitMQ with PostgreSQL.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

import pika.exceptions
import pytest

from cep.amqp.probe import check_connection
from cep.errors import NotAllowed
from cep.wire.result import error_result, pack_result, unpack_result
from tests.integration.hub_places import EMBEDDED, LONG, PLACES, PLACES_IF_LONG, addresses
from tests.integration.hub_rig import FakeEndpoint, HubProcess, Rest
from tests.integration.scene import until

# Without LONG=1 these run at the hub that keeps all by itself: where it keeps things changes
# nothing (its ports, its directory), or test_hub_rabbitmq.py and test_hub_servers.py show the same.
EMBEDDED_IS_ENOUGH = (
    "test_a_second_hub_on_the_same_directory_is_69",
    "test_the_service_answers_on_both_loopback_addresses",
    "test_two_thousand_tasks_in_batches_of_128_are_taken_and_reach_the_endpoint",
    "test_a_new_registration_replaces_the_exclusive_consumer",
    "test_an_endpoint_cannot_reach_what_is_not_its_own",
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose where the hub keeps its things."""
    if "place" in metafunc.fixturenames:
        enough = not LONG and metafunc.function.__name__ in EMBEDDED_IS_ENOUGH
        places = (EMBEDDED,) if enough else PLACES
        metafunc.parametrize("place", places, indirect=True, scope="module")


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest) -> str:
    """Where the hub keeps its messages and rows."""
    return str(request.param)


@pytest.fixture(scope="module")
def hub(
    place: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[HubProcess]:
    """One hub for the scenarios that do not end it."""
    state = tmp_path_factory.mktemp("hub") / "state"
    with HubProcess(state, addresses(place, request)) as process:
        yield process


@pytest.fixture(params=PLACES_IF_LONG)  # test_two_hubs.py kills hubs on the servers each time
def other_place(request: pytest.FixtureRequest) -> str:
    """Where a hub keeps its messages and rows that is started for one scenario."""
    return str(request.param)


@pytest.fixture
def other_hub(other_place: str, tmp_path: Path, request: pytest.FixtureRequest) -> HubProcess:
    """A hub that is not started yet, for a scenario that ends it."""
    return HubProcess(tmp_path / "with a space", addresses(other_place, request))


@pytest.fixture
def rest(hub: HubProcess, request: pytest.FixtureRequest) -> Rest:
    """A client of its own for each test."""
    return hub.client(f"{request.node.name}-{uuid.uuid4()}")


def test_serve_status_env_and_stop_as_commands(other_hub: HubProcess, other_place: str) -> None:
    hub = other_hub
    kept = ("hub.db", "hub.key", "env-client.json") if other_place == EMBEDDED else ()
    for command in ("status", "env"):
        assert hub.cep(command, check=False).returncode == 69
    assert "not running" in hub.cep("stop").stderr
    with hub:
        assert stat.S_IMODE(hub.state_dir.stat().st_mode) == 0o700
        first = hub.cep("env").stdout
        for name in (*kept, "running.json", "hub.log"):
            assert stat.S_IMODE((hub.state_dir / name).stat().st_mode) & 0o077 == 0
        assert re.fullmatch(r"(export \w+=\S+\n){4}", first)
        assert hub.cep("env").stdout == first
        status = hub.status()
        assert status["pid"] == hub.running["pid"]
        assert set(status) == {
            *("version", "pid", "url", "amqp_port", "started_at", "clients", "endpoints"),
            *("endpoints_online", "results", "results_repeated", "messages_dropped"),
            "status_reports",
        }
        (client,) = json.loads(hub.cep("client", "list", "--json").stdout)
        assert set(client) == {"client_id", "name", "disabled", "created_at"}
        assert "is stopped" in hub.cep("stop").stderr
    assert hub.cep("env", check=False).returncode == 69
    assert not (hub.state_dir / "running.json").exists()
    with hub:  # the same client, after a restart
        assert hub.cep("env").stdout == first


def test_a_port_in_use_is_69_with_its_owner(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = HubProcess(tmp_path / "state")
        other.port = str(taken.getsockname()[1])
        done = other.cep("serve", "--detach", "--port", other.port, check=False)
        assert done.returncode == 69
        assert f"process {os.getpid()} (" in done.stderr


def test_a_second_hub_on_the_same_directory_is_69(hub: HubProcess) -> None:
    done = hub.cep("serve", "--detach", "--port", "0", check=False)
    assert done.returncode == 69
    assert "Another hub serves" in done.stderr
    assert hub.cep("status").returncode == 0


def test_the_service_answers_on_both_loopback_addresses(hub: HubProcess) -> None:
    port = int(hub.port)
    for address in ("127.0.0.1", "::1"):
        try:
            socket.create_connection((address, port), timeout=10).close()
        except OSError:
            assert address == "::1", "127.0.0.1 is always there"
            with pytest.raises(OSError):
                socket.create_server((address, 0), family=socket.AF_INET6)


def test_a_task_goes_out_and_its_result_comes_back(rest: Rest) -> None:
    endpoint, function_id = FakeEndpoint(rest), rest.function()
    answer = rest.submit(endpoint.id, function_id, 128)
    ids = answer["tasks"][function_id]
    assert [headers["task_uuid"] for headers, _ in endpoint.take(128)] == ids
    for task_id in ids:
        endpoint.result(pack_result(task_id, "00\nYQ==\n"))
    relayed = rest.results(answer["task_group_id"], 128)
    assert sorted(unpack_result(body).task_id for body in relayed) == sorted(ids)
    endpoint.close()


def test_two_thousand_tasks_in_batches_of_128_are_taken_and_reach_the_endpoint(rest: Rest) -> None:
    endpoint, function_id = FakeEndpoint(rest), rest.function()
    ids: list[str] = []
    for _ in range(16):
        ids += rest.submit(endpoint.id, function_id, 128)["tasks"][function_id]
    assert [headers["task_uuid"] for headers, _ in endpoint.take(len(ids))] == ids
    endpoint.close()


def test_a_submit_whose_client_breaks_off_is_run_once_when_it_is_repeated(
    hub: HubProcess, rest: Rest
) -> None:
    endpoint, function_id = FakeEndpoint(rest), rest.function()
    path = f"/v3/endpoints/{endpoint.id}/submit"
    told = []
    for number in range(10):
        packed = f"6\n00\nA=={len(str(number)) + 3}\n00\n{number}"
        content = {"create_queue": True, "tasks": {function_id: [packed]}}
        rest.send_and_break_off(path, content, hub)
        told.extend(rest("POST", path, content)["tasks"][function_id])
    queued = [headers["task_uuid"] for headers, _ in endpoint.take(10)]
    assert sorted(queued) == sorted(told)
    endpoint.close()


def test_what_was_accepted_survives_kill_9_of_the_hub(other_hub: HubProcess) -> None:
    with other_hub as hub:
        rest = hub.client("lab")
        endpoint, function_id = FakeEndpoint(rest), rest.function()
        answer = rest.submit(endpoint.id, function_id, 50)
        ids = answer["tasks"][function_id]
        endpoint.take(25)
        for task_id in ids[:10]:
            endpoint.result(pack_result(task_id, "00\nYQ==\n"))  # confirmed: the broker has it
        port, amqp_port = hub.port, hub.status()["amqp_port"]
        endpoint.close()
        hub.kill()
        hub.start()
        assert (hub.port, hub.status()["amqp_port"]) == (port, amqp_port)
        # The same token and the same broker password as before; no new registration.
        endpoint.reconnect()
        rest_of_tasks = [headers["task_uuid"] for headers, _ in endpoint.take(25)]
        assert rest_of_tasks == ids[25:]
        for task_id in ids:  # the first ten again: a repeat does no harm
            endpoint.result(pack_result(task_id, "00\nYQ==\n"))
        relayed = rest.results(answer["task_group_id"], 50)
        assert {unpack_result(body).task_id for body in relayed} == set(ids)
        found = rest("POST", "/v2/batch_status", {"task_ids": ids})["results"]
        assert {one["status"] for one in found.values()} == {"success"}
        endpoint.close()


def test_online_with_a_report_and_offline_with_the_last_one(rest: Rest) -> None:
    endpoint = FakeEndpoint(rest)
    assert rest.status_of(endpoint.id) == "offline"
    endpoint.report(heartbeat_period=30, active=True)
    until(lambda: rest.status_of(endpoint.id) == "online", within_s=60, what="online")
    endpoint.report(heartbeat_period=0)  # without it, three periods would be 90 s
    until(lambda: rest.status_of(endpoint.id) == "offline", within_s=60, what="offline")
    endpoint.close()


def test_a_start_failure_reaches_the_waiting_futures(rest: Rest) -> None:
    endpoint, function_id = FakeEndpoint(rest), rest.function()
    answer = rest.submit(endpoint.id, function_id, 2)
    endpoint.report(error="The engine does not start.", heartbeat_period=3)
    relayed = [unpack_result(body) for body in rest.results(answer["task_group_id"], 2)]
    assert {one.data for one in relayed} == {"The engine does not start."}
    endpoint.close()


def test_garbage_from_an_endpoint_is_dropped_and_the_next_result_arrives(
    hub: HubProcess, rest: Rest
) -> None:
    endpoint, function_id = FakeEndpoint(rest), rest.function()
    answer = rest.submit(endpoint.id, function_id)
    task_id = answer["tasks"][function_id][0]
    before = hub.status()["messages_dropped"]
    stranger = error_result(str(uuid.uuid4()), "X", "for a task that does not exist")
    garbage = [b"", b"garbage", b"\x01{", os.urandom(1000), stranger]
    for body in garbage:
        endpoint.result(body)
        endpoint.send("heartbeat_queue_info", body)
    endpoint.result(pack_result(task_id, "00\nYQ==\n"))
    (body,) = rest.results(answer["task_group_id"], 1)
    assert unpack_result(body).task_id == task_id
    until(
        lambda: hub.status()["messages_dropped"] == before + 2 * len(garbage),
        within_s=60,
        what="every piece of garbage counted",
    )
    endpoint.close()


def test_a_new_registration_replaces_the_exclusive_consumer(rest: Rest) -> None:
    first, function_id = FakeEndpoint(rest), rest.function()
    queue = first.answer["task_queue_info"]["queue"]
    first.channel.basic_consume(queue, lambda *_: None, exclusive=True)
    second = FakeEndpoint(rest, first.id)
    first.wait_cut_off()
    answer = rest.submit(second.id, function_id)
    ((headers, _),) = second.take(1)
    assert [headers["task_uuid"]] == answer["tasks"][function_id]
    second.close()


def test_an_endpoint_cannot_reach_what_is_not_its_own(rest: Rest) -> None:
    mine, other = FakeEndpoint(rest), FakeEndpoint(rest)
    theirs = other.answer["task_queue_info"]["queue"]
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        mine.channel.basic_consume(theirs, lambda *_: None)
    assert caught.value.reply_code == 403
    channel = mine.connection.channel()
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
        channel.basic_publish("results", f"{other.id}.results", b"spoofed")
    assert caught.value.reply_code == 403
    mine.close()
    other.close()


def test_a_disabled_client_is_cut_off_with_its_endpoints(hub: HubProcess) -> None:
    rest = hub.client("soon-disabled")
    endpoint = FakeEndpoint(rest)
    endpoint.report(heartbeat_period=30)
    until(lambda: rest.status_of(endpoint.id) == "online", within_s=60, what="online")
    assert "1 connections were closed" in hub.cep("client", "disable", "soon-disabled").stderr
    endpoint.wait_cut_off()
    assert rest.send("GET", "/v2/endpoints")[0] == 401
    assert rest.login() == 401
    url = endpoint.answer["task_queue_info"]["connection_url"]
    with pytest.raises(NotAllowed):
        check_connection(url)
    listed = hub.cep("client", "list").stdout
    assert re.search(rf"{rest.client_id} +disabled +soon-disabled", listed)
    hub.cep("client", "enable", "soon-disabled")
    assert rest.login() == 200
    assert rest.status_of(endpoint.id) == "offline"
    rotated = hub.cep("client", "rotate", "soon-disabled").stdout
    assert rest.client_id in rotated
    assert rest.login() == 401
    hub.cep("client", "remove", "soon-disabled")
    assert "soon-disabled" not in hub.cep("client", "list").stdout
    assert hub.cep("client", "rotate", "soon-disabled", check=False).returncode == 66


def test_a_remote_stop_cuts_the_endpoint_off(rest: Rest) -> None:
    endpoint = FakeEndpoint(rest)
    rest("POST", f"/v3/endpoints/{endpoint.id}/lock")
    endpoint.wait_cut_off()
    status, answer = rest.send("PUT", f"/v3/endpoints/{endpoint.id}", {"endpoint_name": "fake"})
    assert (status, answer["code"]) == (423, "ENDPOINT_LOCKED")


def test_five_megabytes_go_both_ways_and_more_than_the_limit_is_413(rest: Rest) -> None:
    endpoint, function_id = FakeEndpoint(rest), rest.function()
    path = f"/v3/endpoints/{endpoint.id}/submit"
    argument = "00\n" + "A" * 7_000_000
    packed = f"{len(argument)}\n{argument}6\n00\nYQ="
    answer = rest("POST", path, {"create_queue": True, "tasks": {function_id: [packed]}})
    ((_, body),) = endpoint.take(1)
    assert len(body) > 7_000_000
    task_id = answer["tasks"][function_id][0]
    endpoint.result(pack_result(task_id, argument))
    (relayed,) = rest.results(answer["task_group_id"], 1)
    assert unpack_result(relayed).data == argument
    assert rest("GET", f"/v2/tasks/{task_id}")["result"] == argument
    huge = "x" * (65 << 20)
    try:
        status, refusal = rest.send("POST", path, {"tasks": {function_id: [huge]}})
        assert (status, refusal["code"]) == (413, "PAYLOAD_TOO_LARGE")
    except OSError:
        pass  # answered and closed before everything was sent
    assert rest.status_of(endpoint.id) == "offline"  # the hub is well
    endpoint.close()
