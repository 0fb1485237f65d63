"""The four states of an endpoint, seen from its directory."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from cep.agent.lease import acquire
from cep.agent.state import EndpointState, observe
from cep.paths import EndpointPaths
from tests.unit.test_lease import OTHER, ended_pid, of_host, published_endpoint, write_lease

ID = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def paths(tmp_path: Path) -> EndpointPaths:
    root = tmp_path / "ep"
    root.mkdir()
    return EndpointPaths.of(root)


def register(paths: EndpointPaths) -> None:
    paths.endpoint_json.write_text(json.dumps({"endpoint_id": ID}))


def test_the_words_are_the_published_ones() -> None:
    assert [s.value for s in EndpointState] == [
        "Initialized",
        "Running",
        "Stopped",
        "Disconnected",
    ]


def test_an_endpoint_walks_through_all_states(paths: EndpointPaths) -> None:
    seen = observe(paths)
    assert (seen.state, seen.endpoint_id, seen.lease) == (EndpointState.INITIALIZED, None, None)
    held = acquire(paths, period_s=30, control_socket="/x", take_over=False)
    assert observe(paths).state is EndpointState.RUNNING
    register(paths)
    seen = observe(paths)
    assert (seen.state, seen.endpoint_id, seen.here) == (EndpointState.RUNNING, ID, True)
    assert seen.lease is not None
    assert seen.lease.token == held.token
    held.release()
    seen = observe(paths)
    assert (seen.state, seen.endpoint_id) == (EndpointState.STOPPED, ID)
    write_lease(paths, pid=ended_pid(), start_time=5)
    seen = observe(paths)
    assert (seen.state, seen.here) == (EndpointState.DISCONNECTED, True)


def test_a_pid_that_another_process_has_now_is_not_our_agent(paths: EndpointPaths) -> None:
    """Fault 12: `list` lied and `stop` signalled an unrelated local process."""
    register(paths)
    write_lease(paths, pid=os.getpid(), start_time=1)
    assert observe(paths).state is EndpointState.DISCONNECTED
    paths.lease.unlink()
    paths.pid_file.write_text("1")
    assert observe(paths).state is EndpointState.DISCONNECTED


def test_another_hosts_endpoint_runs_while_it_renews(paths: EndpointPaths) -> None:
    register(paths)
    write_lease(paths, **of_host(OTHER), pid=os.getpid())
    seen = observe(paths)
    assert (seen.state, seen.here) == (EndpointState.RUNNING, False)
    write_lease(
        paths, **of_host(OTHER), renewed=datetime.now(timezone.utc) - timedelta(seconds=120)
    )
    seen = observe(paths)
    assert (seen.state, seen.here) == (EndpointState.DISCONNECTED, False)


def test_a_directory_of_the_published_endpoint_is_judged_by_its_pid(paths: EndpointPaths) -> None:
    register(paths)
    assert observe(paths).state is EndpointState.STOPPED
    with published_endpoint() as child:
        assert child.stdin is not None
        paths.pid_file.write_text(f"{child.pid}")
        seen = observe(paths)
        assert (seen.state, seen.here, seen.lease) == (EndpointState.RUNNING, True, None)
        child.stdin.close()
    assert observe(paths).state is EndpointState.DISCONNECTED


@pytest.mark.parametrize("text", ["", "{", "[]", '{"endpoint_id": 5}', '{"endpoint_id": ""}'])
def test_a_broken_endpoint_json_counts_as_none(paths: EndpointPaths, text: str) -> None:
    paths.endpoint_json.write_text(text)
    assert observe(paths).endpoint_id is None
    assert observe(paths).state is EndpointState.INITIALIZED


@pytest.mark.parametrize("text", ["", "abc", "-5", "0", "99999999999999999999"])
def test_a_broken_pid_file_is_a_disconnected_endpoint(paths: EndpointPaths, text: str) -> None:
    register(paths)
    paths.pid_file.write_text(text)
    assert observe(paths).state is EndpointState.DISCONNECTED
