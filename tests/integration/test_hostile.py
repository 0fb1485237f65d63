"""A hostile client against a real hub process: what it sends costs others nothing, the hub little.

Each test ends with a good client that gets its answers. Ten thousand idle connections need LONG=1.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import threading
import time
import uuid
from collections.abc import Iterator

import pika
import pika.exceptions
import psutil
import pytest

from tests.integration.hub_rig import ARGUMENTS, FakeEndpoint, HubProcess, Rest

IDLE = 10_000 if os.environ.get("LONG") else 400
MIB = 1 << 20
DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One hub that has to live through all of it."""
    with HubProcess(tmp_path_factory.mktemp("hostile") / "state") as process:
        pid = process.running["pid"]
        yield process
        assert process.running["pid"] == pid
        assert "Traceback" not in process.log()


@pytest.fixture(scope="module")
def honest(hub: HubProcess) -> Rest:
    """An honest client."""
    return hub.client("honest")


class Slow:
    """A connection that begins something and does not go on; it waits in a thread for its end."""

    def __init__(self, name: str, port: int, begin: bytes, answer: bytes) -> None:
        self.name = name
        self.answer = answer
        self.heard = b""
        self.seconds = 0.0
        self._port = port
        self._begin = begin
        self.thread = threading.Thread(target=self._wait)
        self.thread.start()

    def _wait(self) -> None:
        begun = time.monotonic()
        self.heard = raw(self._port, self._begin)
        self.seconds = time.monotonic() - begun


@pytest.fixture(scope="module", autouse=True)
def slow(hub: HubProcess) -> Iterator[list[Slow]]:
    """Connections that trickle all the while; the last test looks what became of them."""
    amqp_port = int(hub.status()["amqp_port"])
    started = [
        Slow("a silent one", port_of(hub), b"", b""),
        Slow("half a head", port_of(hub), b"GET / HTTP/1.1\r\nX-Slow: ", b"HTTP/1.1 408"),
        Slow("half an AMQP header", amqp_port, b"AMQP\x00\x00", b""),
        Slow("a silent one at the broker", amqp_port, b"", b""),
    ]
    yield started
    for one in started:
        one.thread.join(DEADLINE_S)


@pytest.fixture
def good(honest: Rest) -> Iterator[Rest]:
    """The honest client, which must be served after each test as if nothing happened."""
    yield honest
    assert honest.login() == 200
    honest("GET", "/v2/endpoints")


@pytest.fixture
def evil(hub: HubProcess) -> Rest:
    """A client with a login of its own, which wants what is not its own."""
    return hub.client(f"evil-{uuid.uuid4()}")


def port_of(hub: HubProcess) -> int:
    return int(hub.running["url"].rpartition(":")[2])


def raw(port: int, *pieces: bytes, wait: bool = True) -> bytes:
    """Send bytes and read until the hub closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                connection.sendall(piece)
        heard = b""
        while wait:
            try:
                chunk = connection.recv(65536)
            except ConnectionError:
                break
            if not chunk:
                break
            heard += chunk
        return heard


def status_of(answer: bytes) -> int:
    """The status of a raw answer, which has to have the hub's error shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert json.loads(body)["http_status_code"] == status
    return status


def get(path: bytes, *headers: bytes) -> bytes:
    lines = (b"GET " + path + b" HTTP/1.1", b"Host: localhost", *headers, b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n"


# -- what belongs to others ------------------------------------------------------------------------


def test_another_client_gets_at_nothing_of_mine(good: Rest, evil: Rest) -> None:
    mine = FakeEndpoint(good)
    with contextlib.closing(mine):
        function = good.function()
        submitted = good.submit(mine.id, function)
        (task,) = submitted["tasks"][function]
        group = submitted["task_group_id"]
        theirs = FakeEndpoint(evil)
        with contextlib.closing(theirs):
            own_function = evil.function()
            register = {"endpoint_name": "fake"}
            taken: list[tuple[str, str, object]] = [
                ("PUT", f"/v3/endpoints/{mine.id}", register),
                ("POST", "/v3/endpoints/", register),
                ("GET", f"/v2/endpoints/{mine.id}", None),
                ("GET", f"/v2/endpoints/{mine.id}/status", None),
                ("POST", f"/v3/endpoints/{mine.id}/lock", None),
                ("POST", f"/v2/endpoints/{mine.id}/lock", None),
                ("DELETE", f"/v2/endpoints/{mine.id}", None),
                ("GET", f"/v3/endpoints/{mine.id}/allowed_functions", None),
                ("POST", f"/v2/endpoints/{mine.id}/whitelist", {"func": [own_function]}),
                ("DELETE", f"/v2/endpoints/{mine.id}/whitelist/{function}", None),
                ("POST", f"/v3/endpoints/{mine.id}/submit", {"tasks": {own_function: [ARGUMENTS]}}),
                ("POST", f"/v3/endpoints/{theirs.id}/submit", {"tasks": {function: [ARGUMENTS]}}),
                (
                    "POST",
                    f"/v3/endpoints/{theirs.id}/submit",
                    {"tasks": {own_function: [ARGUMENTS]}, "task_group_id": group},
                ),
                ("GET", f"/v2/functions/{function}", None),
                ("DELETE", f"/v2/functions/{function}", None),
                ("GET", f"/v2/tasks/{task}", None),
                ("GET", f"/v2/taskgroup/{group}", None),
            ]
            for method, path, content in taken:
                status, answer = evil.send(method, path, content)
                assert status in (401, 403, 404, 405), (method, path, status, answer)
                assert task not in json.dumps(answer) or f"/{task}" in path
            status, answer = evil.send("POST", "/v2/batch_status", {"task_ids": [task]})
            assert status in (200, 403, 404)
            assert "result" not in json.dumps(answer.get("results", {}).get(task, {}))
            found = evil("GET", "/v2/endpoints")
            assert mine.id not in json.dumps(found)
        assert good.status_of(mine.id)
        assert len(mine.take(1)) == 1  # neither purged nor taken by anybody


def test_another_endpoints_and_users_queues_are_closed(good: Rest, evil: Rest) -> None:
    mine = FakeEndpoint(good)
    theirs = FakeEndpoint(evil)
    with contextlib.closing(mine), contextlib.closing(theirs):
        function = good.function()
        group = good.submit(mine.id, function)["task_group_id"]
        queue = mine.answer["task_queue_info"]["queue"]
        prefix = good("GET", "/v2/get_amqp_result_connection_url")["queue_prefix"]
        results = mine.answer["result_queue_info"]
        sdk = evil("GET", "/v2/get_amqp_result_connection_url")["connection_url"]
        for url in (theirs.answer["task_queue_info"]["connection_url"], sdk):
            with pika.BlockingConnection(pika.URLParameters(url)) as connection:
                for attempt in (
                    lambda c: c.basic_get(queue),
                    lambda c: c.basic_get(f"{prefix}{group}"),
                    lambda c: c.queue_purge(queue),
                    lambda c: c.queue_delete(queue),
                    lambda c: c.queue_declare("of-my-own"),
                    lambda c: c.exchange_declare("of-my-own"),
                    lambda c: c.queue_bind(queue, results["exchange"], "x"),
                    lambda c: _publish(c, "", queue),
                    lambda c: _publish(
                        c, results["exchange"], results["queue_publish_kwargs"]["routing_key"]
                    ),
                ):
                    channel = connection.channel()
                    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as caught:
                        attempt(channel)
                    assert caught.value.reply_code in (403, 405)
        assert len(mine.take(1)) == 1


def _publish(channel: object, exchange: str, key: str) -> None:
    channel.confirm_delivery()  # type: ignore[attr-defined]
    channel.basic_publish(exchange, key, b"forged", mandatory=True)  # type: ignore[attr-defined]


# -- odd requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        b"/v2/endpoints/../../cep/admin/status",
        b"/v2/endpoints/..%2f..%2fetc%2fpasswd",
        b"/v2/endpoints/%00",
        b"/v2/tasks/%2e%2e/%2e%2e/hub.key",
        b"//cep/admin/clients",
        b"/cep/admin/status",
        b"/cep/admin/clients/%2e%2e",
        b"/v2/functions/" + b"a" * 4000,
        b"/v2/tasks/\xff\xfe",
        b"/v2/tasks/%ff%fe%00%0d%0aX-Injected:%201",
        b"/v2/tasks/" + b"%f0%9f%92%a9" * 100,
        b"http://other.example.org/v2/version/x",
        b"*",
    ],
)
def test_tricks_in_the_path_are_client_errors(hub: HubProcess, good: Rest, path: bytes) -> None:
    token = b"Authorization: Bearer " + good.token.encode()
    answer = raw(port_of(hub), get(path, token))
    assert 400 <= status_of(answer) < 500
    head = answer.partition(b"\r\n\r\n")[0]
    assert b"X-Injected" not in head
    for secret in (b"root:", hub.running["admin_secret"].encode()):
        assert secret not in answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (get(b"/v2/version", b"X-Long: " + b"a" * 40_000), 431),
        (get(b"/v2/version", *(b"X-%d: a" % n for n in range(200))), 431),
        (get(b"/v2/endpoints?a=" + b"a" * 10_000), 414),
        (get(b"/v2/endpoints", b"Authorization: Bearer \xff\xfe\x80"), 401),
        (get(b"/v2/endpoints", b"Authorization: Bearer "), 401),
        (get(b"/v2/endpoints", b"Authorization: Basic !!"), 401),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100 + b"\r\n\r\n", 400),
        (b"GET / HTTP/one\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /v2/oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            b"POST /v2/oauth2/token HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n"
            b"Connection: close\r\n\r\n",
            413,
        ),
    ],
)
def test_a_request_that_is_too_large_or_no_http_is_refused(
    hub: HubProcess, good: Rest, head: bytes, status: int
) -> None:
    del good
    assert status_of(raw(port_of(hub), head)) == status


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"\xff\xfe\x00",
        b'{"tasks": "\xed\xa0\x80"}',
        b'{"tasks": NaN}',
        b'{"tasks": 1e999}',
        b'{"tasks": ' + b"9" * 100_000 + b"}",
        b"null",
        b"",
        b'{"tasks": {"x": 1}, "tasks": []}',
    ],
)
def test_bodies_that_are_no_honest_json_are_client_errors(
    hub: HubProcess, good: Rest, body: bytes
) -> None:
    for path in (f"/v3/endpoints/{uuid.uuid4()}/submit", "/v3/endpoints", "/v2/batch_status"):
        head = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {good.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        assert 400 <= status_of(raw(port_of(hub), head.encode(), body)) < 500


# -- wrong logins ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("good")
def test_wrong_logins_are_slowed_down_and_right_ones_from_the_same_address_are_not(
    hub: HubProcess, evil: Rest
) -> None:
    right, evil.secret = evil.secret, "guessed"
    statuses: list[int] = []
    while statuses.count(429) < 20:  # after a burst of 100, five a second are heard
        assert len(statuses) < 2000
        statuses.append(evil.login())
    assert statuses.count(401) >= 100
    for _ in range(100):
        status, answer = evil.send("GET", "/v2/endpoints")  # a token that was never given
        if status == 429:
            break
    assert answer["code"] == "TOO_MANY_REQUESTS"
    for _ in range(100):
        head = raw(port_of(hub), get(b"/v2/endpoints", b"Authorization: Bearer guessed"))
        if status_of(head) == 429:
            break
    assert b"\r\nretry-after: 1\r\n" in head.lower()
    evil.secret = right
    assert evil.login() == 200
    assert evil.send("GET", "/v2/endpoints")[0] == 200


def test_wrong_logins_at_the_broker_are_slowed_down_and_right_ones_are_not(good: Rest) -> None:
    endpoint = FakeEndpoint(good)
    with contextlib.closing(endpoint):
        url = endpoint.answer["task_queue_info"]["connection_url"]
        wrong = pika.URLParameters(url)
        wrong.credentials = pika.PlainCredentials("endpoint." + endpoint.id, "guessed")

        def seconds_of_refusal() -> float:
            begun = time.monotonic()
            with pytest.raises(pika.exceptions.AMQPConnectionError):
                pika.BlockingConnection(wrong)
            return time.monotonic() - begun

        # Twenty and one more for each second that this takes are refused at once.
        assert any(seconds_of_refusal() > 1.5 for _ in range(100))
        # Who is slowed down waits 2 s each time; on a busy machine anybody may, now and then.
        assert any(seconds_of_login(url) < 1.5 for _ in range(20))


def seconds_of_login(url: str) -> float:
    begun = time.monotonic()
    pika.BlockingConnection(pika.URLParameters(url)).close()
    return time.monotonic() - begun


# -- connections that only cost --------------------------------------------------------------------


def test_batches_as_the_sdk_sends_them_are_never_told_to_wait(good: Rest) -> None:
    endpoint = FakeEndpoint(good)
    with contextlib.closing(endpoint):
        function = good.function()
        group = None
        for _ in range(40):
            content = {"create_queue": True, "tasks": {function: [ARGUMENTS] * 128}}
            if group is not None:
                content["task_group_id"] = group
            group = good("POST", f"/v3/endpoints/{endpoint.id}/submit", content)["task_group_id"]


def test_connections_that_trickled_were_cut_off_in_time(slow: list[Slow]) -> None:
    for one in slow:
        one.thread.join(DEADLINE_S)
        assert 8.0 < one.seconds < DEADLINE_S, one.name
        assert one.heard.startswith(one.answer), one.name


def test_idle_connections_keep_nobody_out_and_cost_little(hub: HubProcess, good: Rest) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process = psutil.Process(hub.running["pid"])
    before = process.memory_info().rss
    endpoint = FakeEndpoint(good)
    function = good.function()
    ports = (port_of(hub), hub.status()["amqp_port"])
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(endpoint.close)
            for number in range(IDLE):
                connection = socket.socket()
                stack.callback(connection.close)
                connection.settimeout(DEADLINE_S)
                # Several addresses, since one has 28,000 ports for clients.
                connection.bind((f"127.0.0.{2 + number % 8}", 0))
                connection.connect(("127.0.0.1", ports[number % 2]))
                if number % 3 == 0:
                    connection.sendall(b"A" if number % 2 else b"GET /")
                if number % 500 == 0:
                    good("GET", "/v2/endpoints")
            assert good.login() == 200
            group = good.submit(endpoint.id, function)["task_group_id"]
            assert len(endpoint.take(1)) == 1
            assert group
            FakeEndpoint(good).close()  # a new login at the broker
            grown = process.memory_info().rss - before
            assert grown < 200 * MIB, f"{grown / MIB:.0f} MiB for {IDLE} idle connections"
            assert process.num_fds() < 9500
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
