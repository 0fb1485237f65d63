"""The control socket: one JSON request and one JSON answer per connection, from this user only.

The server is one small thread that owns the socket; it puts each request into the mailbox and the
main loop answers. A request that may wait for the network (a reload) is waited for by a thread of
its own, so that the next one is heard. `call` is the other side, used by the command line.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cep.agent.lease import read as read_lease
from cep.agent.mailbox import ControlRequest
from cep.errors import (
    CantCreate,
    DataError,
    NotAllowed,
    TemporaryFailure,
    Unavailable,
    revived,
)
from cep.paths import EndpointPaths, control_dir
from cep.safety.files import make_private

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES = 64 * 1024
PEER_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0
# A reload may have to tell the service, which is asked again for about half a minute.
SLOW = ("reload",)
SLOW_TIMEOUT_S = 300.0
MOST_SLOW = 8


def socket_path(paths: EndpointPaths) -> Path:
    """Where the agent of this endpoint listens: short, local, and its own."""
    digest = hashlib.sha256(os.fsencode(paths.root.absolute())).hexdigest()[:16]
    return control_dir() / f"{digest}.sock"


class ControlServer:
    """Accepts requests of this user and passes them to the mailbox."""

    def __init__(self, path: Path, put: Callable[[ControlRequest], None]) -> None:
        self._path = path
        self._put = put
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._slow = threading.BoundedSemaphore(MOST_SLOW)

    def start(self) -> None:
        """Listen.

        Raises:
            CantCreate: The directory is not ours alone, or the socket cannot be made.
        """
        make_private(self._path.parent)
        self._path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            server.bind(str(self._path))
            self._path.chmod(0o600)
            server.listen(8)
        except OSError as exc:
            server.close()
            raise CantCreate(f"The control socket {self._path} cannot be made: {exc}.") from exc
        self._socket = server
        self._thread = threading.Thread(
            target=self._serve, args=(server,), name="control", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the socket, end the thread, remove the file. Idempotent."""
        if self._socket is None or self._thread is None:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._socket.close()
        self._socket = None
        self._path.unlink(missing_ok=True)
        self._thread.join(PEER_TIMEOUT_S)

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return  # closed by stop()
            with contextlib.ExitStack() as closing:
                closing.enter_context(connection)
                try:
                    self._attend(connection, closing)
                except (OSError, ValueError, RecursionError) as exc:
                    log.debug("a control connection broke: %s", exc)

    def _attend(self, connection: socket.socket, closing: contextlib.ExitStack) -> None:
        """Read one request and have it answered, here or by a thread that closes it then."""
        if _peer_uid(connection) not in (os.getuid(), 0):
            log.warning(
                "a control request of another user was refused", extra={"event": "control.refused"}
            )
            return
        request = json.loads(_read_line(connection, PEER_TIMEOUT_S))
        if not isinstance(request, dict):
            raise ValueError("a control request is a JSON object")
        if request.get("do") not in SLOW:
            self._answer(connection, request, ANSWER_TIMEOUT_S)
        elif self._slow.acquire(blocking=False):
            threading.Thread(
                target=self._answer_slowly,
                args=(connection, closing.pop_all(), request),
                name="control-wait",
                daemon=True,
            ).start()
        else:
            _send(connection, {"error": f"{MOST_SLOW} such requests wait already; try it later."})

    def _answer_slowly(
        self, connection: socket.socket, closing: contextlib.ExitStack, request: dict[str, Any]
    ) -> None:
        try:
            with closing:
                self._answer(connection, request, SLOW_TIMEOUT_S)
        except OSError as exc:
            log.debug("a control connection broke: %s", exc)
        finally:
            self._slow.release()

    def _answer(
        self, connection: socket.socket, request: dict[str, Any], patience_s: float
    ) -> None:
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._put(ControlRequest(request, answers.put))
        try:
            answer = answers.get(timeout=patience_s)
        except queue.Empty:
            answer = {"error": "The agent did not answer; its main loop may be busy."}
        _send(connection, answer)


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.settimeout(PEER_TIMEOUT_S)
    connection.sendall(json.dumps(answer).encode() + b"\n")


def call(paths: EndpointPaths, request: dict[str, Any], timeout_s: float = 5.0) -> dict[str, Any]:
    """Ask the running agent of this endpoint, on this host.

    Raises:
        CepError: It refused the request, with a class of its own; `Unavailable` without one.
        Unavailable: No agent listens.
        TemporaryFailure: It did not answer in time.
        NotAllowed: Somebody else holds the socket.
        DataError: The answer is not the JSON object it should be.
    """
    lease = read_lease(paths)
    where = socket_path(paths) if lease is None else Path(lease.control_socket)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            client.connect(str(where))
            _check_peer(client, where)
            client.sendall(json.dumps(request).encode() + b"\n")
            line = _read_line(client, timeout_s, limit=16 * 1024 * 1024)
    except TimeoutError as exc:
        raise TemporaryFailure(
            f"The agent of endpoint {paths.name} did not answer within {timeout_s:g} s."
        ) from exc
    except (OSError, ValueError) as exc:  # a ValueError: no path can be called so, or no end to it
        raise Unavailable(
            f"The agent of endpoint {paths.name} cannot be reached on this host: {exc}."
        ) from exc
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise DataError(f"The agent of endpoint {paths.name} gave no readable answer.") from exc
    if not isinstance(answer, dict):
        raise DataError(f"The agent of endpoint {paths.name} gave an answer that is no object.")
    if "error" in answer:
        raise revived(answer, Unavailable)
    return answer


def _check_peer(client: socket.socket, where: Path) -> None:
    """An agent of this user answers there, and nobody who put a socket in its place."""
    uid = _peer_uid(client)
    if uid not in (os.getuid(), 0):
        raise NotAllowed(f"The control socket {where} is held by user {uid}, not by your agent.")


def _read_line(
    connection: socket.socket, timeout_s: float, limit: int = MAX_REQUEST_BYTES
) -> bytes:
    """Read one line within the time, however slowly it comes."""
    until = time.monotonic() + timeout_s
    data = bytearray()
    while not data.endswith(b"\n"):
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the line did not end in time")
        connection.settimeout(left_s)
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
        if len(data) > limit:
            raise ValueError(f"a control message is over {limit} bytes")
    return bytes(data)


def _peer_uid(connection: socket.socket) -> int:
    # struct ucred of unix(7): pid, uid, gid.
    size = struct.calcsize("3i")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return int(struct.unpack("3i", credentials)[1])
