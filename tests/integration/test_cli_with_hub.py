"""The commands of an endpoint's life against a real hub: states, refusals, no shell variables."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hub_rig import HubProcess
from tests.integration.scene import until

UNSET = (
    "GLOBUS_SDK_ENVIRONMENT",
    "GLOBUS_SDK_SERVICE_URL_AUTH",
    "GLOBUS_SDK_SERVICE_URL_COMPUTE",
    "GLOBUS_COMPUTE_CLIENT_ID",
    "GLOBUS_COMPUTE_CLIENT_SECRET",
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as found:
        yield found


class Account:
    """One user directory, and a shell with the variables that `hub env` prints."""

    def __init__(self, hub: HubProcess, base: Path) -> None:
        self.hub, self.base = hub, base
        self.environment = {k: v for k, v in os.environ.items() if k not in UNSET}
        self.environment["GLOBUS_COMPUTE_USER_DIR"] = str(base)
        for line in hub.cep("env").stdout.splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value

    def cep(
        self, *words: str, code: int = 0, without: tuple[str, ...] = (), **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and check its exit code."""
        environment = {k: v for k, v in self.environment.items() if k not in without}
        done = subprocess.run(
            [sys.executable, "-m", "cep", *words],
            env={**environment, **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == code, f"{words}: {done.stdout}{done.stderr}{self.log()}"
        return done

    def log(self) -> str:
        """The endpoint's log."""
        file = self.base / "ep" / "endpoint.log"
        return file.read_text() if file.exists() else ""

    def state(self) -> str:
        """What `list` says."""
        return str(json.loads(self.cep("list", "--json").stdout)["endpoints"][0]["status"])

    def status(self) -> dict[str, object]:
        """What `status` says, the service asked too."""
        return dict(json.loads(self.cep("status", "ep", "--json", "--remote").stdout))


@pytest.fixture
def account(hub: HubProcess, tmp_path: Path) -> Iterator[Account]:
    found = Account(hub, tmp_path / "a home" / "base")
    found.cep("configure", "ep", "--set", "engine=ThreadPoolEngine")
    yield found
    found.cep("stop", "--all", "--now")


def test_what_configure_wrote_is_enough_without_the_shell_s_service_variables(
    account: Account,
) -> None:
    bare = ("GLOBUS_SDK_ENVIRONMENT", "GLOBUS_SDK_SERVICE_URL_AUTH")
    account.cep("start", "ep", without=bare)
    account.cep("restart", "ep", without=bare)

    def told() -> str:
        said = account.cep("status", "ep", "--remote", "--json", without=bare).stdout
        return str(json.loads(said)["service"])

    # The hub hears of a start or a stop a moment after it.
    until(lambda: told() == "online", within_s=60, what="online")
    account.cep("stop", "ep")
    until(lambda: account.status()["service"] == "offline", within_s=60, what="offline")


def test_pause_holds_over_a_restart(account: Account) -> None:
    account.cep("start", "ep")
    account.cep("pause", "ep")
    assert account.status()["agent"]["holds"] == ["paused"]  # type: ignore[index]
    account.cep("restart", "ep")
    assert account.status()["agent"]["holds"] == ["paused"]  # type: ignore[index]
    account.cep("resume", "ep")
    assert account.status()["agent"]["holds"] == []  # type: ignore[index]


def test_stop_remote_locks_and_the_next_start_is_69_with_the_published_line(
    account: Account,
) -> None:
    account.cep("start", "ep")
    account.cep("stop", "ep", "--remote")
    blocked = account.cep("start", "ep", code=69)
    assert blocked.stdout.startswith("Endpoint registration blocked.  [{")
    assert "423" in blocked.stderr


def test_wrong_credentials_are_77_and_half_of_them_too(account: Account) -> None:
    wrong = account.cep("start", "ep", code=77, GLOBUS_COMPUTE_CLIENT_SECRET="no")
    assert "id or its secret" in wrong.stderr
    account.cep("start", "ep", code=77, without=("GLOBUS_COMPUTE_CLIENT_SECRET",))
    assert account.state() == "Initialized"


def test_delete_removes_the_endpoint_here_and_at_the_hub(account: Account) -> None:
    account.cep("start", "ep")
    account.cep("delete", "ep", "--yes", code=73)
    endpoint_id = account.status()["id"]
    account.cep("delete", "ep", "--yes", "--force")
    assert not (account.base / "ep").exists()
    account.cep("configure", "ep", "--set", "engine=ThreadPoolEngine")
    (account.base / "ep" / "endpoint.json").write_text(json.dumps({"endpoint_id": endpoint_id}))
    account.cep("status", "ep", "--remote", code=69)


def test_an_agent_in_the_foreground_says_the_line_and_ends_in_order(account: Account) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "cep", "start", "ep", "--foreground"],
        env=account.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline().startswith("Starting endpoint; registered ID: ")
        assert account.state() == "Running"
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0
    assert account.state() == "Stopped"


def test_a_wrong_configuration_starts_nothing(account: Account) -> None:
    with (account.base / "ep" / "config.yaml").open("a") as file:
        file.write("nonsense: 1\n")
    done = account.cep("start", "ep", code=78)
    assert "nonsense" in done.stderr
    assert account.state() == "Initialized"


def test_without_the_hub_start_is_75_in_one_sentence(tmp_path: Path) -> None:
    with HubProcess(tmp_path / "hub") as hub:
        account = Account(hub, tmp_path / "base")
        account.cep("configure", "ep", "--set", "engine=ThreadPoolEngine")
        hub.cep("stop")
        done = account.cep("start", "ep", code=75)
    assert "does not answer" in done.stderr
    assert done.stdout == ""
