"""What befalls a running agent from outside: lease, credentials, disk, suspension."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.agent.control import call
from cep.agent.intake import HOLD_DISK
from cep.paths import EndpointPaths
from tests.integration.agent_rig import Account, Bench, bench, note
from tests.integration.rabbitmq import RabbitMq
from tests.integration.scene import until

THREADS = "engine: {type: ThreadPoolEngine, max_workers: 1}\nheartbeat_period: 5\n"


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        made.configure(THREADS)
        yield made


def paths(scene: Bench) -> EndpointPaths:
    return EndpointPaths.of(scene.root)


def wait_for_file(_executed: str, label: str, path: str) -> str:
    import subprocess

    subprocess.run(["sh", "-c", 'until [ -e "$0" ]; do sleep 0.05; done', path], check=True)
    return label


def length(_executed: str, label: str, filling: bytes) -> str:
    return f"{label}: {len(filling)}"


def take_lease_over(scene: Bench) -> None:
    """As `start --take-over` on another host does: another fencing token stands in the file."""
    lease = json.loads(paths(scene).lease.read_text())
    lease.update(token="f" * 32, host="elsewhere", machine_id="0" * 32)
    twin = scene.root / "twin"
    twin.write_text(json.dumps(lease))
    twin.rename(paths(scene).lease)


def test_an_agent_whose_lease_was_taken_over_touches_nothing_when_it_notices(
    scene: Bench, tmp_path: Path, rabbitmq: RabbitMq
) -> None:
    """One agent is suspended meanwhile; one is idle, and notices at its next heartbeat."""
    with bench(tmp_path / "idle", rabbitmq) as idle:
        idle.configure(THREADS)
        unsuspecting = idle.start()
        take_lease_over(idle)
        suspend_and_take_over(scene)
        assert unsuspecting.wait(60) == 73


def suspend_and_take_over(scene: Bench) -> None:
    agent = scene.start()
    scene.submit(note, ["before"])
    assert len(scene.collect(1).answers) == 1
    agent.send_signal(signal.SIGSTOP)
    take_lease_over(scene)
    scene.submit(note, ["after"])
    assert scene.collect(1, within_s=1).answers == {}
    agent.send_signal(signal.SIGCONT)
    assert agent.wait(60) == 73
    until(lambda: scene.queued() == 1, within_s=60, what="the task is back at the broker")
    account = scene.collect_rest(Account(scene.labels))
    assert account.answers == {}
    assert list(account.executions) == ["before"]
    assert "taken over" in scene.log()
    assert "elsewhere" in paths(scene).lease.read_text()


def test_refused_credentials_are_asked_for_again(scene: Bench) -> None:
    broker = scene.broker
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    scene.url = broker.add_user("first-user", "one", **everything)
    try:
        agent = scene.start()
        scene.submit(note, ["before"])
        assert len(scene.collect(1).answers) == 1
        scene.url = broker.add_user("second-user", "two", **everything)
        broker.remove_user("first-user")
        broker.close_connections("first-user")
        scene.submit(note, ["after"])
        assert len(scene.collect(1).answers) == 1
        assert len(scene.registrations) == 2
        scene.stop(agent)
    finally:
        broker.remove_user("second-user")


def test_wrong_credentials_at_start_end_it_with_77(scene: Bench) -> None:
    scene.url = scene.broker.url_for("nobody", "wrong-password")
    agent = scene.start(crash="none:1")
    assert agent.wait(60) == 77
    assert "nobody" in scene.words[-1]["error"]
    assert "wrong-password" not in json.dumps(scene.words)


def test_a_full_disk_stops_intake_until_there_is_room_again(scene: Bench, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0700", "tmpfs", str(state)], check=True
    )
    try:
        scene.configure(THREADS + f"state_dir: {state}\n")
        agent = scene.start()
        gate = tmp_path / "gate"
        scene.submit(wait_for_file, ["gate"], str(gate))
        scene.submit(length, [f"big-{n}" for n in range(40)], b"x" * 700_000)
        held: list[str] = []
        while HOLD_DISK not in held:
            held = call(EndpointPaths.of(scene.root), {"do": "status"}, 60.0)["holds"]
        gate.touch()
        account = scene.collect(41)
        assert len(account.answers) == 41, scene.log()
        assert account.errors == []
        assert scene.queued() == 0
        assert scene.stop(agent) == 0
    finally:
        subprocess.run(["umount", str(state)], check=True)
