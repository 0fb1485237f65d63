"""Whose the loopback port is, before anything is sent: with real processes of another account."""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cep.amqp.probe import check_connection
from cep.errors import PeerUntrusted, TemporaryFailure
from cep.hub.running import RunningHub, ask
from cep.safety import peer
from cep.service import trust
from cep.service.address import ServiceAddress
from cep.service.client import connect
from tests.foreign import Foreigner, foreigner
from tests.unit.service_stand_in import CLIENT_ID, SECRET, serving


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client identity, no proxies, and no list of owners but the test's own."""
    for name in (*trust.VARIABLES, "GLOBUS_SDK_SERVICE_URL_AUTH", "GLOBUS_COMPUTE_SCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", SECRET)
    etc = tmp_path / "etc"
    etc.mkdir(mode=0o755)
    monkeypatch.setattr(peer, "OWNERS_FILE", etc / "hub-owner")


@pytest.fixture
def other() -> Iterator[Foreigner]:
    """Somebody else on a loopback port."""
    with foreigner() as found:
        yield found


def hub_at(port: int, host: str = "localhost") -> ServiceAddress:
    return ServiceAddress(f"http://{host}:{port}", f"hub-{host}-{port}", hosted=False)


def name_owner(text: str, mode: int = 0o644) -> None:
    peer.OWNERS_FILE.write_text(text)
    peer.OWNERS_FILE.chmod(mode)


def test_a_login_is_not_sent_to_a_port_of_somebody_else(other: Foreigner, tmp_path: Path) -> None:
    with pytest.raises(PeerUntrusted) as caught:
        connect(hub_at(other.port), interactive=False, base=tmp_path)
    assert caught.value.exit_code == 77
    assert f"Port {other.port} " in caught.value.message
    assert f"nobody (uid {other.uid})" in caught.value.message
    assert other.heard() == b""


def test_a_proxy_of_the_shell_never_gets_what_is_for_this_host(
    other: Foreigner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{other.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as service:
        port = int(service.url.rpartition(":")[2])
        connect(hub_at(port), interactive=False, base=tmp_path).close()
        assert service.asked("/v2/oauth2/token")


def test_a_brokers_password_is_not_sent_to_a_port_of_somebody_else(other: Foreigner) -> None:
    with pytest.raises(PeerUntrusted, match=rf"Port {other.port} .*\(uid {other.uid}\)"):
        check_connection(f"amqp://user:secret@127.0.0.1:{other.port}/")
    assert other.heard() == b""


def test_the_admin_secret_of_the_hub_is_not_sent_to_a_port_of_somebody_else(
    other: Foreigner,
) -> None:
    url = f"http://127.0.0.1:{other.port}"
    running = RunningHub.of_this_process(url=url, public_url=url, admin_secret="admin-secret")
    with pytest.raises(PeerUntrusted, match=f"uid {other.uid}"):
        ask(running, "GET", "/status")
    assert other.heard() == b""


def test_the_address_that_is_used_is_the_one_that_is_judged(tmp_path: Path) -> None:
    """One port, ours on 127.0.0.1 and somebody else's on ::1, which `localhost` means as well."""
    with serving() as service:
        port = int(service.url.rpartition(":")[2])
        with foreigner("::1", port) as other:
            with pytest.raises(PeerUntrusted, match="on ::1 of this host"):
                connect(hub_at(port, "[::1]"), interactive=False, base=tmp_path)
            assert other.heard() == b""
            connect(hub_at(port, "127.0.0.1"), interactive=False, base=tmp_path).close()


def test_an_account_that_root_names_may_serve(other: Foreigner) -> None:
    name_owner("# who runs the hub\nno-such-account\nnobody\n")
    with pytest.raises(TemporaryFailure):  # it is let through, and turns out to be no broker
        check_connection(f"amqp://user:secret@127.0.0.1:{other.port}/", timeout_s=5)
    assert other.heard().startswith(b"AMQP")


@pytest.mark.parametrize(
    ("of_file", "of_directory"), [(0o664, 0o755), (0o646, 0o755), (0o644, 0o777)]
)
def test_a_list_that_others_can_write_does_not_count(
    of_file: int, of_directory: int, other: Foreigner
) -> None:
    name_owner("nobody\n", of_file)
    peer.OWNERS_FILE.parent.chmod(of_directory)
    assert peer.named_owners() == set()
    with pytest.raises(PeerUntrusted):
        check_connection(f"amqp://user:secret@127.0.0.1:{other.port}/")


def test_a_list_that_is_not_roots_does_not_count(other: Foreigner) -> None:
    name_owner("nobody\n")
    os.chown(peer.OWNERS_FILE, other.uid, -1)
    assert peer.named_owners() == set()


def test_root_and_oneself_may_serve_for_an_ordinary_account() -> None:
    """Seen from the other side: an ordinary account meets root's port, and its own."""
    if os.getuid() != 0:
        pytest.skip("NOT TESTED: only root can be another account")
    program = """
import codecs, os, pwd, socket, sys
from cep.safety import peer
for name in ("ascii", "idna"):
    codecs.lookup(name)  # loaded while its files can still be read
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
own = socket.create_server(("127.0.0.1", 0))
for port in (own.getsockname()[1], int(sys.argv[2])):
    with socket.create_connection(("127.0.0.1", port)) as connection:
        peer.check_peer(connection)
print("both passed")
"""
    uid = pwd.getpwnam("nobody").pw_uid
    with socket.create_server(("127.0.0.1", 0)) as ours:
        done = subprocess.run(
            [sys.executable, "-c", program, str(uid), str(ours.getsockname()[1])],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout == "both passed\n", done.stderr


def test_a_connection_that_leaves_this_host_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Abroad:
        family = socket.AF_INET

        def getpeername(self) -> tuple[str, int]:
            return ("192.0.2.7", 5000)

    monkeypatch.setattr(peer, "_TABLES", ())
    peer.check_peer(Abroad())  # type: ignore[arg-type]


def test_without_the_kernels_table_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "_TABLES", (Path("/proc/no/such/table"),))
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        socket.create_connection(ours.getsockname()) as connection,
        pytest.raises(PeerUntrusted, match="cannot be read"),
    ):
        peer.check_peer(connection)


def test_whoever_took_the_connection_counts_when_the_listener_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    row = "   0: {} {} {} 00000000:00000000 00:00000000 00000000 {} 0 1 1 0 100 0 0 10 0\n"
    table = tmp_path / "tcp"
    monkeypatch.setattr(peer, "_TABLES", (table,))
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        socket.create_connection(ours.getsockname()) as connection,
    ):
        here, there = (
            f"0100007F:{name[1]:04X}"
            for name in (connection.getsockname(), connection.getpeername())
        )
        every = f"00000000:{there.partition(':')[2]}"
        nowhere = "00000000:0000"
        for rows, passes in (
            ([(there, here, "01", 65534)], False),
            ([(there, here, "01", 0)], True),
            ([(every, nowhere, "0A", 65534)], False),
            # The kernel prefers the exact address.
            ([(every, nowhere, "0A", 65534), (there, nowhere, "0A", 0)], True),
            ([(there, nowhere, "0A", 65534), (there, here, "01", 0)], False),
            # Other ports and the client's own side say nothing.
            ([(here, there, "01", 65534), ("0100007F:0001", nowhere, "0A", 65534)], True),
            ([], True),
        ):
            table.write_text(head + "".join(row.format(*one) for one in rows))
            if passes:
                peer.check_peer(connection)
            else:
                with pytest.raises(PeerUntrusted):
                    peer.check_peer(connection)
