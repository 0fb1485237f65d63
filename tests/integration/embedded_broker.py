"""The embedded broker in a process of its own, with the same means to disturb it as RabbitMq.

The process is this module run with -m: it serves a state directory and obeys one JSON command per
line on its standard input. The end of its input ends it, so none outlives the tests.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cep.hub.broker import Broker, Identity, Limits

USER = "admin"
PASSWORD = "admin-secret"


class EmbeddedBroker:
    """One broker process after another on one state directory and port.

    Args:
        state_dir: Where the broker keeps its database.
        limits: Fields of `Limits` that differ from the default.
        heartbeat_s: The heartbeat proposed to clients.
    """

    user = USER
    password = PASSWORD
    host = "127.0.0.1"

    def __init__(
        self, state_dir: Path, *, heartbeat_s: int = 60, limits: Mapping[str, Any] | None = None
    ) -> None:
        self.port = 0
        self._state_dir = state_dir
        self._heartbeat_s = heartbeat_s
        self._limits = dict(limits or {})
        self._users: dict[str, dict[str, str]] = {}
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """AMQP URL of the administrator."""
        return self.url_for(USER, PASSWORD)

    def url_for(self, user: str, password: str) -> str:
        """AMQP URL of another user."""
        return f"amqp://{user}:{password}@{self.host}:{self.port}/"

    def start(self) -> None:
        """Start the process on the port of its earlier life, and wait until it listens."""
        options = {
            "state_dir": str(self._state_dir),
            "port": self.port,
            "heartbeat_s": self._heartbeat_s,
            "limits": self._limits,
            "users": self._users,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.embedded_broker", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.port = self._answer()["port"]

    def stop(self) -> None:
        """End the broker in good order."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
        self._forget()

    def kill(self) -> None:
        """End the broker as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(60)
        self._forget()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End the process if there is one."""
        if self._process is not None:
            self.kill()

    def add_user(
        self, name: str, password: str, *, configure: str = "", write: str = "", read: str = ""
    ) -> str:
        """Make a user with permissions (regular expressions); return its AMQP URL."""
        rights = {
            "password": password,
            "configure": configure,
            "write": write,
            "read": read,
        }
        self._users[name] = rights
        self._command({"add": name, "rights": rights})
        return self.url_for(name, password)

    def close_connections(self, user: str = USER) -> None:
        """Close all connections of a user now."""
        self._command({"drop": user})

    def _command(self, command: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the broker process has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _forget(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process = None


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda name: bool(pattern) and re.search(pattern, name) is not None


async def _serve(options: dict[str, Any]) -> None:
    users: dict[str, dict[str, str]] = options["users"]

    def authenticate(user: str, password: str) -> Identity | None:
        if (user, password) == (USER, PASSWORD):
            return Identity.privileged(user)
        rights = users.get(user)
        if rights is None or rights["password"] != password:
            return None
        return Identity(
            user,
            configure=_matches(rights["configure"]),
            write=_matches(rights["write"]),
            read=_matches(rights["read"]),
        )

    broker = Broker(
        Path(options["state_dir"]),
        port=options["port"],
        authenticate=authenticate,
        heartbeat_s=options["heartbeat_s"],
        limits=Limits(**options["limits"]),
    )
    port = await broker.start()
    print(json.dumps({"port": port}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        if "add" in command:
            users[command["add"]] = command["rights"]
        else:
            broker.drop_connections(command["drop"])
        print("{}", flush=True)
    await broker.stop()


if __name__ == "__main__":
    asyncio.run(_serve(json.loads(sys.argv[1])))
