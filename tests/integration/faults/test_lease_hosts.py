"""Who may run an endpoint: two starts on one host, two hosts on one home, a host that is gone.

The home grants locks per host (each mount by itself), so the journal's lock stops nobody: the lease
alone decides.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.agent.state import EndpointState, observe
from cep.paths import EndpointPaths
from tests.integration.agent_rig import Bench, bench, note
from tests.integration.faults import other_host
from tests.integration.faults.broken_fs import BrokenFs, need, why_not
from tests.integration.faults.fs_rig import (
    THREADS,
    enter_account,
    gated,
    long_only,
    wait_for_trace,
)
from tests.integration.faults.other_host import OtherHost
from tests.integration.rabbitmq import RabbitMq

WINDOW = 4  # tasks given to two threads at one time: two dispatches per worker


@pytest.fixture
def scene(tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with bench(tmp_path, rabbitmq) as made:
        made.configure(THREADS)
        yield made


@pytest.fixture
def hosts(scene: Bench, tmp_path: Path) -> Iterator[tuple[OtherHost, OtherHost]]:
    """Two hosts that share the endpoint's directory, with locks that hold on one host only."""
    need(why_not() or other_host.why_not())
    shared = scene.root
    with BrokenFs(shared, tmp_path / "mount-a"), BrokenFs(shared, tmp_path / "mount-b"):
        yield (
            other_host.other_host("host-a", tmp_path / "mount-a", shared, tmp_path / "a"),
            other_host.other_host("host-b", tmp_path / "mount-b", shared, tmp_path / "b"),
        )


def start_on(scene: Bench, host: OtherHost, **options: bool) -> subprocess.Popen[bytes]:
    """Start the endpoint on this host, and wait for its word."""
    return scene.start(prefix=host.prefix, variables=host.variables, **options)  # type: ignore[arg-type]


def refused_on(scene: Bench, host: OtherHost) -> dict[str, str]:
    """Try to start it there, and return the error."""
    agent = scene.start(crash="none:1", prefix=host.prefix, variables=host.variables)
    assert agent.wait(60) == 73
    (word,) = [word for word in scene.words if "error" in word]
    return word


def first_to_end(
    agents: list[subprocess.Popen[bytes]], count: int
) -> list[subprocess.Popen[bytes]]:
    """Wait until so many of these have ended, and return them."""
    ended: list[subprocess.Popen[bytes]] = []
    ends = {os.pidfd_open(agent.pid): agent for agent in agents}
    try:
        while len(ended) < count:
            ready, _, _ = select.select(list(ends), [], [], 60)
            assert ready, "too few of them ended"
            for descriptor in ready:
                ended.append(ends.pop(descriptor))
                os.close(descriptor)
    finally:
        for descriptor in ends:
            os.close(descriptor)
    return ended


def test_of_starts_at_the_same_moment_one_runs_and_the_others_say_so(scene: Bench) -> None:
    scene.submit(note, [f"task-{n}" for n in range(20)])
    agents = [scene.start(wait=False) for _ in range(3)]
    account = scene.collect(20)
    losers = first_to_end(agents, 2)
    assert [agent.wait(60) for agent in losers] == [73] * 2
    assert scene.log().count("is already running") == 2
    enter_account("three starts at once on one host", account, 20)
    assert account.errors == []
    (winner,) = [agent for agent in agents if agent not in losers]
    assert scene.stop(winner) == 0


@long_only
def test_of_two_hosts_that_share_a_home_one_runs_whatever_locks_they_are_granted(
    scene: Bench, hosts: tuple[OtherHost, OtherHost]
) -> None:
    one, other = hosts
    agent = start_on(scene, one)
    error = refused_on(scene, other)
    assert "host-a" in error["error"] and "it runs there" in error["error"]
    assert "ssh host-a cep stop bench" in error["hint"]
    assert "--take-over" in error["hint"]
    scene.submit(note, [f"task-{n}" for n in range(20)])
    account = scene.collect(20)
    assert scene.stop(agent) == 0
    second = start_on(scene, other)  # after an orderly stop it may run anywhere
    scene.submit(note, [f"later-{n}" for n in range(20)])
    scene.collect(40, onto=account)
    enter_account("two hosts, locks per host", account, 40)
    assert account.errors == []
    assert scene.stop(second) == 0


def test_a_frozen_host_is_taken_over_and_touches_nothing_when_it_returns(
    scene: Bench, hosts: tuple[OtherHost, OtherHost], tmp_path: Path
) -> None:
    one, other = hosts
    gate = tmp_path / "gate"
    first = start_on(scene, one)
    scene.submit(gated, ["gate-1", "gate-2"], str(gate))
    wait_for_trace(scene, "gate-1")
    wait_for_trace(scene, "gate-2")
    scene.submit(note, [f"task-{n}" for n in range(30)])
    while scene.queued():
        pass  # until the first host has taken them all
    os.killpg(first.pid, signal.SIGSTOP)
    scene.broker.close_connections()  # as the broker does itself after two missed heartbeats
    assert "host-a" in refused_on(scene, other)["error"]
    second = start_on(scene, other, take_over=True)
    account = scene.collect(32)
    assert len(account.answers) == 32, scene.log()
    gate.touch()
    os.killpg(first.pid, signal.SIGCONT)
    assert first.wait(60) == 73
    scene.submit(note, ["after"])
    scene.collect(33, onto=account)
    assert set(account.errors) <= {"ENDPOINT_RESTARTED"}
    enter_account("lease holder frozen, taken over, returns", account, 33, bound=WINDOW)
    assert account.results_without_a_trace == []
    assert scene.stop(second) == 0


def test_a_host_that_never_comes_back_is_replaced_by_take_over_alone(
    scene: Bench, hosts: tuple[OtherHost, OtherHost], tmp_path: Path
) -> None:
    one, other = hosts
    paths = EndpointPaths.of(scene.root)
    first = start_on(scene, one)
    scene.submit(gated, ["gate-1", "gate-2"], str(tmp_path / "gate"))
    wait_for_trace(scene, "gate-1")
    wait_for_trace(scene, "gate-2")
    scene.submit(note, [f"task-{n}" for n in range(30)])
    while scene.queued():
        pass
    os.killpg(first.pid, signal.SIGKILL)
    first.wait(60)
    (tmp_path / "gate").touch()  # its shells, which outlive it here, end
    lease = json.loads(paths.lease.read_text())
    lease["renewed"] = "2001-01-01T00:00:00.000000Z"  # as three heartbeats later
    paths.lease.write_text(json.dumps(lease))
    assert observe(paths).state is EndpointState.DISCONNECTED
    assert "has been silent since" in refused_on(scene, other)["error"]
    second = start_on(scene, other, take_over=True)
    account = scene.collect(32)
    assert set(account.errors) <= {"ENDPOINT_RESTARTED"}
    enter_account("lease holder's host never comes back", account, 32, bound=WINDOW)
    assert account.results_without_a_trace == []
    assert scene.stop(second) == 0


@pytest.mark.parametrize("garbage", [b"", b"{", b"\0" * 512, b'{"format": 99}', b"[1, 2]"])
def test_garbage_in_lease_and_status_files_is_replaced_with_a_warning(
    scene: Bench, garbage: bytes
) -> None:
    paths = EndpointPaths.of(scene.root)
    for file in (paths.lease, paths.status_json, paths.pid_file):
        file.write_bytes(garbage)
    assert observe(paths).endpoint_id is None
    if garbage != b"":  # one start is enough to see the rest
        return
    agent = scene.start()
    scene.submit(note, ["one"])
    assert len(scene.collect(1).answers) == 1
    assert scene.stop(agent) == 0
    assert "cannot be understood and is replaced" in scene.log()
