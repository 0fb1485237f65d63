"""The control socket, from both ends: requests to an agent, and answers to a command."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from cep.agent import control
from cep.agent.lease_file import Lease, this_host, utc_now
from cep.agent.mailbox import ControlRequest
from cep.errors import CepError
from cep.paths import EndpointPaths
from tests.fuzz.target import Source, Target

SHORT_S = 0.2  # instead of the seconds that an honest peer has


class Rig:
    """A control server, and an agent that answers each request with the bytes of the input."""

    def __init__(self, folder: Path) -> None:
        self._paths = EndpointPaths.of(folder / "site")
        self._paths.root.mkdir()
        self._path = folder / "sockets" / "x.sock"
        self._seen: list[ControlRequest] = []
        self._server = control.ControlServer(self._path, self._put)
        self._server.start()
        here = this_host()
        self._answering = folder / "answers.sock"
        self._lease = Lease(
            host=here.name,
            machine_id=here.machine_id,
            boot_id=here.boot_id,
            pid=os.getpid(),
            start_time=1,
            token="t",
            renewed=utc_now(),
            period_s=30.0,
            control_socket=str(self._answering),
        )

    def _put(self, request: ControlRequest) -> None:
        self._seen.append(request)
        request.reply({"did": str(request.request.get("do"))})

    def one(self, data: bytes) -> None:
        """Be a bad client, or a bad agent."""
        source = Source(data)
        if source.number() & 1:
            self._be_agent(source.rest())
        else:
            self._be_client(source.rest())

    def _be_client(self, data: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self._path))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
        assert all(isinstance(one.request, dict) for one in self._seen)
        self._seen.clear()
        self._still_answers()

    def _still_answers(self) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(str(self._path))
            client.sendall(b'{"do":"status"}\n')
            assert json.loads(client.recv(65536)) == {"did": "status"}
        self._seen.clear()

    def _be_agent(self, data: bytes) -> None:
        self._paths.lease.write_bytes(self._lease.encode())
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(self._answering))
            server.listen(1)
            thread = threading.Thread(target=_answer, args=(server, data))
            thread.start()
            try:
                with contextlib.suppress(CepError):
                    assert isinstance(control.call(self._paths, {"do": "status"}, SHORT_S), dict)
            finally:
                thread.join()
                self._answering.unlink()

    def close(self) -> None:
        """End the server."""
        self._server.stop()


def _answer(server: socket.socket, data: bytes) -> None:
    connection, _ = server.accept()
    with connection, contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.recv(65536)
        connection.sendall(data)


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder))
        try:
            yield rig.one
        finally:
            rig.close()


def seeds() -> Iterator[bytes]:
    """Requests and answers, and what is neither."""
    for end in (b"\x00", b"\x01"):
        yield end + b'{"do":"status"}\n'
        yield end + b'{"do":"stop","drain_s":1e999}\n'
        yield end + b'{"error":"no"}\n'
        yield end + b'{"error":["no"]}\n'
        yield end + b'"error"\n'
        yield end + b"5\n"
        yield end + b"[]\n"
        yield end + b"\xff\n"
        yield end + b"\n"
        yield end
        yield end + b"[" * 3000 + b"\n"
        yield end + b'{"a":' * 1500 + b"\n"
        yield end + b"9" * 4095


TARGET = Target("control", "requests and answers on the control socket", _open, seeds)
