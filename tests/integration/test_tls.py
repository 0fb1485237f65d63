"""TLS on real parts: endpoints and the official SDK with a hub and with RabbitMQ, good and bad."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cep.service import trust
from tests.certificates import Authority
from tests.integration.agent_rig import bench, note
from tests.integration.hub_rig import HubProcess
from tests.integration.rabbitmq import RabbitMq

UNSET = (
    "GLOBUS_SDK_ENVIRONMENT",
    "GLOBUS_SDK_SERVICE_URL_AUTH",
    "GLOBUS_SDK_SERVICE_URL_COMPUTE",
    *trust.VARIABLES,
)
ENGINE = "engine: {type: ThreadPoolEngine, max_workers: 1}\n"
DEADLINE_S = 60.0

# What docs/hub.md tells users of an https:// hub to write above their program.
SDK_PROGRAM = """
import sys
import globus_compute_sdk.sdk.client as sdk_client
sdk_client.get_web_service_url = lambda environment=None: sys.argv[1]

from globus_compute_sdk import Executor

def double(number):
    return 2 * number

with Executor(endpoint_id=sys.argv[2]) as executor:
    print(executor.submit(double, 21).result(timeout=60))
"""


class SecureHub(HubProcess):
    """A hub with a certificate, whose broker clients reach through a link that can be cut."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory / "state")
        self.authority = Authority(directory / "ca")
        self.other = Authority(directory / "other", "another authority")
        self.cert, self.key = self.authority.issue("hub", "localhost")
        self.link = Link()

    def start(self) -> None:
        """Serve https:// and amqps://."""
        self.cep(
            *("serve", "--detach", "--port", self.port),
            *("--tls-cert", str(self.cert), "--tls-key", str(self.key)),
            *("--tls-ca", str(self.authority.file)),
            *("--public-amqp-url", f"amqps://localhost:{self.link.port}/"),
        )
        self.port = self.running["url"].rpartition(":")[2]
        self.link.target = int(self.status()["amqp_port"])

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return str(self.running["public_url"])

    def show(self, authority: Authority, *, expired: bool = False) -> None:
        """Show another certificate from now on, without a restart."""
        before = self.running["certificate"]
        for made, used in zip(
            authority.issue("shown", "localhost", expired=expired),
            (self.cert, self.key),
            strict=True,
        ):
            shutil.copy(made, used)
        psutil.Process(self.running["pid"]).send_signal(signal.SIGHUP)
        until(lambda: self.running["certificate"] != before)


class Link:
    """A small TCP proxy; `cut` ends all its connections."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.target = 0
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            self._open += [client, broker]
            for one, other in ((client, broker), (broker, client)):
                thread = threading.Thread(target=self._carry, args=(one, other))
                self._threads.append(thread)
                thread.start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections."""
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the proxy."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()
        for thread in self._threads:
            thread.join(DEADLINE_S)
        for one in self._open:
            one.close()


def until(done: object) -> None:
    """Wait until something is so."""
    assert callable(done)
    deadline = time.monotonic() + DEADLINE_S
    ticks = threading.Event()
    while not done():
        assert time.monotonic() < deadline
        ticks.wait(0.05)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureHub]:
    """One hub with a certificate for the scenarios."""
    found = SecureHub(tmp_path_factory.mktemp("tls"))
    with contextlib.closing(found.link), found:
        yield found


class Account:
    """One user directory, and a shell that `hub env` has set up."""

    def __init__(self, hub: SecureHub, base: Path) -> None:
        self.hub, self.base = hub, base
        self.environment = {k: v for k, v in os.environ.items() if k not in UNSET}
        self.environment["GLOBUS_COMPUTE_USER_DIR"] = str(base)
        self.environment["XDG_RUNTIME_DIR"] = str(base.parent)
        for line in hub.cep("env").stdout.splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value

    def cep(self, *words: str, code: int = 0, **changed: str) -> str:
        """Run a command, check its exit code, return all it said."""
        done = self.python("-m", "cep", *words, **changed)
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}{self.log()}"
        return done.stdout + done.stderr

    def python(self, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """Run Python in this shell; a variable set to nothing is unset."""
        environment = {k: v for k, v in {**self.environment, **changed}.items() if v}
        return subprocess.run(
            [sys.executable, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def log(self) -> str:
        """The endpoint's log."""
        file = self.base / "ep" / "endpoint.log"
        return file.read_text() if file.exists() else ""

    def agent(self) -> dict[str, object]:
        """What the agent says of itself."""
        done = self.python("-m", "cep", "status", "ep", "--json")
        return dict(json.loads(done.stdout)["agent"])


@pytest.fixture
def account(hub: SecureHub, tmp_path: Path) -> Iterator[Account]:
    """An account at the hub whose endpoint is stopped at the end."""
    found = Account(hub, tmp_path / "users")
    yield found
    found.python("-m", "cep", "stop", "ep", "--now")


NO_SHELL = {"GLOBUS_SDK_VERIFY_SSL": "", "SSL_CERT_FILE": ""}


def test_the_main_job_over_tls_with_the_official_sdk_and_no_shell_variables(
    hub: SecureHub, account: Account
) -> None:
    ca = str(hub.authority.file)
    assert account.environment["GLOBUS_SDK_VERIFY_SSL"] == ca
    assert account.environment["SSL_CERT_FILE"] == ca
    account.cep("configure", "ep", "--set", "engine=ThreadPoolEngine")
    config = (account.base / "ep" / "config.yaml").read_text()
    assert f"service_url: {hub.url}\nssl_ca_file: {ca}\n" in config
    # At boot there are no variables but the identity's: the file has to say it all.
    account.cep("start", "ep", **NO_SHELL)
    until(lambda: "Service:   online" in account.cep("status", "ep", "--remote", **NO_SHELL))
    endpoint = json.loads((account.base / "ep" / "endpoint.json").read_text())["endpoint_id"]
    done = account.python("-c", SDK_PROGRAM, hub.url, endpoint)
    assert done.stdout == "42\n", done.stderr + hub.log()
    ours = {c.laddr.port for c in psutil.Process(hub.running["pid"]).net_connections()}
    assert ours >= {int(hub.port), hub.link.target}
    assert "hub-env" in account.cep("whoami")
    account.cep("stop", "ep", "--remote", **NO_SHELL)
    account.cep("delete", "ep", "--yes", **NO_SHELL)


def test_every_command_refuses_a_hub_of_another_authority(hub: SecureHub, account: Account) -> None:
    account.cep("configure", "ep", "--set", "engine=ThreadPoolEngine")
    account.cep("start", "ep", **NO_SHELL)
    config = account.base / "ep" / "config.yaml"
    text = config.read_text()
    other = {"GLOBUS_SDK_VERIFY_SSL": str(hub.other.file), "SSL_CERT_FILE": ""}
    config.write_text(text.replace(str(hub.authority.file), str(hub.other.file)))
    for words in (
        ("restart", "ep"),
        ("stop", "ep", "--remote"),
        ("delete", "ep", "--yes"),
        ("whoami",),
        ("login", "--force"),
    ):
        said = account.cep(*words, code=77, **other)
        assert f"The certificate of {hub.url} is not accepted" in said, words
        assert "Traceback" not in said
    plain = text.replace("https://", "http://")
    config.write_text(plain)
    assert hub.url in account.cep("start", "ep", code=78, **NO_SHELL)
    config.write_text(text)


def test_a_running_agent_meets_a_bad_certificate_says_so_and_comes_back(
    hub: SecureHub, account: Account
) -> None:
    account.cep("configure", "ep", "--set", "engine=ThreadPoolEngine")
    account.cep("start", "ep", **NO_SHELL)
    try:
        for authority, expired, words in (
            (hub.other, False, "its authority is not trusted"),
            (hub.authority, True, "it has expired"),
        ):
            hub.show(authority, expired=expired)
            hub.link.cut()
            until(lambda words=words: words in str(account.agent()["link_troubles"]))
            agent = account.agent()
            assert agent["state"] == "disconnected"
            assert f"the broker localhost:{hub.link.port}" in str(agent["link_troubles"])
            assert words in account.cep("status", "ep")
            assert words in account.log()
            hub.cep("status")  # the hub's own commands know it by its fingerprint
    finally:
        hub.show(hub.authority)
    until(lambda: account.agent()["state"] == "running")
    assert account.agent()["link_troubles"] == {}


def test_a_hub_refuses_at_its_start_what_its_clients_would_refuse(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    hub = HubProcess(tmp_path / "state")

    def start(files: tuple[Path, Path], *more: str) -> subprocess.CompletedProcess[str]:
        cert, key = files
        return hub.cep(
            *("serve", "--detach", "--port", "0", "--tls-cert", str(cert), "--tls-key", str(key)),
            *more,
            check=False,
        )

    good = authority.issue("good", "hub.example.org")
    done = start(good)
    assert done.returncode == 64
    assert "not for the name 'localhost'" in done.stderr
    assert start(authority.issue("old", "localhost", expired=True)).returncode == 78
    good[1].chmod(0o644)
    done = start(good, "--public-url", "https://hub.example.org:5000")
    assert done.returncode == 78
    assert "chmod 600" in done.stderr


def test_an_agent_runs_tasks_over_rabbitmqs_tls_listener(
    rabbitmq: RabbitMq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in trust.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with bench(tmp_path / "b", rabbitmq) as found:
        found.url = rabbitmq.tls_url
        found.configure(ENGINE)
        with pytest.raises(AssertionError, match="its authority is not trusted here"):
            found.start()
        assert found.words[-1]["kind"] == "PeerUntrusted"
        found.configure(f"ssl_ca_file: {rabbitmq.ca_file}\n{ENGINE}")
        child = found.start()
        found.submit(note, ["a", "b", "c"])
        account = found.collect(3)
        assert sorted(account.executions) == ["a", "b", "c"]
        assert not account.errors
        found.url = rabbitmq.tls_url.replace("localhost", "127.0.0.1")
        assert found.stop(child) == 0
        with pytest.raises(AssertionError, match=r"is not for the name 127\.0\.0\.1"):
            found.start()
