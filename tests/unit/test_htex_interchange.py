"""What the endpoint's interchange tells the agent, with managers played over real sockets."""

from __future__ import annotations

import pickle
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from parsl import curvezmq
from parsl.executors.high_throughput.manager_selector import RandomManagerSelector

from cep.engines import ahead, pool
from cep.engines.interchange import EndpointInterchange
from cep.engines.interchange_link import InterchangeLink

DEADLINE_S = 60.0


class Stage:
    """The agent's sockets, an interchange, and managers."""

    def __init__(self, directory: Path, cert_dir: str | None = None, door: bool = False) -> None:
        self.context: Any = curvezmq.ClientContext(cert_dir)  # the managers'
        self.link = InterchangeLink(directory, managers=door)
        self.link.open()
        self.interchange = EndpointInterchange(
            client_address=self.link.address,
            interchange_address="127.0.0.1",
            client_ports=self.link.NAMES,
            worker_port=None,
            worker_port_range=(20000, 60000),
            hub_address=None,
            hub_zmq_port=None,
            heartbeat_threshold=120,
            logdir=str(directory),
            logging_level=30,
            poll_period=100,
            cert_dir=cert_dir,
            manager_selector=RandomManagerSelector(),
            run_id="",
            log_config=None,
            _check_python_mismatch=False,
            disconnect_grace_s=20.0,
            silence_s=20.0,
            door=self.link.door,
        )
        self.poller = self.interchange._poller()
        self.told: list[dict[str, Any]] = []
        self.managers: list[zmq.Socket[bytes]] = []

    @property
    def by_network(self) -> str:
        """Where managers of any host reach it."""
        return f"tcp://127.0.0.1:{self.interchange.worker_port}"

    def manager(
        self, name: str, block: str = "0", workers: int = 1, url: str | None = None, **more: Any
    ) -> Any:
        socket = self.connection(name, url)
        now = time.time()
        socket.send(
            pickle.dumps(
                {
                    "type": "registration",
                    "parsl_v": "x",
                    "python_v": "3.11.1",
                    "packages": {"cep-endpoint": "0.1"},
                    "worker_count": workers,
                    "max_capacity": workers,
                    "block_id": block,
                    "start_time": now,
                    "hostname": "here",
                    **more,
                }
            )
        )
        return socket

    def connection(self, name: str, url: str | None = None) -> Any:
        """Connect as the manager of this name does."""
        socket: Any = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.IDENTITY, name.encode())
        socket.connect(url or self.by_network)
        self.managers.append(socket)
        return socket

    def send(self, message: dict[str, Any]) -> None:
        self.link.tasks.send_pyobj(message)

    def task(self, number: int, **context: Any) -> None:
        self.send({"task_id": number, "context": context, "buffer": b""})

    def short_task(self, number: int) -> None:
        self.task(number, **{ahead.SHORT: True})

    def received(self, manager: Any) -> list[dict[str, Any]]:
        """Wait for the next tasks that a manager is sent; heartbeats are passed over."""
        tasks: Any = None
        while not isinstance(tasks, list):
            self.until(lambda: manager.poll(0) > 0)
            tasks = pickle.loads(manager.recv())
        return tasks

    def numbers(self, manager: Any, count: int) -> list[int]:
        """Wait until a manager was sent so many tasks; return their numbers."""
        found: list[int] = []
        while len(found) < count:
            found += [task["task_id"] for task in self.received(manager)]
        return found

    def left(self) -> list[int]:
        """The tasks that wait in the interchange, the last first."""
        return [entry[2]["task_id"] for entry in self.interchange.pending_task_queue]

    def until(self, done: Callable[[], bool]) -> None:
        """Let the interchange work until something is so."""
        limit = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < limit, self.told
            self.interchange._turn(self.poller, 20, threading.Event())
            while self.link.results.poll(0):
                self.told.append(pickle.loads(self.link.results.recv()))

    def wait(self, event: str) -> dict[str, Any]:
        """Wait for an event and take it."""
        found: list[dict[str, Any]] = []

        def seen() -> bool:
            found[:] = [one for one in self.told if one.get("event") == event]
            return bool(found)

        self.until(seen)
        self.told.remove(found[0])
        return found[0]

    def close(self) -> None:
        if not self.interchange.zmq_context.closed:  # it has ended by itself
            self.interchange.manager_sock.disable_monitor()
            self.interchange.zmq_context.destroy(linger=0)
        self.context.destroy(linger=0)
        self.link.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.close()


def test_a_manager_that_registers_is_told_with_its_workers(stage: Stage) -> None:
    stage.manager("m", block="7", workers=3)
    told = stage.wait("registered")
    assert (told["manager"], told["block"], told["workers"]) == ("m", "7", 3)
    assert (told["host"], told["endpoint_version"]) == ("here", "0.1")


def test_with_encryption_only_the_sockets_to_the_agent_are_plain(tmp_path: Path) -> None:
    stage = Stage(tmp_path, curvezmq.create_certificates(tmp_path))
    encrypted, plain = stage.context, curvezmq.ClientContext(None)
    try:
        stage.context = plain
        stage.manager("plain")
        stage.context = encrypted
        manager = stage.manager("encrypted")
        assert stage.wait("registered")["manager"] == "encrypted"
        stage.task(11)
        assert stage.numbers(manager, 1) == [11]
        assert list(stage.interchange._ready_managers) == [b"encrypted"]
        for name in ("task_incoming", "results_outgoing", "command_channel"):
            assert kind_of(getattr(stage.interchange, name)) == (zmq.NULL, "ipc")
        assert kind_of(stage.interchange.manager_sock) == (zmq.CURVE, "tcp")
    finally:
        plain.destroy(linger=0)
        stage.close()


@pytest.fixture
def with_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """An encrypted interchange that managers of this host reach by a door."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = Stage(tmp_path, curvezmq.create_certificates(tmp_path), door=True)
    yield made
    made.close()
    assert not list((tmp_path / "cep").iterdir())


def test_managers_come_by_the_door_unencrypted_and_by_the_network_encrypted(
    with_door: Stage,
) -> None:
    stage, encrypted, plain = with_door, with_door.context, curvezmq.ClientContext(None)
    try:
        stage.context = plain
        near = stage.manager("near", url=stage.link.door)
        assert stage.wait("registered")["manager"] == "near"
        stage.manager("plain")  # by the network, where nobody may come so
        stage.context = encrypted
        far = stage.manager("far")
        assert stage.wait("registered")["manager"] == "far"
        stage.task(11)
        stage.task(12)
        assert sorted(stage.numbers(near, 1) + stage.numbers(far, 1)) == [11, 12]
        assert set(stage.interchange._ready_managers) == {b"near", b"far"}
    finally:
        stage.context = encrypted
        plain.destroy(linger=0)


def test_a_manager_that_came_by_the_door_and_ends_is_noticed(with_door: Stage) -> None:
    plain = curvezmq.ClientContext(None)
    try:
        with_door.context, encrypted = plain, with_door.context
        near = with_door.manager("near", url=with_door.link.door)
        with_door.context = encrypted
        with_door.wait("registered")
        near.close()
        assert with_door.wait("unreachable")["manager"] == "near"
    finally:
        plain.destroy(linger=0)


def reached(stage: Stage, urls: set[str]) -> tuple[str, bool]:
    """Choose as a pool does while the interchange works; whether it goes by the door."""
    context = pool._Sockets(stage.context.cert_dir)
    chosen: list[str] = []
    try:
        thread = threading.Thread(
            target=lambda: chosen.append(
                pool._choose(context, urls, timeout_ms=int(DEADLINE_S * 1000), identity=b"m")
            )
        )
        thread.start()
        stage.until(lambda: not thread.is_alive())
        return chosen[0], context.by_door
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("what", ["open", "removed", "dead"])
def test_a_pool_goes_by_the_door_where_somebody_listens_and_else_by_the_network(
    with_door: Stage, what: str
) -> None:
    door = with_door.link.door
    assert door is not None
    path = Path(door.removeprefix("ipc://"))
    if what != "open":
        path.unlink()
    if what == "dead":  # of another host, whose directory this one sees
        with sockets.socket(sockets.AF_UNIX) as another:
            another.bind(str(path))
    urls = {pool.url_of(door), pool.url_of("127.0.0.1", with_door.interchange.worker_port)}
    expected = (door, True) if what == "open" else (with_door.by_network, False)
    assert reached(with_door, urls) == expected


def test_an_interchange_without_its_agent_removes_the_door(with_door: Stage) -> None:
    assert with_door.link.door is not None
    door = Path(with_door.link.door.removeprefix("ipc://"))
    directory = door.parent
    assert door.stat().st_mode & 0o777 == 0o600
    with_door.link._shut()  # as the agent does once it is connected
    assert [place.name for place in directory.iterdir()] == ["m"]
    with_door.interchange._farewell()
    assert not directory.exists()


def kind_of(socket: Any) -> tuple[int, str]:
    """How it is encrypted, and by what it travels."""
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT).decode()
    return socket.getsockopt(zmq.MECHANISM), endpoint.partition(":")[0]


def test_without_managers_it_waits_without_a_time_out(stage: Stage) -> None:
    assert stage.interchange._patience_ms() is None
    stage.manager("m")
    stage.wait("registered")
    assert stage.interchange._patience_ms() == 100


def test_a_broken_connection_is_told_and_loses_nothing_yet(stage: Stage) -> None:
    manager = stage.manager("m")
    stage.wait("registered")
    manager.close()
    assert stage.wait("unreachable")["manager"] == "m"
    assert stage.interchange._ready_managers
    assert not [one for one in stage.told if one.get("event") == "gone"]


def test_a_manager_that_comes_back_in_time_is_kept(stage: Stage) -> None:
    manager = stage.manager("m")
    stage.wait("registered")
    manager.close()
    stage.wait("unreachable")
    stage.connection("m").send(pickle.dumps({"type": "heartbeat"}))
    stage.until(lambda: not stage.interchange._cut_since)
    assert list(stage.interchange._ready_managers) == [b"m"]


def test_a_manager_that_reconnects_before_its_old_connection_is_seen_to_break_is_heard(
    stage: Stage,
) -> None:
    stage.manager("m")  # stays open: as when a cut wire tells nobody
    stage.wait("registered")
    again = stage.connection("m")
    again.send(pickle.dumps({"type": "heartbeat"}))
    stage.until(lambda: again.poll(0) > 0)
    stage.task(11)
    again.recv()  # the answer to the heartbeat
    stage.until(lambda: again.poll(0) > 0)
    assert [one["task_id"] for one in pickle.loads(again.recv())] == [11]
    assert list(stage.interchange._ready_managers) == [b"m"]


def test_an_ended_block_whose_manager_is_gone_loses_its_tasks_at_once(stage: Stage) -> None:
    manager = stage.manager("m", block="4")
    stage.wait("registered")
    stage.task(11)
    stage.task(12)
    stage.until(lambda: manager.poll(0) > 0)
    manager.close()
    stage.wait("unreachable")
    stage.send({"cep": "ended", "block": "4"})
    assert stage.wait("gone")["ids"] == [11]
    assert not stage.interchange._ready_managers
    assert len(stage.interchange.pending_task_queue) == 1


def test_the_last_words_of_a_lost_manager_are_read_first(stage: Stage) -> None:
    manager = stage.manager("m", block="4")
    stage.wait("registered")
    stage.task(11)
    stage.until(lambda: manager.poll(0) > 0)
    manager.setsockopt(zmq.LINGER, 2000)
    manager.send(pickle.dumps({"type": "result", "task_id": 11, "result": b"r"}))
    manager.close()
    stage.send({"cep": "ended", "block": "4"})
    assert stage.wait("gone")["ids"] == []
    assert [one for one in stage.told if one.get("task_id") == 11]


def test_waiting_tasks_are_taken_back_and_running_ones_are_not(stage: Stage) -> None:
    manager = stage.manager("m")
    stage.wait("registered")
    for number in (1, 2, 3):
        stage.task(number)
    stage.until(lambda: manager.poll(0) > 0)
    stage.send({"cep": "cancel", "ids": [1, 3, 99]})
    assert stage.wait("cancelled")["ids"] == [3]


def test_only_idle_blocks_are_retired_and_a_late_manager_gets_no_tasks(stage: Stage) -> None:
    busy = stage.manager("busy", block="0")
    stage.wait("registered")
    stage.task(1)
    stage.until(lambda: busy.poll(0) > 0)
    stage.send({"cep": "retire", "blocks": ["0", "1"]})
    assert stage.wait("retired")["blocks"] == ["1"]
    stage.manager("late", block="1")
    stage.until(lambda: b"late" in stage.interchange._ready_managers)
    assert stage.interchange._ready_managers[b"late"]["active"] is False
    assert not [one for one in stage.told if one.get("event") == "registered"]


def test_a_lower_priority_number_goes_first(stage: Stage) -> None:
    for number, priority in ((1, None), (2, 5), (3, 1)):
        context = {} if priority is None else {"resource_spec": {"priority": priority}}
        stage.send({"task_id": number, "context": context, "buffer": b""})
    stage.until(lambda: len(stage.interchange.pending_task_queue) == 3)
    order = [task["task_id"] for task in stage.interchange.get_tasks(3)]
    assert order == [3, 2, 1]


# -- tasks ahead of a free worker ------------------------------------------------------------------


def with_one_ahead(stage: Stage) -> Any:
    """A manager with one worker, which runs task 1, and with task 2 ahead; task 3 waits."""
    manager = stage.manager("m", **{ahead.TAKES: 1})
    stage.wait("registered")
    for number in (1, 2, 3):
        stage.short_task(number)
    stage.until(lambda: stage.left() == [3])
    assert stage.numbers(manager, 2) == [1, 2]
    return manager


def test_the_only_manager_gets_a_short_task_ahead_and_the_next_after_an_answer(
    stage: Stage,
) -> None:
    manager = with_one_ahead(stage)
    assert stage.interchange._ready_managers[b"m"]["tasks"] == [1, 2]
    manager.send(pickle.dumps({"type": "result", "task_id": 1, "result": b"r"}))
    (third,) = stage.received(manager)
    assert third["task_id"] == 3
    assert ahead.is_ahead(third)


def test_no_other_task_is_sent_ahead(stage: Stage) -> None:
    manager = stage.manager("m", **{ahead.TAKES: 1})
    stage.wait("registered")
    stage.task(1)
    stage.task(2)
    stage.short_task(3)
    stage.until(lambda: stage.left() == [3, 2])
    assert not ahead.is_ahead(stage.received(manager)[0])
    assert manager.poll(0) == 0


def test_a_manager_that_takes_none_ahead_gets_none(stage: Stage) -> None:
    stage.manager("m")
    stage.wait("registered")
    for number in (1, 2):
        stage.short_task(number)
    stage.until(lambda: stage.left() == [2])
    assert stage.interchange._ready_managers[b"m"]["tasks"] == [1]


def test_with_a_second_manager_nothing_goes_ahead_and_what_did_is_called_back(
    stage: Stage,
) -> None:
    manager = with_one_ahead(stage)
    other = stage.manager("other", block="1", **{ahead.TAKES: 1})
    stage.wait("registered")
    assert ahead.asks_back(stage.received(manager)[0])
    assert stage.numbers(other, 1) == [3]
    stage.short_task(4)
    stage.until(lambda: stage.left() == [4])
    manager.send(ahead.handed_back({"task_id": 2}))
    stage.until(lambda: any(ahead.NOT_BEGUN in one for one in stage.told))
    assert stage.interchange._ready_managers[b"m"]["tasks"] == [1]
    assert stage.left() == [4]


def test_cancelling_calls_back_what_was_sent_ahead(stage: Stage) -> None:
    manager = with_one_ahead(stage)
    stage.send({"cep": "cancel", "ids": [2, 3]})
    assert stage.wait("cancelled")["ids"] == [3]
    assert ahead.asks_back(stage.received(manager)[0])


def test_a_task_with_a_priority_goes_before_what_was_sent_ahead(stage: Stage) -> None:
    manager = with_one_ahead(stage)
    stage.task(4, resource_spec={"priority": 1})
    assert ahead.asks_back(stage.received(manager)[0])
    manager.send(ahead.handed_back({"task_id": 2}))
    manager.send(pickle.dumps({"type": "result", "task_id": 1, "result": b"r"}))
    assert stage.numbers(manager, 1) == [4]


def test_a_manager_that_drains_hands_back_what_was_sent_ahead(stage: Stage) -> None:
    manager = with_one_ahead(stage)
    manager.send(pickle.dumps({"type": "drain"}))
    stage.wait("draining")
    assert ahead.asks_back(stage.received(manager)[0])
    manager.send(ahead.handed_back({"task_id": 2}))
    stage.until(lambda: any(ahead.NOT_BEGUN in one for one in stage.told))
    assert stage.left() == [3]


def test_a_manager_that_is_lost_is_told_with_the_task_ahead(stage: Stage) -> None:
    with_one_ahead(stage).close()
    stage.wait("unreachable")
    stage.send({"cep": "ended", "block": "0"})
    assert stage.wait("gone")["ids"] == [1, 2]
