"""What fuzzing has found, one test each: inputs that once crashed, hung or filled somebody."""

from __future__ import annotations

import json
import os
import pickle
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cep.agent import agent, control, lease_file
from cep.agent.mailbox import ControlRequest
from cep.agent.state import stored_endpoint_id
from cep.cli import naming, status
from cep.config.document import LARGEST
from cep.config.load import load_text
from cep.engines.htex_executor import read_message
from cep.engines.htex_task import Answer, pack_answers, unpack_answers
from cep.engines.plain_pickle import loads
from cep.errors import ConfigError, DataError, Unavailable
from cep.hub import topology
from cep.hub.options import HubFiles
from cep.hub.running import read_running
from cep.journal.bodies import BodyFiles
from cep.paths import EndpointPaths
from cep.profiles.endpoint import read_record
from cep.wire.result import pack_result
from cep.wire.status import pack_status_report
from cep.worker import packets
from tests.unit.hub_rig import Hub, run, submit_body

DEEP = b"[" * 5000
ENGINE = "engine: {type: ThreadPoolEngine}\n"


@pytest.fixture
def paths(tmp_path: Path) -> EndpointPaths:
    """An endpoint's directory."""
    found = EndpointPaths.of(tmp_path / "site")
    found.root.mkdir()
    (found.root / "config.yaml").write_text(ENGINE)
    return found


# The hub ------------------------------------------------------------------------------------


def test_a_heartbeat_period_beyond_any_float_stops_nobodys_results(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        mine, function_id = await hub.endpoint(), await hub.function()
        answer = await hub.call("POST", f"/v3/endpoints/{mine}/submit", submit_body(function_id))
        (task_id,) = answer.json["tasks"][function_id]
        report = pack_status_report(mine, {"heartbeat_period": 10**400})
        key = topology.result_key(mine)
        first = hub.messaging.arrive(topology.RESULTS, key, report)
        beat = hub.messaging.arrive(topology.HEARTBEATS, topology.heartbeat_key(mine), report)
        second = hub.messaging.arrive(topology.RESULTS, key, pack_result(task_id, "00\nx\n"))
        await hub.settled()
        assert {first, second} <= set(hub.messaging.consumers[topology.RESULTS][0].acked)
        assert beat in hub.messaging.consumers[topology.HEARTBEATS][0].acked
        assert (await hub.call("GET", f"/v2/tasks/{task_id}")).json["result"] == "00\nx\n"
        assert (await hub.call("GET", f"/v2/endpoints/{mine}/status")).json["status"] == "online"

    run(work, tmp_path)


def test_half_of_a_surrogate_pair_from_an_endpoint_is_no_failure_of_the_hub(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        mine, function_id = await hub.endpoint(), await hub.function()
        answer = await hub.call("POST", f"/v3/endpoints/{mine}/submit", submit_body(function_id))
        (task_id,) = answer.json["tasks"][function_id]
        result = pack_result(task_id, "$").replace(b"$", b"\\ud800")
        report = pack_status_report(mine, {"host": "$"}).replace(b"$", b"\\ud800")
        hub.messaging.arrive(topology.RESULTS, topology.result_key(mine), result)
        hub.messaging.arrive(topology.HEARTBEATS, topology.heartbeat_key(mine), report)
        await hub.settled()
        assert (await hub.call("GET", f"/v2/tasks/{task_id}")).json["result"] == "?"
        told = await hub.call("GET", f"/v2/endpoints/{mine}/status")
        assert told.json["details"] == {"host": "?"}

    run(work, tmp_path)


def test_no_depth_of_nesting_is_a_failure_of_the_hub(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        start = b'{"endpoint_name":"s","metadata":{"a":'
        for depth in (*range(20, 200, 20), *range(200, 1100, 25), 50_000):
            body = start + b"[" * depth + b"]" * depth + b"}}"
            assert (await hub.call("POST", "/v3/endpoints", body)).status in (200, 400)

    run(work, tmp_path)


@pytest.mark.parametrize(
    ("length", "wanted"), [("\xb2", 200), ("9" * 5000, 413), ("00", 200), ("-1", 200)]
)
def test_an_odd_content_length_is_no_failure_of_the_hub(
    tmp_path: Path, length: str, wanted: int
) -> None:
    async def work(hub: Hub) -> None:
        await hub.login("alice")
        answer = await hub.request(
            "POST",
            "/v3/endpoints",
            body=b'{"endpoint_name": "s"}',
            headers={
                "authorization": f"Bearer {hub.tokens['alice']}",
                "content-length": length,
            },
        )
        assert answer.status == wanted

    run(work, tmp_path)


def test_the_tasks_of_a_submit_are_counted_before_they_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cep.hub.rest import tasks

    looked_at: list[object] = []
    monkeypatch.setattr(tasks, "_check_arguments", lambda one, _id: looked_at.append(one))

    async def work(hub: Hub) -> None:
        mine, function_id = await hub.endpoint(), await hub.function()
        content = {"tasks": {function_id: [""] * 500_000}}
        answer = await hub.call("POST", f"/v3/endpoints/{mine}/submit", content)
        assert answer.status == 413
        assert not looked_at

    run(work, tmp_path)


# Files ----------------------------------------------------------------------------------------


def test_a_file_nested_beyond_measure_is_an_unreadable_one(paths: EndpointPaths) -> None:
    for file in (paths.endpoint_json, paths.status_json, paths.lease, paths.root / "profile.json"):
        file.write_bytes(DEEP)
    assert stored_endpoint_id(paths) is None
    assert naming.registered_id(paths.root) is None
    assert lease_file.read(paths) is None
    assert read_record(paths.root).profile is None
    assert status._agent(paths, False) is None
    hub = HubFiles(paths.root)
    hub.running.write_bytes(DEEP)
    assert read_running(hub) is None


@pytest.mark.parametrize("content", [b"\xff", DEEP, b"5", b"[]"])
def test_an_endpoint_json_that_is_no_such_thing_is_told_in_a_sentence(
    paths: EndpointPaths, content: bytes
) -> None:
    paths.endpoint_json.write_bytes(content)
    with pytest.raises(DataError, match="does not hold an endpoint id"):
        agent.stored_endpoint_id(paths)


@pytest.mark.parametrize("period", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_lease_that_could_never_be_silent_for_too_long_is_none(period: float) -> None:
    lease = lease_file.Lease("h", "m", "b", 1, 1, "t", lease_file.utc_now(), period, "/tmp/x.sock")
    assert lease_file.decode(lease.encode()) is None


@pytest.mark.parametrize("pid", ["1e999", "-1", "0", str(1 << 40)])
def test_a_hub_with_an_impossible_pid_does_not_run(tmp_path: Path, pid: str) -> None:
    hub = HubFiles(tmp_path)
    rest = '"start_time":1,"url":"","public_url":"","admin_secret":""'
    hub.running.write_text(f'{{"pid":{pid},{rest}}}')
    assert read_running(hub) is None


@pytest.mark.parametrize("value", [1, None, "x", [1], {"a": {}}])
def test_a_status_file_with_parts_of_other_kinds_is_still_told(value: Any) -> None:
    for part in ("engine", "tasks", "links", "holds", "since"):
        picture = {"name": "n", "id": None, "status": "Running", "host": None, "pid": None}
        picture |= {"service": None, "paused": False, "directory": "d", "agent": {part: value}}
        assert status.sentences(picture)[-1] == "Directory: d"


def test_only_the_file_that_the_journal_names_is_its_body(tmp_path: Path) -> None:
    bodies = BodyFiles(tmp_path / "bodies")
    bodies.prepare()
    bodies.write([(7, "task", b"seven")])
    (tmp_path / "bodies" / "007.task").write_bytes(b"another")
    (tmp_path / "bodies" / "8.task").mkdir()
    (tmp_path / "bodies" / "9.task").write_bytes(b"an orphan")
    again = BodyFiles(tmp_path / "bodies")
    assert again.sweep({(7, "task"): 5}) == []
    left = sorted(path.name for path in (tmp_path / "bodies").iterdir())
    assert left == ["007.task", "7.task", "8.task"]


# The control socket -------------------------------------------------------------------------


def _ask(path: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(data)
        return client.recv(65536)


@pytest.fixture
def served(tmp_path: Path) -> Any:
    """The path of a control socket that answers every request."""
    path = tmp_path / "sockets" / "x.sock"

    def put(request: ControlRequest) -> None:
        request.reply({"ok": True})

    server = control.ControlServer(path, put)
    server.start()
    yield path
    server.stop()


def test_a_request_nested_beyond_measure_does_not_end_the_control_thread(served: Path) -> None:
    assert _ask(served, DEEP + b"\n") == b""
    assert json.loads(_ask(served, b"{}\n")) == {"ok": True}


def test_a_request_that_comes_by_drops_has_its_time_and_no_more(
    served: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PEER_TIMEOUT_S", 2.0)
    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(served))

        def drip() -> None:
            while not over.wait(0.02):
                try:
                    slow.send(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            assert json.loads(_ask(served, b"{}\n")) == {"ok": True}
        finally:
            over.set()
            thread.join()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 200])
def test_a_lease_whose_control_socket_cannot_be_is_told_in_a_sentence(
    paths: EndpointPaths, name: str
) -> None:
    lease = lease_file.Lease("h", "m", "b", 1, 1, "t", lease_file.utc_now(), 30.0, name)
    paths.lease.write_bytes(lease.encode())
    with pytest.raises(Unavailable, match="cannot be reached"):
        control.call(paths, {"do": "status"})


@pytest.mark.parametrize("answer", [b"5\n", b'"error"\n', b"[]\n", DEEP + b"\n", b"\xff\n"])
def test_an_answer_that_is_no_object_is_told_in_a_sentence(
    paths: EndpointPaths, tmp_path: Path, answer: bytes
) -> None:
    path = tmp_path / "agent.sock"
    lease = lease_file.Lease("h", "m", "b", 1, 1, "t", lease_file.utc_now(), 30.0, str(path))
    paths.lease.write_bytes(lease.encode())

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(DataError):
            control.call(paths, {"do": "status"})
        thread.join()


# The configuration ----------------------------------------------------------------------------


def _doubled(opening: str, step: Callable[[int], str], levels: int = 40) -> str:
    return "\n".join([f"a0: &a0 {opening}", *(f"a{n}: &a{n} {step(n)}" for n in range(1, levels))])


TRAPS = {
    "aliases of a list": _doubled("x", lambda n: f"[*a{n - 1}, *a{n - 1}]"),
    "aliases as a key": _doubled("x", lambda n: f"[*a{n - 1}, *a{n - 1}]", 20) + "\n? *a19\n: x",
    "merged blocks": _doubled("{k: 1}", lambda n: f"{{<<: [*a{n - 1}, *a{n - 1}]}}"),
    "aliases as a type": _doubled("x", lambda n: f"[*a{n - 1}]") + "\nengine: {type: *a39}",
    "a block that merges itself": "a: &a {<<: *a}",
    "a list as type": "engine: {type: [a]}",
    "a block as type": "engine: {type: {a: b}}",
    "a list as the provider's type": "engine: {type: GlobusComputeEngine, provider: {type: [a]}}",
    "a number beyond floats": f"heartbeat_period: 0x{'f' * 400}\n{ENGINE}",
    "a number beyond printing": f"heartbeat_period: 0x{'f' * 4000}\n{ENGINE}",
    "only a number beyond printing": f"0x{'f' * 5000}",
    "an empty integer": "a: !!int ''",
    "no truth value": "a: !!bool maybe",
    "no time": "a: !!timestamp soon",
    "a list as block": "a: !!map [x, y]",
    "a text as block": "a: !!map xy",
    "deep brackets": "[" * 100_000,
    "deep blocks": "- " * 3000,
    "too long": "#" * (LARGEST + 1),
}


@pytest.mark.parametrize("text", TRAPS.values(), ids=list(TRAPS))
def test_yaml_that_nobody_should_write_is_a_short_error_at_once(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError) as caught:
        load_text(text, "config.yaml")
    assert time.process_time() - began < 3
    assert len(str(caught.value)) < 30_000


# Workers --------------------------------------------------------------------------------------


def test_a_message_of_nine_bytes_does_not_take_gigabytes() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for protocol in (b"", b"\x80\x04", b"\x80\x05"):
        with pytest.raises(pickle.UnpicklingError):
            loads(protocol + b"Nr\xff\xff\xff\x0f0N.")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


@pytest.mark.parametrize(
    "value",
    [
        {"type": "result", "task_id": 5, "result": b"x" * 100_000},
        {"ids": [0, 255, 256, 65536, -1, 2**40, -(2**70)], "flags": (True, False, None), "f": -0.5},
        {"same": ["a" * 300] * 400, "t": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
        [{"n": number} for number in range(300)],
        "\ud800 and \U0001f600",
        b"",
    ],
)
@pytest.mark.parametrize("protocol", [4, 5])
def test_plain_values_are_read_as_pickle_reads_them(value: Any, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    "value", [Path("x"), print, {1}, 1j, bytearray(b"x"), frozenset(), ValueError(1), object]
)
def test_what_is_not_plain_is_refused(value: Any) -> None:
    with pytest.raises(pickle.UnpicklingError):
        loads(pickle.dumps(value))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "result", "task_id": float("inf"), "result": b""},
        {"type": "result", "task_id": 1, "cep_lost": ["gone"]},
        {"type": "cep", "event": []},
        {"type": "cep", "event": "unheard of"},
        {"type": "cep", "event": "gone", "manager": [], "block": "0", "ids": [1]},
        {"type": "cep", "event": "cancelled", "ids": [[1]]},
        {"type": "cep", "event": "registered", "manager": "m", "block": "0", "workers": -1},
        [],
        5,
    ],
)
def test_a_message_that_is_none_is_an_error_that_the_reader_expects(message: Any) -> None:
    with pytest.raises((pickle.UnpicklingError, KeyError, TypeError, ValueError)):
        read_message(pickle.dumps(message))


def test_an_answer_of_a_worker_that_is_no_bytes_is_a_broken_one() -> None:
    message = {"type": "result", "task_id": 1, "result": 5}
    assert read_message(pickle.dumps(message)).kind == "broken"


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_a_run_time_that_cannot_be_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        unpack_answers(pack_answers([Answer(True, seconds, b"")]))
    with pytest.raises(ValueError, match="seconds"):
        list(packets.read_results(packets.result_record(1, b"", seconds), []))


@pytest.mark.parametrize("length", [2**64 - 1, 2**63, 2**63 - 1, 2])
def test_an_answer_longer_than_its_frame_is_refused(length: int) -> None:
    frame = struct.pack("<IBdQ", 2, 1, 0.5, length) + b"x"
    with pytest.raises(ValueError, match="answer"):
        unpack_answers(frame)


def test_a_descriptor_that_is_no_file_is_a_broken_result() -> None:
    record = packets._RESULT.pack(1, 10, 0.5, 1)
    for handle in (os.open("/", os.O_RDONLY | os.O_DIRECTORY), os.open("/", os.O_PATH)):
        handles = [handle]
        with pytest.raises(ValueError, match="file"):
            list(packets.read_results(record, handles))
        assert not handles


def test_a_stash_that_its_worker_cut_off_is_empty() -> None:
    handle = packets.Stash.new()
    try:
        os.ftruncate(handle, 2)
        assert packets.Stash.unsent(handle) == b""
    finally:
        os.close(handle)


@pytest.mark.parametrize("packet", [b"X\x05\0\0\0", packets.hello(0), packets.hello(1), b"H"])
def test_a_hello_that_would_name_other_processes_is_none(packet: bytes) -> None:
    assert packets.read_hello(packet) is None
