"""The hub's REST interface: any path, query, headers and body; never a 5xx, never a hang."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from cep.hub.rest import admin, endpoints, functions, oauth, tasks
from cep.wire.buffers import pack_buffers
from tests.fuzz.target import Source, Target, piece
from tests.fuzz.targets.hub import LivingHub
from tests.unit.hub_rig import ADMIN_SECRET, ARGUMENTS, Answer, Hub

ROUTES = sorted(
    (method, route.path)
    for module in (admin, endpoints, functions, oauth, tasks)
    for route in module.routes
    for method in (route.methods or ()) - {"HEAD"}
)
IDS = ("$ENDPOINT", "$FUNCTION", "$TASK", "$GROUP", "alice")
AUTHORIZATIONS = ("alice", "bob", "secret", "admin", "none", "odd")


class Rig:
    """One living hub, and how an input becomes a request to it."""

    def __init__(self) -> None:
        self._living = LivingHub()

    def one(self, data: bytes) -> None:
        """Send one request."""
        living = self._living
        living.renew()
        source = Source(data)
        method, path = source.pick(ROUTES)
        who = source.pick(AUTHORIZATIONS)
        names = {"endpoint_id": 0, "function_id": 1, "task_id": 2, "task_group_id": 3, "client": 4}
        for name, number in names.items():
            if "{" + name + "}" in path:
                how = source.number()
                value = IDS[number] if how % 4 else _path_text(source.piece())
                path = path.replace("{" + name + "}", value)
        query = source.piece()
        if query:
            path += "?" + "".join(map(chr, query)).replace("\n", "")
        path = living.filled(path.encode("utf-8", "replace")).decode()
        headers = self._headers(who, source)
        if source.number() & 1:
            headers["content-length"] = source.piece().decode("latin-1")
        body = living.filled(source.rest())

        async def request(hub: Hub) -> Answer:
            return await hub.request(method, path, body=body, headers=headers)

        living.ask(request)

    def _headers(self, who: str, source: Source) -> dict[str, str]:
        hub = self._living.hub
        if who in ("alice", "bob"):
            return {"authorization": f"Bearer {hub.tokens[who]}"}
        if who == "secret":
            made = hub.secrets["alice"]
            login = base64.b64encode(f"{made.client_id}:{made.client_secret}".encode()).decode()
            return {"authorization": f"Basic {login}"}
        if who == "admin":
            return {"x-cep-hub-secret": ADMIN_SECRET}
        if who == "odd":
            text = source.piece().decode("latin-1")
            return {"authorization": text, "x-cep-hub-secret": text}
        return {}

    def close(self) -> None:
        """End the hub."""
        self._living.close()


def _path_text(raw: bytes) -> str:
    """As a server decodes a path: percent signs undone, what is no UTF-8 replaced."""
    return unquote_to_bytes(raw.replace(b"/", b"_")).decode("utf-8", "replace").replace("?", "_")


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    rig = Rig()
    try:
        yield rig.one
    finally:
        rig.close()


def _request(method: str, path: str, who: str, body: Any = b"", query: bytes = b"") -> bytes:
    head = bytes((ROUTES.index((method, path)), AUTHORIZATIONS.index(who)))
    head += b"\x01" * path.count("{")
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head + piece(query) + b"\x00" + raw


def seeds() -> Iterator[bytes]:
    """Each route by each kind of caller, and bodies with each field set and set wrong."""
    for number in range(len(ROUTES)):
        for who in range(len(AUTHORIZATIONS)):
            yield bytes((number, who, 1, 1, 0)) + b"{}"
    registration = {
        "endpoint_name": "site",
        "display_name": "d",
        "metadata": {"a": [1]},
        "public": True,
        "allowed_functions": ["$FUNCTION"],
        "admins": ["$FUNCTION"],
        "subscription_uuid": "$FUNCTION",
        "multi_user": False,
    }
    function = {
        "function_name": "f",
        "function_code": pack_buffers(["01\nYQ==\n"]),
        "serialized": True,
        "description": "d",
        "metadata": {},
        "public": False,
    }
    submit = {
        "tasks": {"$FUNCTION": [ARGUMENTS]},
        "create_queue": True,
        "task_group_id": "$GROUP",
        "resource_specification": {"priority": 1},
        "result_serializers": ["a.b"],
        "user_endpoint_config": {},
    }
    one = "/v3/endpoints/{endpoint_id}"
    for method, path, body in (
        ("POST", "/v3/endpoints", registration),
        ("PUT", one, registration),
        ("POST", "/v3/functions", function),
        ("POST", f"{one}/submit", submit),
        ("POST", "/v2/endpoints/{endpoint_id}/whitelist", {"func": ["$FUNCTION"]}),
        ("POST", "/v2/batch_status", {"task_ids": ["$TASK", "$GROUP"]}),
        ("POST", "/cep/admin/clients", {"name": "carol"}),
    ):
        who = "admin" if "admin" in path else "alice"
        yield _request(method, path, who, body)
        for key in body:
            for wrong in (None, 5, [], {}, "", "\x00", "x" * 300, 10**300, [[]], {"a": "\ud83d"}):
                yield _request(method, path, who, {**body, key: wrong})
    for noise in (b"[" * 2000, b'{"a":' * 900 + b"1" + b"}" * 900, b"\xff", b'"\\ud800"', b"NaN"):
        yield _request("POST", "/v3/endpoints", "alice", noise)
        yield _request(
            "POST", "/v3/endpoints", "alice", b'{"endpoint_name":"s","metadata":' + noise
        )
    for depth in range(60, 1000, 47):
        nested = b"[" * depth + b"]" * depth
        start = b'{"endpoint_name":"s","metadata":{"a":'
        yield _request("POST", "/v3/endpoints", "alice", start + nested + b"}}")
    for form in (b"grant_type=client_credentials&scope=a[b *c] d", b"grant_type=x", b"%ff=%ff&&&="):
        yield _request("POST", "/v2/oauth2/token", "secret", form)
        yield _request("POST", "/v2/oauth2/token/revoke", "secret", form)
    for query in (b"ids=a,b&usernames=c@d", b"role=any", b"role=%ED%A0%80", b"role=\xff", b"&&=;"):
        yield _request("GET", "/v2/api/identities", "alice", query=query)
        yield _request("GET", "/v2/endpoints", "alice", query=query)
    number = ROUTES.index(("POST", "/v3/endpoints"))
    for length in (b"5", b"\xb2", b"9" * 200, b"-1"):
        yield bytes((number, 0, 0, 1)) + piece(length) + b"{}"


TARGET = Target("rest", "the hub's REST interface", _open, seeds)
