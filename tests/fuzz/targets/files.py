"""Small files that others may have written or torn: lease, pid, status, ids, records, bodies."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from cep.agent import agent, lease_file, state
from cep.cli import listing, naming, status
from cep.errors import CepError
from cep.hub.options import HubFiles
from cep.hub.running import read_running
from cep.journal.bodies import BodyFiles
from cep.paths import EndpointPaths
from cep.profiles.endpoint import read_record
from cep.worker import slots
from tests.fuzz.target import Source, Target

NAMES = (
    "lease.json",
    "daemon.pid",
    "status.json",
    "endpoint.json",
    "profile.json",
    "running.json",
    "body",
    "slots",
)


class Rig:
    """An endpoint's directory, whose files are written anew for each input."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "site"
        self._paths = EndpointPaths.of(self._root)
        self._hub = HubFiles(folder / "hub")
        self._hub.root.mkdir()
        self._root.mkdir(mode=0o700)
        (self._root / "config.yaml").write_text("engine: {type: ThreadPoolEngine}\n")
        self._here = lease_file.this_host()

    def one(self, data: bytes) -> None:
        """Write one of the files, and let everybody read who reads it."""
        source = Source(data)
        name = source.pick(NAMES)
        content = source.rest()
        if name == "body":
            self._body(content)
            return
        if name == "slots":
            self._slots(content)
            return
        path = self._hub.running if name == "running.json" else self._root / name
        path.write_bytes(content)
        try:
            self._read(name, content)
        finally:
            path.unlink()

    def _read(self, name: str, content: bytes) -> None:
        paths = self._paths
        if name == "lease.json":
            lease = lease_file.decode(content)
            lease_file.name_of(content)
            if lease is not None:
                lease_file.judge(lease, self._here)
                lease_file.describe(lease)
                again = lease_file.decode(lease.encode())
                assert again == lease, (again, lease)
        elif name == "daemon.pid":
            state.published_pid(paths)
        elif name == "running.json":
            read_running(self._hub)
            return
        elif name == "profile.json":
            read_record(self._root)
        elif name == "endpoint.json":
            state.stored_endpoint_id(paths)
            naming.registered_id(self._root)
            with contextlib.suppress(CepError):
                agent.stored_endpoint_id(paths)
        elif name == "status.json":
            picture = status.describe(paths)
            picture["agent"] = status._agent(paths, False)
            status.sentences(picture)
        with contextlib.suppress(CepError):
            status.describe(paths)
            listing.describe(self._root)

    def _body(self, content: bytes) -> None:
        """A name in the journal's directory of bodies; a good body beside it must be kept."""
        folder = self._paths.journal_bodies
        bodies = BodyFiles(folder)
        bodies.prepare()
        bodies.write([(7, "task", b"seven")])
        name = content.replace(b"/", b"_").replace(b"\0", b"_")[:200]
        stranger = os.fsencode(folder) + b"/" + name
        made = name not in (b"", b".", b"..", b"7.task")
        if made:
            Path(os.fsdecode(stranger)).write_bytes(b"eight")
        try:
            again = BodyFiles(folder)
            assert again.sweep({(7, "task"): 5}) == []
            assert again.read(7, "task", 5) == b"seven"
            assert again.total_bytes == 5
        finally:
            if made:
                Path(os.fsdecode(stranger)).unlink(missing_ok=True)

    def _slots(self, content: bytes) -> None:
        folder = self._paths.start_slots
        folder.mkdir(exist_ok=True)
        path = folder / f"x{slots.SUFFIX}"
        size = slots._SIZE
        whole = content[: size - 8] if content[:1] != b"+" else content[1:].ljust(size, b"\0")
        path.write_bytes(whole[:size])
        slots.begun_seqs(folder)
        slots.written_this_boot(folder)
        reader = slots.SlotReader(path)
        reader.since(reader.count())
        reader.since(0)


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    with tempfile.TemporaryDirectory() as folder:
        yield Rig(Path(folder)).one


def seeds() -> Iterator[bytes]:
    """Each file as cep writes it, and with values of the wrong kind."""
    here = lease_file.this_host()
    lease = lease_file.Lease(
        host="elsewhere",
        machine_id="m",
        boot_id="b",
        pid=1,
        start_time=5,
        token="t",
        renewed=lease_file.utc_now(),
        period_s=30.0,
        control_socket="/tmp/x.sock",
    )
    for each in (lease.encode(), lease.encode().replace(b"elsewhere", here.name.encode())):
        yield b"\x00" + each
        for value in (b"NaN", b"Infinity", b"1e999", b"-1", b'"\\ud800"', b"9" * 4000, b"null"):
            yield b"\x00" + each.replace(b"30.0", value)
            yield b"\x00" + each.replace(b'"pid": 1', b'"pid": ' + value)
            yield b"\x00" + each.replace(b'"/tmp/x.sock"', value)
            yield b"\x00" + each.replace(b'"start_time": 5', b'"start_time": ' + value)
    for pid in (b"1", b"-1", b"0", b"9" * 5000, b"\xff", b" 12\n", b"1_0"):
        yield b"\x01" + pid
    picture = (
        b'{"engine":{"type":"x","workers":1},"tasks":{},"links":{"tasks":true},"holds":["paused"]}'
    )
    yield b"\x02" + picture
    for value in (b"1", b"null", b'"x"', b"[1]", b'"\\ud800"'):
        yield b"\x02" + value
        for key in (b"engine", b"tasks", b"links", b"holds", b"since"):
            yield b"\x02" + b'{"' + key + b'":' + value + b"}"
    for number in (3, 4):
        for content in (b'{"endpoint_id":"x"}', b'{"endpoint_id":5}', b"[]", b"5", b"\xff", b""):
            yield bytes((number,)) + content
    yield b'\x04{"profile":"local","values":{"a":1},"service_url":null,"digest":"x"}'
    yield b'\x04{"values":[1],"profile":{}}'
    for pid in (b"1", b"1e999", b"9" * 4000, b"-1", b'"x"'):
        yield (
            b'\x05{"pid":' + pid + b',"start_time":1.0,"url":"x","public_url":"y",'
            b'"admin_secret":"z"}'
        )
    for deep in range(8):
        yield bytes((deep,)) + b"[" * 3000
    for name in (
        b"8.task",
        b"07.task",
        b"007.result",
        b"7.task.new",
        b"7.tas\xff",
        b"\xd9\xa7.task",
    ):
        yield b"\x06" + name
    yield b"\x07+" + slots._HEADER.pack(slots._MAGIC, slots.boot_id().encode(), 2**64 - 1)
    yield b"\x07+" + slots._HEADER.pack(slots._MAGIC, slots.boot_id().encode(), 3) + b"\x01"


TARGET = Target("files", "lease, pid, status, ids, records, hub, bodies, slots", _open, seeds)
