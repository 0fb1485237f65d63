"""A service whose hub is on another host, and what the network between them does to it.

What README.md tells to type is typed, on the hub's host and on the endpoint's: one such pair, on a
network of its own, for each release of systemd, all at once. The tests run in this order.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from tests.integration import docker_engine as engine
from tests.integration.faults.settings import LONG
from tests.integration.scene import Witness
from tests.integration.systemd_host import ACCOUNT, HOME, SystemdHost, until
from tests.integration.systemd_hosts import IMAGES, Hosts, on_all, started

# The first test may have to wait for the image, and for cep's libraries in it.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800 if LONG else 1200)]

UNIT = "globus-compute-endpoint-lab.service"
HUB = "hub.example.org"
ADDRESS = f"http://{HUB}:5000"
PROJECT = Path(__file__).parents[2]
README, PAGE = PROJECT / "README.md", PROJECT / "docs" / "service.md"
HEARTBEAT_S = 8
LATE_S = 30.0
# The short form is long enough for the same to happen: three periods of the watchdog and more than
# one of the heartbeat pass, and links are given up and tried again.
CUT_S = 300.0 if LONG else 15.0


def lines_of(page: Path) -> list[str]:
    """What a page tells to type, on the hub's host with its prompt."""
    told = page.read_text().partition("<!-- these lines are run by a test -->")[2]
    lines = told.partition("<!-- end -->")[0].splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith(("$ ", "hub$ "))]


SERVE, CREDENTIALS, *OWN, RUN, DISABLE = lines_of(README)
CONFIGURE, ENABLE, REMOVE, REBOOT, STATUS = OWN


@pytest.fixture(scope="module")
def everyone(docker_engine: None) -> Iterator[Hosts]:
    """For each release the hub's host, from where functions are run, too; then the endpoints'."""
    del docker_engine
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(contextlib.closing(engine.client()))
        hubs, nodes = [], []
        for image in IMAGES:
            name = f"cep-far-{secrets.token_hex(4)}"
            network = client.networks.create(name, labels=engine.session_labels())
            stack.callback(network.remove)
            hubs.append(SystemdHost(image, name=HUB, network=name, hub=None))
            nodes.append(SystemdHost(image, network=name, hub=None, service=ADDRESS))
        yield stack.enter_context(started([*hubs, *nodes]))


@pytest.fixture(scope="module")
def hub(everyone: Hosts) -> Hosts:
    def served(host: SystemdHost) -> None:
        for line in (SERVE, CREDENTIALS):
            host.shell(line.removeprefix("hub$ "))
        host.keep_client((host.home / "client.env").read_text())

    hubs = Hosts(everyone.values[: len(IMAGES)])
    hubs.do(served)
    return hubs


@pytest.fixture(scope="module")
def hosts(everyone: Hosts, hub: Hosts) -> Hosts:
    """The endpoints' hosts; each has the credentials that its hub gave."""
    nodes = Hosts(everyone.values[len(IMAGES) :])
    nodes.do(lambda host, far: host.keep_client((far.home / "client.env").read_text()), hub)
    return nodes


def double(hub: SystemdHost, endpoint: str) -> str:
    """Run the program of README.md's quickstart on an endpoint; what it prints."""
    program = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)[0]
    text = re.sub(r'endpoint_id="[^"]*"', f'endpoint_id="{endpoint}"', program)
    assert endpoint in text
    (hub.home / "double.py").write_text(text)
    return hub.shell(RUN.removeprefix("hub$ ")).stdout


def test_both_pages_tell_the_same() -> None:
    assert lines_of(PAGE) == [*OWN, DISABLE]


@on_all
def test_enabled_as_the_readme_says_it_is_back_after_a_reboot_with_the_network_late(
    host: SystemdHost, hub: SystemdHost
) -> None:
    host.shell(CONFIGURE)
    host.shell(ENABLE)
    host.shell(REMOVE)
    far = host.endpoint_id("lab")
    assert double(hub, far) == "42\n"
    secret = host.environment["GLOBUS_COMPUTE_CLIENT_SECRET"]
    found = host.sudo("grep", "-rlF", "--", secret, "/etc", HOME, "/run/systemd", check=False)
    kept = "/etc/cep/credentials/globus-compute-endpoint-lab/client-secret"
    assert found.stdout.split() == [kept]

    host.set_network(False)
    assert REBOOT == "sudo reboot"
    host.reboot()
    booted = time.monotonic()
    until(
        lambda: host.show(UNIT, "ExecMainStatus") == "75",
        within_s=120,
        what="the service has tried in vain",
    )
    Event().wait(LATE_S - (time.monotonic() - booted))  # the length of the trouble itself
    host.set_network(True)
    host.wait_active(UNIT)  # ever longer between the tries
    assert int(host.show(UNIT, "NRestarts")) >= 1
    assert host.endpoint_id("lab") == far
    assert f"{UNIT} (enabled, active)" in host.shell(STATUS).stdout
    assert double(hub, far) == "42\n"


@on_all
def test_more_blocks_come_by_a_reload_and_the_journal_tells_of_each(host: SystemdHost) -> None:
    process = host.show(UNIT, "MainPID")
    text = host.config("lab").read_text()
    assert "max_blocks: 1\n" in text
    wider = text.replace("min_blocks: 0\n", "min_blocks: 2\n").replace(
        "max_blocks: 1\n", "max_blocks: 2\n"
    )
    host.config("lab").write_text(wider)
    done = host.shell("cep reload lab --wait")
    assert "changed: engine.provider.max_blocks, engine.provider.min_blocks" in done.stderr

    def states() -> list[str]:
        blocks = json.loads(host.shell("cep status lab --json").stdout)["agent"]["engine"]["blocks"]
        return [block["state"] for block in blocks]

    until(lambda: states() == ["running"] * 2, within_s=120, what="two blocks run")
    said = host.shell("cep logs lab --block 1").stdout
    assert f"==> the journal of {UNIT}, block 1 <==" in said
    assert "block 1 submitted as job" in said
    assert "block 0 submitted" not in said
    assert host.show(UNIT, "MainPID") == process


@on_all
def test_a_cut_network_causes_no_restart_and_loses_nothing(
    host: SystemdHost, hub: SystemdHost
) -> None:
    far = host.endpoint_id("lab")
    watchdog_s = host.pace_s(UNIT)
    cut_s = max(CUT_S, 3.0 * watchdog_s)
    drop_in = f"/etc/systemd/system/{UNIT}.d/test.conf"
    host.write_root(drop_in, f"[Service]\nWatchdogSec={watchdog_s}\n")
    host.systemctl("daemon-reload")
    with host.config("lab").open("a") as file:
        file.write(f"heartbeat_period: {HEARTBEAT_S}\n")
    host.systemctl("restart", UNIT)
    process = host.wait_active(UNIT)

    def sign_of_life() -> int:
        return int(host.show(UNIT, "WatchdogTimestampMonotonic"))  # microseconds

    with Witness(host.home / "witness") as witness:
        witness.path.chmod(0o777)
        words = (far, "1", f"{HOME}/witness", f"{HOME}/gate", str(cut_s + 240))
        client = subprocess.Popen(
            hub.sdk_command("gated", *words), stdout=subprocess.PIPE, text=True
        )
        witness.wait_for(1, 120)
        host.set_network(False)
        begun = sign_of_life()
        (host.home / "gate").touch()  # its result has nowhere to go
        until(
            lambda: sign_of_life() > begun + cut_s * 1e6,
            within_s=cut_s + 120,
            what="signs of life go on",
        )
        host.set_network(True)
        said, _ = client.communicate(timeout=cut_s + 270)
    assert json.loads(said.splitlines()[-1])["outcomes"] == {"0": 0}
    assert host.show(UNIT, "MainPID") == process
    assert host.show(UNIT, "NRestarts") == "0"
    assert hub.sdk("many", far, "1")["right"]


@on_all
def test_removed_again_it_leaves_no_file(host: SystemdHost) -> None:
    host.sudo("rm", "-r", f"/etc/systemd/system/{UNIT}.d")
    host.shell(DISABLE)
    left = {path for path in host.files() if "globus-compute" in path or "/cep" in path}
    assert left == set()
    running = host.sudo("pgrep", "-u", ACCOUNT, "-af", f"Globus Compute|parsl|{HOME}", check=False)
    assert running.stdout == ""  # its blocks, which are in sessions of their own, have ended, too
