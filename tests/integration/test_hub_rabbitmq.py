"""What a hub makes of a RabbitMQ: who may do what there, against clients that try everything else.

The hub has RabbitMQ and SQLite here, and on RabbitMQ a user of its own with nothing more than
docs/hub.md asks for.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pika
import pika.exceptions
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from cep.amqp.probe import check_connection
from cep.errors import NotAllowed
from cep.wire.result import pack_result, unpack_result
from tests.integration.hub_rig import FakeEndpoint, HubProcess, Rest, wait_cut_off
from tests.integration.rabbitmq import RabbitMq
from tests.integration.scene import until

REFUSED = 403


@pytest.fixture(scope="module")
def hub(rabbitmq: RabbitMq, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    variables = {
        "CEP_HUB_AMQP_URL": rabbitmq.hub_url(),
        "CEP_HUB_AMQP_MANAGEMENT_URL": rabbitmq.management_url,
    }
    with HubProcess(tmp_path_factory.mktemp("hub") / "state", variables) as process:
        yield process


@pytest.fixture
def rest(hub: HubProcess, request: pytest.FixtureRequest) -> Rest:
    """A client of its own for each test."""
    return hub.client(f"{request.node.name}-{uuid.uuid4()}")


@contextlib.contextmanager
def channel_of(url: str) -> Iterator[BlockingChannel]:
    """A confirming channel with this login."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        if connection.is_open:
            connection.close()


def url_of(endpoint: FakeEndpoint) -> str:
    return str(endpoint.answer["task_queue_info"]["connection_url"])


def user_of(url: str) -> str:
    return str(urlsplit(url).username)


def client_url(rest: Rest) -> str:
    found = rest("GET", "/v2/get_amqp_result_connection_url")
    return str(found["connection_url"])


def consume(channel: BlockingChannel, queue: str) -> None:
    channel.basic_consume(queue, lambda *_: None)


def publish(channel: BlockingChannel, exchange: str, key: str, **properties: Any) -> None:
    channel.basic_publish(exchange, key, b"hostile", pika.BasicProperties(**properties))


# What a hostile endpoint tries: a verb of `attempt` and names, where OWN and OTHER stand for ids.
# Each must end with the channel closed.
ATTEMPTS = (
    ("consume", "OTHER.tasks"),
    ("get", "OTHER.tasks"),
    ("purge", "OTHER.tasks"),
    ("consume", "results"),
    ("consume", "heartbeats"),
    ("publish", "results", "OTHER.results"),
    ("publish", "heartbeats", "OTHER.heartbeats"),
    ("publish", "results", "OWN.heartbeats"),
    ("publish", "results", "OWN.results.OTHER"),
    ("publish", "results", "#"),
    ("publish", "tasks", "OTHER.tasks"),
    ("publish", "tasks", "OWN.tasks"),
    ("publish", "", "OTHER.tasks"),
    ("publish", "", "results"),
    ("publish", "amq.topic", "OWN.results"),
    ("publish a copy", "results", "OWN.results", "OTHER.results"),
    ("declare", "OWN.more"),
    ("declare", ""),
    ("declare exchange", "mine"),
    ("delete", "OWN.tasks"),
    ("delete", "OTHER.tasks"),
    ("delete", "results"),
    ("delete exchange", "results"),
    ("bind", "OWN.tasks", "results", "#"),
    ("bind", "OWN.tasks", "tasks", "OTHER.tasks"),
    ("unbind", "OTHER.tasks", "tasks", "OTHER.tasks"),
)


def attempt(channel: BlockingChannel, verb: str, *names: str) -> None:
    match verb:
        case "consume":
            consume(channel, names[0])
        case "get":
            channel.basic_get(names[0])
        case "purge":
            channel.queue_purge(names[0])
        case "publish":
            publish(channel, names[0], names[1])
        case "publish a copy":
            publish(channel, names[0], names[1], headers={"CC": [names[2]]})
        case "declare":
            channel.queue_declare(names[0], exclusive=not names[0])
        case "declare exchange":
            channel.exchange_declare(names[0])
        case "delete":
            channel.queue_delete(names[0])
        case "delete exchange":
            channel.exchange_delete(names[0])
        case "bind":
            channel.queue_bind(*names)
        case "unbind":
            channel.queue_unbind(*names)


def test_an_endpoint_can_do_nothing_but_its_own_business(rest: Rest) -> None:
    own, other, function_id = FakeEndpoint(rest), FakeEndpoint(rest), rest.function()
    submitted = rest.submit(other.id, function_id, 3)["tasks"][function_id]
    allowed = []
    for verb, *names in ATTEMPTS:
        told = [one.replace("OWN", own.id).replace("OTHER", other.id) for one in names]
        with channel_of(url_of(own)) as channel:
            try:
                attempt(channel, verb, *told)
            except pika.exceptions.ChannelClosedByBroker as error:
                assert error.reply_code == REFUSED, f"{verb} {names}: {error}"
            else:
                allowed.append((verb, *names))
    assert allowed == []
    # Nothing of it had an effect: the other one's tasks are there, and its results are its own.
    assert [headers["task_uuid"] for headers, _ in other.take(3)] == submitted
    own.close()
    other.close()


def test_an_endpoint_cannot_pretend_to_be_another_user(rest: Rest) -> None:
    own, other = FakeEndpoint(rest), FakeEndpoint(rest)
    with channel_of(url_of(own)) as channel:
        with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
            publish(channel, "results", f"{own.id}.results", user_id=user_of(url_of(other)))
        assert caught.value.reply_code == 406
    own.close()
    other.close()


def test_a_result_for_the_task_of_another_endpoint_is_dropped(hub: HubProcess, rest: Rest) -> None:
    own, other, function_id = FakeEndpoint(rest), FakeEndpoint(rest), rest.function()
    answer = rest.submit(other.id, function_id)
    (task_id,) = answer["tasks"][function_id]
    before = hub.status()["messages_dropped"]
    own.result(pack_result(task_id, "00\nc3Bvb2ZlZA==\n"))
    until(
        lambda: hub.status()["messages_dropped"] > before, within_s=60, what="the spoof is dropped"
    )
    other.result(pack_result(task_id, "00\ncmlnaHQ=\n"))
    (body,) = rest.results(answer["task_group_id"], 1)
    assert unpack_result(body).data == "00\ncmlnaHQ=\n"
    own.close()
    other.close()


def test_a_client_reads_its_own_task_groups_and_nothing_else(hub: HubProcess, rest: Rest) -> None:
    stranger = hub.client(f"stranger-{uuid.uuid4()}")
    endpoint, function_id = FakeEndpoint(rest), rest.function()
    group = rest.submit(endpoint.id, function_id)["task_group_id"]
    theirs = f"tg.{rest.client_id}.{group}"
    url = client_url(stranger)
    for verb, *names in (
        ("consume", theirs),
        ("get", theirs),
        ("purge", theirs),
        ("delete", theirs),
        ("publish", "", theirs),
        ("consume", f"{endpoint.id}.tasks"),
        ("consume", "results"),
        ("publish", "results", f"{endpoint.id}.results"),
        ("publish", "tasks", f"{endpoint.id}.tasks"),
        ("declare", f"tg.{stranger.client_id}.x"),
    ):
        with channel_of(url) as channel:
            with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
                attempt(channel, verb, *names)
            assert caught.value.reply_code == REFUSED, (verb, names)
    with channel_of(client_url(rest)) as channel:
        consume(channel, theirs)
    endpoint.close()


def test_nobody_has_a_say_at_the_management_api(rabbitmq: RabbitMq, rest: Rest) -> None:
    endpoint = FakeEndpoint(rest)
    for url in (url_of(endpoint), client_url(rest)):
        found = rabbitmq.management("GET", f"users/{user_of(url)}")
        assert not found["tags"]
    endpoint.close()


def test_a_new_registration_ends_the_password_of_the_last_one(rest: Rest) -> None:
    first = FakeEndpoint(rest)
    second = FakeEndpoint(rest, first.id)
    first.wait_cut_off()
    with pytest.raises(NotAllowed):
        check_connection(url_of(first))
    check_connection(url_of(second))
    second.close()


def test_a_deleted_endpoint_leaves_no_user_and_no_queue(rabbitmq: RabbitMq, rest: Rest) -> None:
    endpoint = FakeEndpoint(rest)
    user = user_of(url_of(endpoint))
    assert user in users(rabbitmq)
    rest("DELETE", f"/v2/endpoints/{endpoint.id}")
    assert user not in users(rabbitmq)
    assert f"{endpoint.id}.tasks" not in {
        one["name"] for one in rabbitmq.management("GET", "queues")
    }
    endpoint.wait_cut_off()
    with pytest.raises(NotAllowed):
        check_connection(url_of(endpoint))


def test_a_clients_user_is_made_when_it_is_needed_and_ends_with_the_client(
    hub: HubProcess, rabbitmq: RabbitMq
) -> None:
    rest = hub.client("comes-and-goes")
    user = f"client.{rest.client_id}"
    assert user not in users(rabbitmq)
    url = client_url(rest)
    assert client_url(rest) == url
    with channel_of(url) as channel:
        hub.cep("client", "rotate", rest.client_id)
        wait_cut_off(channel.connection)
    with pytest.raises(NotAllowed):
        check_connection(url)
    hub.cep("client", "remove", rest.client_id)
    assert user not in users(rabbitmq)


def test_a_disabled_clients_endpoint_comes_back_with_its_password(hub: HubProcess) -> None:
    rest = hub.client("for-a-while")
    endpoint = FakeEndpoint(rest)
    url = client_url(rest)
    hub.cep("client", "disable", "for-a-while")
    for refused in (url, url_of(endpoint)):
        with pytest.raises(NotAllowed):
            check_connection(refused)
    endpoint.wait_cut_off()
    hub.cep("client", "enable", "for-a-while")
    endpoint.reconnect()
    endpoint.report(heartbeat_period=30)
    rest.login()
    until(lambda: rest.status_of(endpoint.id) == "online", within_s=60, what="online")
    again = client_url(rest)
    assert again != url, "the password of before was seen by whoever was shut out"
    check_connection(again)
    endpoint.close()


def test_a_hub_that_lost_its_rights_goes_on_when_it_has_them_again(
    rabbitmq: RabbitMq, tmp_path: Path
) -> None:
    url = rabbitmq.hub_url()
    name, vhost = user_of(url), url.rpartition("/")[2]
    variables = {
        "CEP_HUB_AMQP_URL": url,
        "CEP_HUB_AMQP_MANAGEMENT_URL": rabbitmq.management_url,
    }
    with HubProcess(tmp_path / "state", variables) as hub:
        rest = hub.client("lab")
        endpoint, function_id = FakeEndpoint(rest), rest.function()
        rights = rabbitmq.management("GET", f"permissions/{vhost}/{name}")
        rabbitmq.management("DELETE", f"permissions/{vhost}/{name}")
        until(lambda: bool(rabbitmq.connections_of(name)), within_s=60, what="they are listed")
        rabbitmq.close_connections(name)
        until(lambda: "refuses the hub" in hub.log(), within_s=60, what="the hub says so")
        names = {key: rights[key] for key in ("configure", "write", "read")}
        rabbitmq.management("PUT", f"permissions/{vhost}/{name}", names)
        answer = rest.submit(endpoint.id, function_id)  # waits for the broker
        endpoint.take(1)
        endpoint.result(pack_result(answer["tasks"][function_id][0], "00\nYQ==\n"))
        assert len(rest.results(answer["task_group_id"], 1)) == 1
        endpoint.close()


def test_over_tls_the_broker_must_prove_who_it_is(rabbitmq: RabbitMq, tmp_path: Path) -> None:
    url = rabbitmq.hub_url().replace("amqp://", "amqps://")
    url = url.replace(f"{rabbitmq.host}:{rabbitmq.port}", f"localhost:{rabbitmq.tls_port}")
    variables = {
        "CEP_HUB_AMQP_URL": url,
        "CEP_HUB_AMQP_MANAGEMENT_URL": rabbitmq.management_url,
    }
    trusting = {**variables, "SSL_CERT_FILE": str(rabbitmq.ca_file)}
    done = HubProcess(tmp_path / "state", variables).cep(
        "serve", "--detach", "--port", "0", check=False
    )
    assert done.returncode != 0
    assert "is not trusted" in done.stderr
    with HubProcess(tmp_path / "state", trusting) as hub:
        rest = hub.client("lab")
        answer = rest("POST", "/v3/endpoints", {"endpoint_name": "fake"})
        told = answer["task_queue_info"]["connection_url"]
        assert urlsplit(told).scheme == "amqps"
        assert urlsplit(told).port == rabbitmq.tls_port
        assert "is up" in hub.log()


def users(rabbitmq: RabbitMq) -> set[str]:
    return {str(one["name"]) for one in rabbitmq.management("GET", "users")}
