"""Who serves from a state directory now: the file a hub writes, and talking to that hub.

Used by the hub to announce itself and by `cep hub` commands; standard library and psutil only.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import ssl
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import psutil

from cep.errors import (
    CepError,
    DataError,
    InputMissing,
    PeerUntrusted,
    TemporaryFailure,
    Unavailable,
    UsageError,
)
from cep.hub.options import HubFiles
from cep.safety import peer
from cep.safety.files import open_private

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
        certificate: SHA-256 of its certificate, as hexadecimal text; None without TLS.
        ca_file: PEM file that its clients on this machine are to trust, where it can name one.
    """

    pid: int
    start_time: float
    url: str
    public_url: str
    admin_secret: str
    certificate: str | None = None
    ca_file: str | None = None

    @classmethod
    def of_this_process(
        cls,
        *,
        url: str,
        public_url: str,
        admin_secret: str,
        certificate: str | None = None,
        ca_file: str | None = None,
    ) -> RunningHub:
        """Describe the calling process."""
        return cls(
            pid=os.getpid(),
            start_time=psutil.Process().create_time(),
            url=url,
            public_url=public_url,
            admin_secret=admin_secret,
            certificate=certificate,
            ca_file=ca_file,
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
    descriptor = open_private(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
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
            certificate=found.get("certificate"),
            ca_file=found.get("ca_file"),
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
        PeerUntrusted: Somebody else answers in its place.
        CepError: It refused; the text is its own.
    """
    # Directly, never through a proxy of the environment: the hub is on this machine.
    connection = _connect(running)
    try:
        connection.request(
            method,
            f"/cep/admin{path}",
            body=None if body is None else json.dumps(body).encode(),
            headers={SECRET_HEADER: running.admin_secret, "Content-Type": "application/json"},
        )
        answer = connection.getresponse()
        raw = answer.read()
        if answer.status >= 400:
            raise _refused(answer.status, raw)
        found = json.loads(raw)
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise Unavailable(
            f"The hub at {running.url} (process {running.pid}) does not answer: {exc}."
        ) from exc
    finally:
        connection.close()
    if not isinstance(found, dict):
        raise DataError(f"The hub at {running.url} gave an answer that is not an object.")
    return found


def _connect(running: RunningHub) -> http.client.HTTPConnection:
    parts = urlsplit(running.url)
    host, port = str(parts.hostname), parts.port
    if running.certificate is None:
        return _Plain(host, port, timeout=_REQUEST_TIMEOUT_S)
    return _Pinned(running.certificate, host, port)


class _Plain(http.client.HTTPConnection):
    """A connection that sends nothing to a port of somebody else."""

    def connect(self) -> None:
        super().connect()
        peer.check_peer(self.sock)


class _Pinned(http.client.HTTPSConnection):
    """A connection to the one certificate that the hub announced, whatever its name and age."""

    def __init__(self, fingerprint: str, host: str, port: int | None) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # The address is a loopback one, which no certificate names; the fingerprint says it all.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        super().__init__(host, port, timeout=_REQUEST_TIMEOUT_S, context=context)
        self._fingerprint = fingerprint

    def connect(self) -> None:
        super().connect()
        seen = self.sock.getpeercert(binary_form=True) or b""
        if hashlib.sha256(seen).hexdigest() != self._fingerprint:
            raise PeerUntrusted(
                f"What answers at port {self.port} shows another certificate than the hub "
                "announced; nothing was sent.",
                hint="Look at the hub's log, and restart the hub.",
            )


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
