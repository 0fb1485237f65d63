"""What changes under a running service: its configuration, its package, its neighbours, its memory.

Each test runs on a host of each release of systemd at once. They share the hosts and run in this
order: each leaves the endpoint `lab` running.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.scene import Witness
from tests.integration.systemd_host import CEP, HOME, INSTALLATION, SystemdHost, until
from tests.integration.systemd_hosts import IMAGES, Each, Hosts, on_all, started

# The first test may have to wait for the image, and for cep's libraries in it.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

UNIT = "globus-compute-endpoint-lab.service"
CLIENT = f"{HOME}/client.env"
OTHER_UNIT = "globus-compute-endpoint-theirs.service"
MEMORY_MAX = 400_003_072  # bytes: whole pages


@pytest.fixture(scope="module")
def hosts(docker_engine: None) -> Iterator[Hosts]:
    del docker_engine
    with started([SystemdHost(image, older_groups=True) for image in IMAGES]) as made:
        made.do(SystemdHost.configure, "lab", "audit_log: audit.log\n")
        made.do(SystemdHost.sudo_cep, "enable-on-boot", "lab", "--now")
        yield made


@pytest.fixture
def lab(hosts: Hosts) -> Each[str]:
    """The endpoint's id; its service runs."""

    def running(host: SystemdHost) -> str:
        host.systemctl("start", UNIT)
        return host.endpoint_id("lab")

    return hosts.do(running)


class Gated:
    """Tasks that run until `open`."""

    def __init__(self, host: SystemdHost, endpoint: str, number: int) -> None:
        self._gate = host.home / "gate"
        self._gate.unlink(missing_ok=True)
        self._client = subprocess.Popen(
            host.sdk_command("gated", endpoint, str(number), f"{HOME}/witness", f"{HOME}/gate"),
            stdout=subprocess.PIPE,
            text=True,
        )

    def open(self) -> dict[str, int]:
        """Let them end; returns the outcome of each."""
        self._gate.touch()
        said, _ = self._client.communicate(timeout=150)
        self._gate.unlink()
        outcomes: dict[str, int] = json.loads(said.splitlines()[-1])["outcomes"]
        return outcomes

    def close(self) -> None:
        self._gate.touch()
        if self._client.poll() is None:
            self._client.kill()
        self._client.communicate()


@contextlib.contextmanager
def running_tasks(host: SystemdHost, endpoint: str, number: int) -> Iterator[Gated]:
    """Tasks of which the first has begun."""
    with Witness(host.home / "witness") as witness:
        witness.path.chmod(0o777)
        gated = Gated(host, endpoint, number)
        try:
            witness.wait_for(1, 120)
            yield gated
        finally:
            gated.close()
    witness.path.unlink()


def agent(host: SystemdHost) -> dict[str, object]:
    """What the agent says of itself."""
    said: dict[str, object] = json.loads(host.cep("status", "lab", "--json").stdout)["agent"]
    return said


def audit(host: SystemdHost, name: str) -> list[dict[str, str]]:
    """The lines of an audit file."""
    text = (host.config("lab").parent / name).read_text()
    return [json.loads(line) for line in text.splitlines()]


def status_says(host: SystemdHost, words: str, unit: str = UNIT) -> None:
    until(
        lambda: words in host.show(unit, "StatusText"),
        within_s=120,
        what=f"the status says {words}",
    )


# -- reload ----------------------------------------------------------------------------------------


@on_all
def test_a_reload_takes_over_what_it_can_and_the_running_task_goes_on(
    host: SystemdHost, lab: str
) -> None:
    process = host.show(UNIT, "MainPID")
    good = host.config("lab").read_text()
    with running_tasks(host, lab, 3) as tasks:
        host.config("lab").write_text(
            good.replace("max_workers: 1", "max_workers: 2").replace("audit.log", "moved.log")
            + "display_name: The lab\nintake: {high_tasks: 7, low_tasks: 3}\ndebug: true\n"
        )
        host.systemctl("reload", UNIT)
        said = agent(host)
        assert said["tasks"]["running"] >= 1  # type: ignore[index]
        outcome = said["reload"]
        assert outcome["error"] is None  # type: ignore[index]
        changed = outcome["changed"]  # type: ignore[index]
        assert changed == ["audit_log", "debug", "display_name", "intake"]
        assert outcome["restart_needed"] == ["engine.max_workers"]  # type: ignore[index]
        status_says(host, "needs a restart: engine.max_workers")
        assert tasks.open() == {"0": 0, "1": 1, "2": 2}
    assert host.show(UNIT, "MainPID") == process
    assert host.show(UNIT, "ActiveState") == "active"
    old, new = audit(host, "audit.log"), audit(host, "moved.log")
    begun = [line["task"] for line in old if line["event"] == "begin"]
    assert begun[0] in [line["task"] for line in new if line["event"] == "end"]
    assert len([line for line in old + new if line["event"] == "end"]) == 3

    host.config("lab").write_text(good)
    done = host.cep("reload", "lab", "--wait")  # by its owner, without root
    assert "changed: audit_log, debug, display_name, intake" in done.stderr
    until(
        lambda: "needs a restart" not in host.show(UNIT, "StatusText"),
        within_s=120,
        what="all of the configuration is in use",
    )
    assert host.show(UNIT, "MainPID") == process
    assert host.sdk("many", lab, "1")["right"]


@on_all
def test_a_bad_reload_fails_and_the_service_goes_on_as_before(host: SystemdHost, lab: str) -> None:
    process = host.show(UNIT, "MainPID")
    good = host.config("lab").read_text()
    host.config("lab").write_text(good + "drain_timeout: soon\n")
    try:
        done = host.systemctl("reload", UNIT, check=False)
        assert done.returncode != 0
        status_says(host, "the last reload failed: ")
        assert "drain_timeout" in agent(host)["reload"]["error"]  # type: ignore[index]
        for refused in (
            host.cep("reload", "lab", "--wait", check=False),
            host.sudo(CEP, "-c", f"{HOME}/.globus_compute", "reload", "lab", "--wait", check=False),
        ):
            assert refused.returncode == 78
            for word in (f"{HOME}/.globus_compute/lab/config.yaml", "drain_timeout", "soon"):
                assert word in refused.stderr
        before = agent(host)["reload"]["at"]  # type: ignore[index]
        host.sudo("kill", "-HUP", process)
        until(
            lambda: agent(host)["reload"]["at"] > before,  # type: ignore[index]
            within_s=120,
            what="the signal has been heard",
        )
        status_says(host, "the last reload failed: ")
        assert host.show(UNIT, "ActiveState") == "active"
        assert host.show(UNIT, "MainPID") == process
        assert host.sdk("many", lab, "1")["right"]
    finally:
        host.config("lab").write_text(good)
    host.sudo(CEP, "-c", f"{HOME}/.globus_compute", "reload", "lab", "--wait")  # by systemd
    assert "the last reload failed" not in host.show(UNIT, "StatusText")
    assert host.show(UNIT, "MainPID") == process


# -- logs ------------------------------------------------------------------------------------------


@on_all
def test_the_journal_has_the_log_with_fields_and_logs_shows_it(host: SystemdHost, lab: str) -> None:
    host.cep("reload", "lab", "--wait")
    words = ("journalctl", "-u", UNIT, f"CEP_ENDPOINT_ID={lab}", "CEP_EVENT=reload.done")
    entry = json.loads(host.sudo(*words, "-o", "json", "-n1").stdout)
    assert entry["MESSAGE"].startswith("configuration reloaded")
    assert (entry["PRIORITY"], entry["CEP_ENDPOINT"]) == ("6", "lab")
    assert entry["SYSLOG_IDENTIFIER"] == UNIT.removesuffix(".service")

    said = host.sudo(CEP, "-c", f"{HOME}/.globus_compute", "logs", "lab").stdout
    assert "configuration reloaded" in said
    assert f"Started {UNIT}" in said  # systemd's own word
    assert "ready to take tasks" in host.cep("logs", "lab").stdout  # its owner's


@on_all
def test_logs_follows_the_journal(host: SystemdHost, lab: str) -> None:
    assert lab
    heard = host.root / "heard"
    with heard.open("w") as file:
        follower = subprocess.Popen(
            host.account_command(CEP, "logs", "lab", "-f", "-n1"), stdout=file, text=True
        )
    try:
        until(lambda: heard.stat().st_size > 0, within_s=120, what="it shows the last line")
        host.cep("reload", "lab", "--wait")
        until(
            lambda: "configuration reloaded" in heard.read_text(),
            within_s=120,
            what="it shows what comes",
        )
    finally:
        host.sudo("pkill", "-f", "cep logs lab -f", check=False)
        follower.wait(60)


@on_all
def test_where_the_journal_is_not_ours_to_read_logs_says_so_and_shows_the_file(
    host: SystemdHost, lab: str
) -> None:
    assert lab
    host.sudo("sh", "-c", "chmod 0700 /var/log/journal/* /run/log/journal/* 2>/dev/null; true")
    try:
        done = host.cep("logs", "lab")
    finally:
        host.sudo("sh", "-c", "chmod 2755 /var/log/journal/* /run/log/journal/* 2>/dev/null; true")
    assert "cannot be read here" in done.stderr
    assert "endpoint.log" in done.stderr
    assert "configuration reloaded" in done.stdout


@on_all
def test_a_journal_that_is_away_holds_up_nobody(host: SystemdHost, lab: str) -> None:
    sockets = ("systemd-journald.socket", "systemd-journald-dev-log.socket")
    host.systemctl("stop", "systemd-journald.service", *sockets, check=False)
    try:
        host.cep("reload", "lab", "--wait")
        assert host.sdk("many", lab, "1")["right"]
        assert "configuration reloaded" in (host.config("lab").parent / "endpoint.log").read_text()
    finally:
        host.systemctl("start", "systemd-journald.socket", "systemd-journald.service", check=False)
    host.cep("reload", "lab", "--wait")
    until(
        lambda: (
            "lines are missing here: the journal did not take them"
            in host.sudo("journalctl", "-u", UNIT, "-n200", "--no-pager").stdout
        ),
        within_s=120,
        what="the journal tells how many lines are missing",
    )


# -- neighbours, package, memory -------------------------------------------------------------------


@on_all
def test_two_accounts_have_an_endpoint_each_and_neither_sees_the_other_s_secret(
    host: SystemdHost, lab: str
) -> None:
    theirs = "/home/colleague"
    host.sudo("install", "-d", "-o", "colleague", "-g", "colleague", "-m", "0755", theirs)
    base = f"{theirs}/.globus_compute"
    as_them = ("runuser", "-u", "colleague", "--", "env", "-i", f"HOME={theirs}", CEP)
    host.write_root("/etc/cep/hub-owner", "researcher\n")  # whose port 5000 is
    host.sudo(*as_them, "configure", "theirs", "--service", "http://localhost:5000")
    host.sudo(CEP, "-c", base, "enable-on-boot", "theirs", "--now", "--credentials", CLIENT)
    assert host.show(OTHER_UNIT, "User") == "colleague"
    other = json.loads(host.read(f"{base}/theirs/endpoint.json"))["endpoint_id"]
    assert host.sdk("many", lab, "1")["right"]
    assert host.sdk("many", other, "1")["right"]
    taken = host.sudo(*as_them, "-c", base, "enable-on-boot", "theirs", "--system", check=False)
    assert taken.returncode == 69  # not root

    process = host.show(UNIT, "MainPID")
    for secret in (
        f"/proc/{process}/environ",
        f"/run/credentials/{UNIT}/client-secret",
        f"/etc/cep/credentials/{UNIT.removesuffix('.service')}/client-secret",
    ):
        found = host.sudo("runuser", "-u", "colleague", "--", "cat", secret, check=False)
        assert found.returncode != 0, secret
        assert "ermission denied" in found.stderr
    host.sudo(CEP, "-c", base, "disable-on-boot", "theirs", "--now")
    host.sudo("rm", "/etc/cep/hub-owner")
    assert host.sdk("many", lab, "1")["right"]


@on_all
def test_the_package_is_replaced_under_a_running_service(host: SystemdHost, lab: str) -> None:
    process = host.show(UNIT, "MainPID")
    with running_tasks(host, lab, 2) as tasks:
        # As an upgrade does it: the old installation goes, a new one is in its place.
        host.sudo("cp", "-al", INSTALLATION, f"{INSTALLATION}.new")
        host.sudo("mv", INSTALLATION, f"{INSTALLATION}.old")
        host.sudo("mv", f"{INSTALLATION}.new", INSTALLATION)
        host.sudo("rm", "-r", f"{INSTALLATION}.old")
        host.cep("reload", "lab", "--wait")
        assert tasks.open() == {"0": 0, "1": 1}
    assert host.show(UNIT, "MainPID") == process
    host.systemctl("restart", UNIT)
    host.wait_active(UNIT, other_than=process)
    assert host.sdk("many", lab, "1")["right"]


@on_all
def test_a_task_killed_for_the_memory_limit_of_the_service_is_answered_with_that_reason(
    host: SystemdHost, lab: str
) -> None:
    host.sudo_cep("enable-on-boot", "lab", "--memory-max", str(MEMORY_MAX))
    host.systemctl("restart", UNIT)
    host.systemctl("set-property", "--runtime", UNIT, "MemorySwapMax=0")  # nor by way of swap
    assert host.show(UNIT, "MemoryMax") == str(MEMORY_MAX)
    process = host.show(UNIT, "MainPID")
    said = host.sdk("memory", lab, "2000000000")
    assert "SIGKILL" in said["error"]
    assert f"memory limit of {MEMORY_MAX} bytes" in said["error"]
    assert [line["code"] for line in audit(host, "audit.log") if "code" in line] == ["WORKER_LOST"]
    assert host.show(UNIT, "MainPID") == process
    assert host.sdk("many", lab, "1")["right"]
    host.sudo_cep("enable-on-boot", "lab")
    host.systemctl("restart", UNIT)


@on_all
def test_a_home_that_cannot_be_read_is_waited_for(host: SystemdHost, lab: str) -> None:
    host.systemctl("stop", UNIT)
    base = host.home / ".globus_compute"
    base.chmod(0o000)
    try:
        assert host.systemctl("start", UNIT, "--no-block").returncode == 0
        status_says(host, "cannot be read now")
        until(
            lambda: host.show(UNIT, "ExecMainStatus") == "75", within_s=120, what="it ended with 75"
        )
    finally:
        base.chmod(0o700)
    host.wait_active(UNIT)
    assert host.sdk("many", lab, "1")["right"]


@on_all
def test_a_setup_may_take_longer_than_the_units_own_time(host: SystemdHost, lab: str) -> None:
    assert lab
    limit_s = host.pace_s(UNIT)
    host.systemctl("stop", UNIT)
    good = host.config("lab").read_text()
    script = f'endpoint_setup: "sleep {limit_s + 2}"\n'
    drop_in = f"/etc/systemd/system/{UNIT}.d/test.conf"
    host.write_root(drop_in, f"[Service]\nTimeoutStartSec={limit_s}\n")
    host.systemctl("daemon-reload")
    host.config("lab").write_text(good + script)
    try:
        host.systemctl("start", UNIT)
        assert host.show(UNIT, "NRestarts") == "0"
    finally:
        host.config("lab").write_text(good)
        host.sudo("rm", "-r", f"/etc/systemd/system/{UNIT}.d")
        host.systemctl("daemon-reload")
