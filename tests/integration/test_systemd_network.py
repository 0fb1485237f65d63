"""A service whose hub is on another host, and what the network between them does to it.

Two hosts on a network of their own. The tests run in this order.
"""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import pytest

from tests.integration import docker_engine as engine
from tests.integration.faults.settings import LONG
from tests.integration.scene import Witness, until
from tests.integration.systemd_host import ACCOUNT, HOME, SystemdHost

# The first test may have to wait for the image, and for cep's libraries in it.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(900 if LONG else 400)]

UNIT = "globus-compute-endpoint-lab.service"
HUB = "hubhost"
ADDRESS = f"http://{HUB}:5000"
SERVED = ("--host", "0.0.0.0", "--insecure", "--embedded-broker-exposed", "--public-url", ADDRESS)
PAGE = Path(__file__).parents[2] / "docs" / "service.md"
WATCHDOG_S = 5
LATE_S = 30.0 if LONG else 0.0
CUT_S = 300.0 if LONG else 2.0 * WATCHDOG_S


@dataclass(frozen=True)
class Pair:
    """The host of the hub, and of the SDK, which knows only localhost; and the endpoint's."""

    hub: SystemdHost
    node: SystemdHost


@pytest.fixture(scope="module")
def pair(docker_engine: None) -> Iterator[Pair]:
    del docker_engine
    client = engine.client()
    name = f"cep-far-{secrets.token_hex(4)}"
    network = client.networks.create(name, labels=engine.session_labels())
    try:
        with (
            SystemdHost(name=HUB, network=name, hub=SERVED) as hub,
            SystemdHost(name="node1", network=name, hub=None, service=ADDRESS) as node,
        ):
            node.keep_client(hub.cep("hub", "env").stdout)
            yield Pair(hub, node)
    finally:
        network.remove()
        client.close()


def lines_of_the_page() -> list[str]:
    """What the page tells to type, with this hub's address."""
    told = PAGE.read_text().partition("<!-- these lines are run by a test -->")[2]
    lines = told.partition("<!-- end -->")[0].splitlines()
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line.replace("http://hub.example.org:5000", ADDRESS) for line in typed]


CONFIGURE, ENABLE, REMOVE, REBOOT, STATUS, DISABLE = lines_of_the_page()


def test_enabled_as_the_page_says_it_is_back_after_a_reboot_with_the_network_late(
    pair: Pair,
) -> None:
    node = pair.node
    node.shell(CONFIGURE)
    node.shell(ENABLE)
    node.shell(REMOVE)
    far = node.endpoint_id("lab")
    assert pair.hub.sdk("many", far, "1")["right"]
    secret = node.environment["GLOBUS_COMPUTE_CLIENT_SECRET"]
    found = node.sudo("grep", "-rlF", "--", secret, "/etc", HOME, "/run/systemd", check=False)
    kept = "/etc/cep/credentials/globus-compute-endpoint-lab/client-secret"
    assert found.stdout.split() == [kept]

    node.set_network(False)
    assert REBOOT == "sudo reboot"
    node.reboot()
    until(
        lambda: node.show(UNIT, "ExecMainStatus") == "75",
        within_s=120,
        what="the service has tried in vain",
    )
    Event().wait(LATE_S)  # the long form's own length of the trouble
    node.set_network(True)
    node.wait_active(UNIT)
    assert int(node.show(UNIT, "NRestarts")) >= 1
    assert node.endpoint_id("lab") == far
    assert f"{UNIT} (enabled, active)" in node.shell(STATUS).stdout
    assert pair.hub.sdk("many", far, "1")["right"]


def test_more_blocks_come_by_a_reload_and_the_journal_tells_of_each(pair: Pair) -> None:
    node = pair.node
    process = node.show(UNIT, "MainPID")
    text = node.config("lab").read_text()
    assert "max_blocks: 1\n" in text
    wider = text.replace("min_blocks: 0\n", "min_blocks: 2\n").replace(
        "max_blocks: 1\n", "max_blocks: 2\n"
    )
    node.config("lab").write_text(wider)
    done = node.shell("cep reload lab --wait")
    assert "changed: engine.provider.max_blocks, engine.provider.min_blocks" in done.stderr

    def states() -> list[str]:
        blocks = json.loads(node.shell("cep status lab --json").stdout)["agent"]["engine"]["blocks"]
        return [block["state"] for block in blocks]

    until(lambda: states() == ["running"] * 2, within_s=60, what="two blocks run")
    said = node.shell("cep logs lab --block 1").stdout
    assert f"==> the journal of {UNIT}, block 1 <==" in said
    assert "block 1 submitted as job" in said
    assert "block 0 submitted" not in said
    assert node.show(UNIT, "MainPID") == process


def test_a_cut_network_causes_no_restart_and_loses_nothing(pair: Pair) -> None:
    node = pair.node
    far = node.endpoint_id("lab")
    node.write_root(
        f"/etc/systemd/system/{UNIT}.d/test.conf", f"[Service]\nWatchdogSec={WATCHDOG_S}\n"
    )
    node.systemctl("daemon-reload")
    node.systemctl("restart", UNIT)
    process = node.wait_active(UNIT)

    def sign_of_life() -> int:
        return int(node.show(UNIT, "WatchdogTimestampMonotonic"))  # microseconds

    with Witness(node.home / "witness") as witness:
        witness.path.chmod(0o777)
        words = (far, "1", f"{HOME}/witness", f"{HOME}/gate", str(CUT_S + 120))
        client = subprocess.Popen(
            pair.hub.sdk_command("gated", *words), stdout=subprocess.PIPE, text=True
        )
        witness.wait_for(1, 90)
        node.set_network(False)
        begun = sign_of_life()
        (node.home / "gate").touch()  # its result has nowhere to go
        until(
            lambda: sign_of_life() > begun + CUT_S * 1e6,
            within_s=CUT_S + 60,
            what="signs of life go on",
        )
        node.set_network(True)
        said, _ = client.communicate(timeout=CUT_S + 150)
    assert json.loads(said.splitlines()[-1])["outcomes"] == {"0": 0}
    assert node.show(UNIT, "MainPID") == process
    assert node.show(UNIT, "NRestarts") == "0"
    assert pair.hub.sdk("many", far, "1")["right"]


def test_removed_again_it_leaves_no_file(pair: Pair) -> None:
    node = pair.node
    node.sudo("rm", "-r", f"/etc/systemd/system/{UNIT}.d")
    node.shell(DISABLE)
    left = {path for path in node.files() if "globus-compute" in path or "/cep" in path}
    assert left == set()
    assert node.sudo("pgrep", "-u", ACCOUNT, "-f", "Globus Compute", check=False).returncode == 1
