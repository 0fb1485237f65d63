"""A hub without sockets: its application on an in-memory broker, and a small ASGI client."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cep.amqp.declarer import Bind, DeclareQueue, DeleteQueue, PurgeQueue
from cep.errors import TemporaryFailure
from cep.hub import topology
from cep.hub.accounts import EmbeddedAccounts
from cep.hub.auth import COMPUTE_SCOPE, Access, Credentials
from cep.hub.directory import Directory
from cep.hub.options import HubFiles
from cep.hub.relay import Relay
from cep.hub.rest.application import application
from cep.hub.services import Addresses, Services
from cep.hub.store import Store
from cep.hub.submit import Submitter
from cep.model import Delivery
from cep.wire.buffers import pack_buffers

ADMIN_SECRET = "admin-secret"


class FakeConsumer:
    """Remembers what was settled."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.given_back: list[int] = []

    def ack(self, _epoch: int, tags: list[int]) -> None:
        self.acked.extend(tags)

    def give_back(self, _epoch: int, tags: list[int]) -> None:
        self.given_back.extend(tags)


class FakeMessaging:
    """A broker in memory: queues are lists of (headers, body)."""

    def __init__(self) -> None:
        self.queues: dict[str, list[tuple[dict[str, Any], bytes]]] = {}
        self.bindings: set[tuple[str, str, str]] = set()
        self.consumers: dict[str, tuple[FakeConsumer, Callable[[list[Delivery]], None]]] = {}
        self.broken = False
        self.hold: asyncio.Event | None = None
        self.changed = asyncio.Condition()
        self._tag = 0

    async def declare(self, operations: list[Any]) -> None:
        self._check()
        for one in operations:
            if isinstance(one, DeclareQueue):
                self.queues.setdefault(one.name, [])
            elif isinstance(one, Bind):
                self.bindings.add((one.queue, one.exchange, one.routing_key))
            elif isinstance(one, PurgeQueue):
                self.queues[one.name].clear()
            elif isinstance(one, DeleteQueue):
                self.queues.pop(one.name, None)

    async def publish(self, messages: list[topology.Outgoing]) -> set[int]:
        if self.hold is not None:
            await self.hold.wait()
        self._check()
        refused = set()
        position = 0
        for one in messages:
            queues = [
                queue
                for queue, exchange, key in self.bindings
                if (exchange, key) == (one.route.exchange, one.route.routing_key)
            ]
            if one.route.exchange == "" and one.route.routing_key in self.queues:
                queues = [one.route.routing_key]
            for body in one.bodies:
                if not queues:
                    refused.add(position)
                for queue in queues:
                    headers = dict(one.route.properties.get("headers", {}))
                    self.queues[queue].append((headers, body))
                position += 1
        async with self.changed:
            self.changed.notify_all()
        return refused

    def consume(self, queue: str, take: Callable[[list[Delivery]], None]) -> FakeConsumer:
        consumer = FakeConsumer()
        self.consumers[queue] = (consumer, take)
        return consumer

    def arrive(self, queue: str, routing_key: str, body: bytes) -> int:
        """Deliver a message to the hub's consumer; returns its tag."""
        self._tag += 1
        delivery = Delivery(1, self._tag, {}, body, routing_key=routing_key)
        self.consumers[queue][1]([delivery])
        return self._tag

    def _check(self) -> None:
        if self.broken:
            raise TemporaryFailure("The message broker did not answer.")


@dataclass
class Answer:
    """What the application answered."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)


@dataclass
class Hub:
    """The application and its parts; use inside `run`."""

    services: Services
    messaging: FakeMessaging
    now: list[float]
    dropped: list[str]
    app: Any
    secrets: dict[str, Credentials] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        peer: str = "127.0.0.1",
        gone: asyncio.Event | None = None,
        sent: list[Any] | None = None,
    ) -> Answer:
        """Send one request; `gone`, when it is set, is the client's disappearance."""
        path, _, query = path.partition("?")
        lines = {"host": "localhost:5000", **{k.lower(): v for k, v in (headers or {}).items()}}
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in lines.items()],
            "client": (peer, 40000),
            "server": ("localhost", 5000),
        }
        sent = [] if sent is None else sent
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": body or b"", "more_body": False}
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start = sent[0]
        return Answer(
            start["status"],
            {k.decode(): v.decode() for k, v in start["headers"]},
            b"".join(one.get("body", b"") for one in sent[1:]),
        )

    async def call(
        self, method: str, path: str, content: Any = None, *, as_: str = "alice", **more: Any
    ) -> Answer:
        """Send one authenticated request with a JSON body, as one of the rig's clients."""
        if as_ not in self.tokens:
            await self.login(as_)
        headers = {"authorization": f"Bearer {self.tokens[as_]}"}
        body = None
        if content is not None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            headers["content-type"] = "application/json"
        return await self.request(method, path, body=body, headers=headers, **more)

    async def login(self, name: str) -> Credentials:
        """Make a client when there is none of that name, and get it a token."""
        if name not in self.secrets:
            self.secrets[name] = await self.services.access.add(name)
        made = self.secrets[name]
        answer = await self.token(made, COMPUTE_SCOPE)
        self.tokens[name] = answer.json["access_token"]
        return made

    async def token(self, made: Credentials, scope: str, **form: str) -> Answer:
        """Ask for tokens as globus-sdk does."""
        login = base64.b64encode(f"{made.client_id}:{made.client_secret}".encode()).decode()
        content = urlencode({"grant_type": "client_credentials", "scope": scope, **form})
        return await self.request(
            "POST",
            "/v2/oauth2/token",
            body=content.encode(),
            headers={
                "authorization": f"Basic {login}",
                "content-type": "application/x-www-form-urlencoded",
            },
        )

    async def admin(self, method: str, path: str, content: Any = None, **more: Any) -> Answer:
        """Send a request to the admin routes."""
        return await self.request(
            method,
            f"/cep/admin{path}",
            body=None if content is None else json.dumps(content).encode(),
            headers={"X-Cep-Hub-Secret": ADMIN_SECRET},
            **more,
        )

    async def endpoint(self, name: str = "site", *, as_: str = "alice", **more: Any) -> str:
        """Register an endpoint; returns its id."""
        content = {"endpoint_name": name, **more}
        answer = await self.call("POST", "/v3/endpoints", content, as_=as_)
        assert answer.status == 200, answer.raw
        return str(answer.json["endpoint_id"])

    async def function(self, *, as_: str = "alice", **more: Any) -> str:
        """Register a function; returns its id."""
        content = {
            "function_name": "add",
            "function_code": pack_buffers(["01\nY29kZQ==\n"]),
            "serialized": True,
            **more,
        }
        answer = await self.call("POST", "/v3/functions", content, as_=as_)
        assert answer.status == 200, answer.raw
        return str(answer.json["function_uuid"])

    async def settled(self) -> None:
        """Wait until what has arrived is settled: the store has run what was asked before."""
        for _ in range(6):
            await self.services.store.call(lambda _connection: None)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until something is true; between looks the store runs what was asked before."""
        for _ in range(10_000):
            if condition():
                return
            await self.services.store.call(lambda _connection: None)
        raise AssertionError("it did not come true")

    def attempts(self) -> list[Any]:
        """The submits under way, and those whose client has no answer yet."""
        found = self.services.submitter._attempts.values()
        return [attempt for attempts in found for attempt in attempts]


ARGUMENTS = pack_buffers(["00\nYQ==\n", "00\nYg==\n"])


def submit_body(function_id: str, count: int = 1, **more: Any) -> dict[str, Any]:
    """A submit as the Executor sends it."""
    return {"create_queue": True, "tasks": {function_id: [ARGUMENTS] * count}, **more}


def run(
    work: Callable[[Hub], Coroutine[Any, Any, None]],
    state_dir: Path,
    *,
    messaging: FakeMessaging | None = None,
) -> None:
    """Run a test's coroutine on a fresh application over what the directory holds."""
    asyncio.run(_run(work, state_dir, messaging or FakeMessaging()))


async def _run(
    work: Callable[[Hub], Coroutine[Any, Any, None]],
    state_dir: Path,
    messaging: FakeMessaging,
    deadline_s: float | None = 100,
) -> None:
    files = HubFiles(state_dir)
    store = Store(files.database)
    store.open()
    now = [1_800_000_000.0]
    dropped: list[str] = []

    def clock() -> float:
        return now[0]

    def drop(user: str) -> int:
        dropped.append(user)
        return 1

    try:
        access = Access(store, b"k" * 32, clock)
        directory = Directory(store, clock)
        await access.load()
        await directory.load()
        await messaging.declare(topology.Layout().base())
        relay = Relay(store, directory, messaging, clock)  # type: ignore[arg-type]
        submitter = Submitter(store, messaging, relay, clock)  # type: ignore[arg-type]
        await submitter.load()
        relay.start()
        services = Services(
            store=store,
            access=access,
            directory=directory,
            messaging=messaging,  # type: ignore[arg-type]
            relay=relay,
            submitter=submitter,
            addresses=Addresses("http://localhost:5000", "127.0.0.1", 5672),
            accounts=EmbeddedAccounts(drop),
            layout=topology.Layout(),
            clock=clock,
            admin_secret=ADMIN_SECRET,
            started_at=now[0],
        )
        hub = Hub(services, messaging, now, dropped, application(services, files))
        try:
            await asyncio.wait_for(work(hub), deadline_s)
        finally:
            await relay.stop()
            await submitter.stop()
    finally:
        await asyncio.to_thread(store.close)
