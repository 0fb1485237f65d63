"""How much one client may ask of the hub: buckets, bodies, and connections that only wait."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cep.hub.door import Door, Visitor, fitting
from cep.hub.limits import Bodies, Buckets, Rates, RequestLimits
from cep.hub.rest import requests
from cep.hub.rest.errors import Refusal
from cep.hub.server import Server
from tests.unit.hub_rig import Hub, run

SMALL = Rates(requests=1, requests_burst=3, wrong_logins=1, wrong_logins_burst=3)


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    now = [0.0]
    buckets = Buckets(2.0, 3, lambda: now[0])
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    now[0] = 0.5
    assert buckets.take("a") == 0
    assert buckets.take("a") == 0.5
    now[0] = 1000.0
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]


def test_buckets_of_strangers_do_not_pile_up() -> None:
    buckets = Buckets(1.0, 1, lambda: 0.0)
    for number in range(25_000):
        buckets.take(str(number))
    assert len(buckets._levels) == 10_000


def test_bodies_are_counted_in_all_and_by_client() -> None:
    bodies = Bodies(total=10, by_client=6)
    assert bodies.hold("a", 6)
    assert not bodies.hold("a", 1)
    assert not bodies.hold("b", 5)
    assert bodies.hold("b", 4)
    bodies.release("a", 6)
    bodies.release("b", 4)
    assert bodies.held == 0
    assert not bodies._of


def test_a_client_that_asks_too_much_is_told_when_to_come_again_and_others_are_served(
    tmp_path: Path,
) -> None:
    async def work(hub: Hub) -> None:
        await hub.login("alice")
        await hub.login("bob")
        hub.app.state.limits = RequestLimits(SMALL)
        answers = [await hub.call("GET", "/v2/endpoints") for _ in range(4)]
        assert [one.status for one in answers] == [200, 200, 200, 429]
        assert answers[-1].headers["retry-after"] == "1"
        assert answers[-1].json["code"] == "TOO_MANY_REQUESTS"
        assert answers[-1].json["http_status_code"] == 429
        assert (await hub.call("GET", "/v2/endpoints", as_="bob")).status == 200
        assert (await hub.token(hub.secrets["alice"], "x")).status == 429

    run(work, tmp_path)


def test_wrong_credentials_of_every_kind_are_counted_by_address(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        await hub.login("alice")
        hub.app.state.limits = RequestLimits(SMALL)
        wrong = {"authorization": "Bearer guessed"}
        basic = {"authorization": "Basic eDp5"}
        assert (await hub.request("GET", "/v2/endpoints", headers=wrong)).status == 401
        assert (await hub.request("POST", "/v2/oauth2/token", headers=basic)).status == 401
        guess = {"X-Cep-Hub-Secret": "guessed"}
        assert (await hub.request("GET", "/cep/admin/status", headers=guess)).status == 404
        for method, path, headers in (
            ("GET", "/v2/endpoints", wrong),
            ("POST", "/v2/oauth2/token", basic),
            ("GET", "/cep/admin/status", guess),
        ):
            answer = await hub.request(method, path, headers=headers)
            assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        elsewhere = await hub.request("GET", "/v2/endpoints", headers=wrong, peer="192.0.2.1")
        assert elsewhere.status == 401
        assert (await hub.call("GET", "/v2/endpoints")).status == 200  # right, same address

    run(work, tmp_path)


def test_large_bodies_are_given_back_when_their_request_is_over(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        body = b" " * (3 << 20)
        await hub.login("alice")
        hub.app.state.limits = limits = RequestLimits(Rates(client_body_bytes=2 << 20))
        path = "/v3/functions"
        assert (await hub.call("POST", path, body)).status == 429
        assert limits.bodies.held == 0
        hub.app.state.limits = RequestLimits(Rates(body_bytes=2 << 20))
        answer = await hub.call("POST", path, body)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")

    run(work, tmp_path)


@contextlib.asynccontextmanager
async def serving(
    handler: Route, *, connections: int = 100, head_s: float = 10.0
) -> AsyncIterator[tuple[Server, int]]:
    """The HTTP server around one route, on a port."""
    app = Starlette(routes=[handler])
    app.state.limits = RequestLimits(Rates(body_silence_s=0.2, body_grace_s=0.4, body_rate=1e6))
    server = Server(app, connections=connections, head_s=head_s)
    listening = socket.create_server(("127.0.0.1", 0))
    ready = asyncio.Event()
    task = asyncio.create_task(server.run([listening], ready.set))
    await ready.wait()
    try:
        yield server, listening.getsockname()[1]
    finally:
        server.end()
        await task
        listening.close()


async def _hello(_request: Request) -> Response:
    return PlainTextResponse("hello")


async def _read(request: Request) -> Response:
    try:
        body = await requests.read_body(request, 1 << 20)
    except Refusal as refusal:
        return PlainTextResponse(refusal.code, refusal.status)
    return PlainTextResponse(str(len(body)))


HELLO = Route("/", _hello)
READ = Route("/", _read, methods=["POST"])
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def exchange(port: int, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """Send pieces, listening for a while after each, then read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    with contextlib.suppress(ConnectionError):  # it was closed while a piece was on its way
        for piece in pieces:
            if reader.at_eof():
                break
            writer.write(piece)
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                if pause_s:
                    heard += await asyncio.wait_for(reader.read(65536), pause_s)
        heard += await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return heard


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ((), b""),
        ((b"GET / HT",), b"HTTP/1.1 408"),
        ((GET, b"GET / HTTP/1.1\r\nHo"), b"HTTP/1.1 200"),
    ],
)
def test_a_head_that_does_not_come_ends_the_connection(
    pieces: tuple[bytes, ...], answer: bytes
) -> None:
    async def scenario() -> bytes:
        async with serving(HELLO, head_s=1.0) as (_server, port):
            return await exchange(port, *pieces)

    heard = asyncio.run(scenario())
    assert heard.startswith(answer)
    if len(pieces) == 2:
        assert b"hello" in heard
        assert b"HTTP/1.1 408" in heard


@pytest.mark.parametrize("pieces", [(b"",), tuple([b"x"] * 8)])
def test_a_body_that_stops_or_trickles_is_answered_with_408(pieces: tuple[bytes, ...]) -> None:
    async def scenario() -> bytes:
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
        async with serving(READ, head_s=0.5) as (_server, port):
            return await exchange(port, head, *pieces, pause_s=0.1)

    assert asyncio.run(scenario()).startswith(b"HTTP/1.1 408")


def test_the_idlest_connection_leaves_for_a_new_one_and_a_busy_one_stays() -> None:
    async def scenario() -> None:
        release, started = asyncio.Event(), asyncio.Event()

        async def wait(_request: Request) -> Response:
            started.set()
            await release.wait()
            return PlainTextResponse("kept")

        async with serving(Route("/", wait), connections=3) as (server, port):
            busy_reader, busy_writer = await asyncio.open_connection("127.0.0.1", port)
            busy_writer.write(GET)
            await started.wait()
            others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
            for reader, _ in others[:18]:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 60) == b""
            assert len(server.door) == 3
            release.set()
            assert b"200 OK" in await busy_reader.readuntil(b"\r\n\r\n")
            others[-1][1].write(GET)
            assert b"200 OK" in await others[-1][0].readuntil(b"\r\n\r\n")
            for _, writer in (*others, (None, busy_writer)):
                writer.close()

    asyncio.run(scenario())


def test_with_all_connections_busy_a_new_one_is_turned_away() -> None:
    door = Door(2, "The port")
    visitors = [Visitor(door, lambda _visitor: asyncio.Protocol()) for _ in range(4)]
    assert door.enter(visitors[0])
    assert door.enter(visitors[1])
    for one in visitors[:2]:
        one.busy()
    assert not door.enter(visitors[2])
    visitors[0].idle()
    assert door.enter(visitors[3])
    assert len(door) == 2
    visitors[0].busy()  # gone already, and stays so
    assert len(door) == 2


def test_a_limit_is_lowered_to_the_files_that_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _kind: (1024, 1024))
    assert fitting(4096) == 384
    assert fitting(100) == 100
    assert fitting(1) == 1
