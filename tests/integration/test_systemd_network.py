"""A service whose hub is on another host, and what the network between them does to it.

What README.md tells to type is typed, on the hub's host and on the endpoint's: one such pair, on a
network of its own, for each release of systemd, all at once. The tests run in this order, after
what systemd_far.py has begun beside earlier tests.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.faults.settings import LONG
from tests.integration.scene import Witness
from tests.integration.systemd_far import DISABLE, OWN, PROJECT, UNIT, Far, lines_of
from tests.integration.systemd_host import ACCOUNT, HOME, SystemdHost, until
from tests.integration.systemd_hosts import Hosts, on_all

# The first test may have to wait for the image, and for cep's libraries in it.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800 if LONG else 1200)]

PAGE = PROJECT / "docs" / "service.md"
HEARTBEAT_S = 8
# The short form is long enough for the same to happen: three periods of the watchdog and more than
# one of the heartbeat pass, and links are given up and tried again.
CUT_S = 300.0 if LONG else 15.0
REBOOTED_S = 1000.0


@pytest.fixture(scope="module", autouse=True)
def closed(far: Far) -> Iterator[None]:
    """No host outlives these tests."""
    yield
    far.close()


@pytest.fixture(scope="module")
def hub(far: Far) -> Hosts:
    far.wait(REBOOTED_S)
    return far.hubs


@pytest.fixture(scope="module")
def hosts(far: Far) -> Hosts:
    far.wait(REBOOTED_S)
    return far.nodes


def test_both_pages_tell_the_same() -> None:
    assert lines_of(PAGE) == [*OWN, DISABLE]


def test_enabled_as_the_readme_says_it_is_back_after_a_reboot_with_the_network_late(
    far: Far,
) -> None:
    far.rebooted.result(timeout=REBOOTED_S)


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
