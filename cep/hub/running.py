"""Who serves from a state directory now: the file a hub writes, and talking to that hub.

Used by the hub to announce itself and by `cep hub` commands; standard library and psutil only.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from cep.errors import (
    CepError,
    DataError,
    InputMissing,
    TemporaryFailure,
    Unavailable,
    UsageError,
)
from cep.hub.options import HubFiles

SECRET_HEADER = "X-Cep-Hub-Secret"
_REQUEST_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class RunningHub:
    """A hub process.

    Attributes:
        pid: Its process id.
        start_time: When the process began, seconds since the epoch, as the system says: a pid
            alone may belong to somebody else by now.
        url: Where programs of this machine reach it.
        public_url: The address for its clients.
        admin_secret: Opens its admin routes.
    """

    pid: int
    start_time: float
    url: str
    public_url: str
    admin_secret: str

    @classmethod
    def of_this_process(cls, *, url: str, public_url: str, admin_secret: str) -> RunningHub:
        """Describe the calling process."""
        return cls(
            pid=os.getpid(),
            start_time=psutil.Process().create_time(),
            url=url,
            public_url=public_url,
            admin_secret=admin_secret,
        )

    def is_alive(self) -> bool:
        """Whether that process still lives."""
        try:
            process = psutil.Process(self.pid)
            return (
                abs(process.create_time() - self.start_time) < 1.0
                and process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.Error:
            return False


def write_running(files: HubFiles, running: RunningHub) -> None:
    """Announce the hub (0600, in one step)."""
    fresh = files.running.with_name(f"{files.running.name}.{running.pid}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(asdict(running), file)
    fresh.replace(files.running)


def forget_running(files: HubFiles) -> None:
    """Take the announcement back."""
    files.running.unlink(missing_ok=True)


def read_running(files: HubFiles) -> RunningHub | None:
    """Return the hub that serves from this directory, or None."""
    try:
        found = json.loads(files.running.read_text("utf-8"))
        running = RunningHub(
            pid=int(found["pid"]),
            start_time=float(found["start_time"]),
            url=str(found["url"]),
            public_url=str(found["public_url"]),
            admin_secret=str(found["admin_secret"]),
        )
        # psutil knows no process of such a number.
        return running if 0 < running.pid < 1 << 31 and running.is_alive() else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def no_hub(files: HubFiles) -> Unavailable:
    """Return the error for commands that need a running hub."""
    return Unavailable(
        f"No hub serves from {files.root}.",
        hint="Start one with `cep hub serve --detach`, or name its directory with --state-dir.",
    )


def ask(
    running: RunningHub, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Ask the running hub something on its admin routes.

    Args:
        running: The hub.
        method: HTTP method.
        path: Below `/cep/admin`, with the leading slash.
        body: JSON object to send.

    Raises:
        Unavailable: It does not answer.
        CepError: It refused; the text is its own.
    """
    request = urllib.request.Request(
        f"{running.url}/cep/admin{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={SECRET_HEADER: running.admin_secret, "Content-Type": "application/json"},
    )
    # Never through a proxy of the environment: the hub is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_REQUEST_TIMEOUT_S) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            raise _refused(exc.code, exc.read()) from exc
    except (OSError, ValueError) as exc:
        raise Unavailable(
            f"The hub at {running.url} (process {running.pid}) does not answer: {exc}."
        ) from exc
    if not isinstance(found, dict):
        raise DataError(f"The hub at {running.url} gave an answer that is not an object.")
    return found


def _refused(status: int, raw: bytes) -> CepError:
    try:
        message = str(json.loads(raw)["message"])
    except (ValueError, KeyError, TypeError):
        message = f"The hub refused with status {status}."
    text, _, hint = message.partition("\n")
    kinds: dict[int, type[CepError]] = {
        404: InputMissing,
        409: UsageError,
        422: UsageError,
        503: TemporaryFailure,
    }
    return kinds.get(status, DataError)(text, hint=hint or None)
