"""A stand-in for the web service and its login service: one small HTTP server in a thread.

It answers with what a test puts into `answers` and keeps every request, so that tests see what
goes over the wire. It is no model of the real service; the hub's own tests are the real meeting.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

CLIENT_ID = "0a0a0a0a-0000-4000-8000-000000000001"
SECRET = "not-a-secret"
ENDPOINT_ID = "1f0e9a52-0000-4000-8000-00000000000a"


def registration_answer(endpoint_id: str = ENDPOINT_ID) -> dict[str, Any]:
    """An answer to a registration with all blocks."""
    url = "amqp://user:password@127.0.0.1:5672/"

    def publish(kind: str) -> dict[str, Any]:
        return {
            "connection_url": url,
            "exchange": kind,
            "queue": kind,
            "queue_publish_kwargs": {
                "exchange": kind,
                "routing_key": f"{endpoint_id}.{kind}",
                "mandatory": True,
                "properties": {"delivery_mode": 2},
            },
        }

    return {
        "endpoint_id": endpoint_id,
        "task_queue_info": {
            "connection_url": url,
            "exchange": "tasks",
            "queue": f"{endpoint_id}.tasks",
        },
        "result_queue_info": publish("results"),
        "heartbeat_queue_info": publish("heartbeats"),
    }


@dataclass
class Request:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class StandIn:
    """The server's answers and what it was asked.

    Attributes:
        url: Its address.
        answers: (method, path without query) -> (status, JSON document or text).
        requests: What came, in order.
        secret: The secret that the login service accepts.
        tokens: How many tokens it handed out.
    """

    url: str = ""
    answers: dict[tuple[str, str], tuple[int, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    secret: str = SECRET
    tokens: int = 0

    def asked(self, path: str) -> list[Request]:
        """The requests for one path."""
        return [request for request in self.requests if urlsplit(request.path).path == path]

    def respond(self, request: Request) -> tuple[int, Any]:
        """The answer to a request."""
        path = urlsplit(request.path).path
        found = self.answers.get((request.method, path))
        if found is not None:
            return found
        if path == "/v2/oauth2/token":
            return self._token(request)
        if path == "/v2/oauth2/token/revoke":
            return 200, {"active": False}
        return 404, {"code": "NOT_FOUND", "message": f"nothing at {path}"}

    def _token(self, request: Request) -> tuple[int, Any]:
        wanted = "Basic " + base64.b64encode(f"{CLIENT_ID}:{self.secret}".encode()).decode()
        if request.headers.get("Authorization") != wanted:
            return 401, {"error": "invalid_client", "message": "who are you"}
        self.tokens += 1
        scopes = parse_qs(request.body)["scope"][0].split()
        compute = [scope for scope in scopes if "facd7ccc" in scope]
        others = [scope for scope in scopes if scope not in compute]
        tokens = [
            {
                "access_token": f"{name}-{self.tokens}",
                "resource_server": server,
                "scope": " ".join(granted),
                "token_type": "Bearer",
                "expires_in": 3600,
            }
            for name, server, granted in (
                ("compute", "funcx_service", compute),
                ("auth", "auth.globus.org", others),
            )
            if granted
        ]
        return 200, {**tokens[0], "other_tokens": tokens[1:]}


@contextmanager
def serving() -> Iterator[StandIn]:
    """Serve on a free port of the loopback address."""
    stand_in = StandIn()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            is_json = "json" in (self.headers.get("Content-Type") or "")
            request = Request(
                self.command,
                self.path,
                dict(self.headers),
                json.loads(raw) if raw and is_json else raw,
            )
            stand_in.requests.append(request)
            status, document = stand_in.respond(request)
            body = document if isinstance(document, str) else json.dumps(document)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, *args: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield stand_in
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
