"""What surrounds a hub: its sockets, its addresses, its announcement, its detached start."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from cep.errors import CepError, SoftwareError, Unavailable, UsageError
from cep.hub import launch
from cep.hub.options import HubFiles, HubOptions, check_urls, default_state_dir, is_loopback
from cep.hub.running import RunningHub, ask, forget_running, read_running, write_running
from cep.hub.sockets import listen, port_owner


def test_both_loopback_addresses_get_the_same_port() -> None:
    sockets = listen("127.0.0.1", 0)
    try:
        assert len({one.getsockname()[1] for one in sockets}) == 1
        assert sockets[0].getsockname()[0] == "127.0.0.1"
        assert [one.getsockname()[0] for one in sockets[1:]] in ([], ["::1"])
    finally:
        for one in sockets:
            one.close()


def test_a_taken_port_is_unavailable_and_names_the_owner() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        owner = port_owner(port)
        assert owner is not None
        assert owner[0] == os.getpid()
        with pytest.raises(Unavailable, match=rf"Port {port} .* process {os.getpid()} \("):
            listen("127.0.0.1", port)


def test_a_port_taken_on_the_other_loopback_address_is_taken() -> None:
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("NOT TESTED: no IPv6 here")
    with taken, pytest.raises(Unavailable, match="::1"):
        listen("localhost", taken.getsockname()[1])


def test_an_address_that_is_not_ours_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"192\.0\.2\.1"):
        listen("192.0.2.1", 0)
    with pytest.raises(UsageError, match="cannot be resolved"):
        listen("no such host", 0)


@pytest.mark.parametrize(
    ("url", "amqp_url"),
    [
        ("localhost:5000", None),
        ("ftp://host", None),
        ("http://", None),
        ("http://user:secret@host", None),
        ("http://host:x", None),
        (None, "http://host"),
        (None, "amqp://u:p@host"),
        (None, "amqps://"),
    ],
)
def test_wrong_public_addresses_are_refused(url: str | None, amqp_url: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        check_urls(url, amqp_url)
    assert "secret" not in str(caught.value)


def test_right_public_addresses_are_taken() -> None:
    check_urls("https://hub.example/prefix", "amqps://mq.example:5671/%2F")
    check_urls(None, None)


def test_loopback_is_recognised() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.3.2.1", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.0.2.1", "example.org", "")))


def test_the_default_directory_is_in_the_user_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBUS_COMPUTE_USER_DIR", "/somewhere/else")
    assert default_state_dir() == Path("/somewhere/else/hub")


def test_only_a_living_hub_is_found(tmp_path: Path) -> None:
    files = HubFiles(tmp_path)
    assert read_running(files) is None
    running = RunningHub.of_this_process(
        url="http://127.0.0.1:1", public_url="http://localhost:1", admin_secret="s"
    )
    write_running(files, running)
    assert stat.S_IMODE(files.running.stat().st_mode) == 0o600
    assert read_running(files) == running
    other_life = {**json.loads(files.running.read_text()), "start_time": 1.0}
    files.running.write_text(json.dumps(other_life))
    assert read_running(files) is None
    files.running.write_text("{")
    assert read_running(files) is None
    forget_running(files)
    forget_running(files)


def test_a_hub_that_does_not_answer_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = RunningHub.of_this_process(
        url=f"http://127.0.0.1:{port}", public_url="http://localhost", admin_secret="s"
    )
    with pytest.raises(Unavailable, match="does not answer"):
        ask(running, "GET", "/status")


def test_stopping_when_nothing_runs_does_nothing(tmp_path: Path) -> None:
    assert launch.stop(HubFiles(tmp_path)) is False


def test_a_detached_hub_that_cannot_start_says_why_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "hub.db").write_bytes(b"not a database of ours" * 100)
    with pytest.raises(CepError) as caught:
        launch.start_detached(HubOptions(state_dir=tmp_path, port=0))
    assert caught.value.exit_code == 65
    assert "damaged" in caught.value.message


def test_a_detached_hub_that_ends_without_a_word_shows_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(SoftwareError) as caught:
        launch.start_detached(HubOptions(state_dir=tmp_path / "state", port=0))
    assert "it is broken" in str(caught.value)
