"""The collection on a host run by systemd: from nothing to endpoints that run, and back.

The tests share one host and run in this order; each leaves what its name says. The hub, too, was
put there by the collection. All comes from wheelhouses: the host reaches no package index.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import venvs, wheelhouses
from tests.integration.ansible_host import AnsibleHost, Controller, Play
from tests.integration.ansible_rollout import UNIT, Rollout
from tests.integration.faults.settings import LONG
from tests.integration.scene import until
from tests.integration.wheelhouses import LATER, VERSION

# The first test may have to wait for images, for wheels and for ansible-core.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

# The host's image, and which ansible-core: in the long form the older systemd with today's as well.
KINDS = [("systemd", "oldest")] + ([("systemd-252", "today")] if LONG else [])
OLD_ID = "5a1f0c1e-7d0b-4f57-9a52-3f6f2a1d9e10"  # of an earlier installation


@pytest.fixture(scope="module", params=KINDS, ids="-".join)
def rollout(
    docker_engine: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Rollout]:
    del docker_engine
    root = tmp_path_factory.mktemp("ansible")
    image, core = request.param
    python = venvs.ansible_today_python() if core == "today" else venvs.ansible_python()
    controller = Controller(python, root)
    collection = controller.install_collection()
    files = wheelhouses.make(image, root / "wheelhouses", collection)
    with AnsibleHost(image, root / "wheelhouses") as host:
        yield Rollout(host, controller, files)


def test_check_mode_on_a_fresh_host_changes_nothing(rollout: Rollout) -> None:
    rollout.variables["cep_endpoints"] = [
        {"name": "one", "user": "cep-one", "profile": "processes"},
        {"name": "two", "user": "researcher", "profile": "processes", "scope": "user"},
    ]
    done = rollout.good("site", "--check")
    assert done.changed["node1"] > 0
    assert rollout.host.everything() == rollout.before
    rollout.variables["cep_endpoints"] = []


def test_wrong_values_are_refused_before_anything_changes(rollout: Rollout, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.tar"
    content = bytearray(rollout.files[VERSION].read_bytes())
    content[len(content) // 2] ^= 0xFF
    damaged.write_bytes(content)
    in_a_home = {"name": "x", "user": "researcher", "profile": "threads", "local_dirs": ["/home/x"]}
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "name": ({"cep_endpoints": [{"name": "../x", "user": "a", "profile": "slurm"}]}, "../x"),
        "state": (
            {"cep_endpoints": [{"name": "x", "user": "a", "state": "up"}]},
            "value of state must be",
        ),
        "version": ({"cep_version": "9.9.9"}, "not 9.9.9"),
        "directory": ({"cep_endpoints": [in_a_home]}, "which is in a home"),
        "wheelhouse": ({"cep_wheelhouse": str(damaged)}, "damaged"),
    }
    # Five hosts for Ansible, which does not know that they are one.
    hosts = {name: values for name, (values, _) in wrong.items()}
    done = rollout.play("site", hosts=hosts)
    assert not done.good
    assert set(done.failed) == set(wrong)
    for name, (_, told) in wrong.items():
        # A loop says "failed" of the item; a task that runs elsewhere says where.
        told_by = re.compile(rf"(fatal|failed): \[{name}( -> localhost)?\]")
        said = [line for line in done.text.splitlines() if told_by.match(line)]
        assert said and told in said[0], done.text
        assert (done.changed[name], done.failed[name]) == (0, 1)
    assert rollout.host.everything() == rollout.before


def test_the_first_run_brings_a_hub_and_endpoints_that_run_functions(rollout: Rollout) -> None:
    # The hub alone: it makes the clients that the endpoints log in as.
    rollout.good("site", "--limit", "cep_hubs")
    rollout.hub = False
    local = "/var/lib/cep-one"
    rollout.add("one", "cep-one", local_dirs=[local])
    rollout.endpoint("one")["vars"]["state_dir"] = local
    rollout.add("two", "researcher", client="other")
    rollout.add("later", "colleague", client=None, service_url="", uuid=OLD_ID)
    done = rollout.good("site")
    assert "colleague/later: waiting for login" in done.text
    assert rollout.id_of("later") == OLD_ID
    assert rollout.doubles("one")
    assert rollout.host.functions(rollout.host.client("other"), "many", rollout.id_of("two"), "3")
    assert rollout.host.show(UNIT.format("one"), "User") == "cep-one"
    told = rollout.host.sudo("stat", "-c", "%U %a", local, f"{local}/journal.db").stdout
    assert told.split() == ["cep-one", "700", "cep-one", "600"]
    assert rollout.host.show(UNIT.format("later"), "ActiveState") == "inactive"


def test_the_second_run_changes_nothing(rollout: Rollout) -> None:
    before = rollout.processes()
    rollout.hub = True
    done = rollout.good("site", "-vvv")
    rollout.hub = False
    assert done.changed == {"hub1": 0, "node1": 0}
    assert rollout.processes() == before


def test_check_mode_on_a_converged_host_tells_of_nothing(rollout: Rollout) -> None:
    done = rollout.good("site", "--check")
    assert done.changed == {"node1": 0}


def test_a_wrong_variable_of_a_profile_changes_nothing(rollout: Rollout) -> None:
    before = rollout.processes()
    rollout.endpoint("one")["vars"]["max_workers"] = "many"
    rollout.endpoint("two")["vars"]["max_workers"] = 2
    done = rollout.play("site")
    rollout.endpoint("one")["vars"]["max_workers"] = 1
    rollout.endpoint("two")["vars"]["max_workers"] = 1
    assert not done.good
    assert "max_workers" in done.text
    assert done.changed["node1"] == 0
    assert rollout.processes() == before


def test_a_changed_profile_waits_when_changes_are_deferred(rollout: Rollout) -> None:
    before = rollout.processes()
    rollout.endpoint("two")["profile"] = "threads"
    done = rollout.good("site", cep_restart_policy="defer")
    assert done.changed == {"node1": 1}
    assert "-  type: ProcessPoolEngine" in done.text
    assert "+  type: ThreadPoolEngine" in done.text
    assert "researcher/two: what changed holds from the next start on" in done.text
    assert rollout.processes() == before


def test_one_changed_variable_restarts_one_endpoint(rollout: Rollout) -> None:
    before = rollout.processes()
    rollout.endpoint("two")["vars"]["max_workers"] = 2
    done = rollout.good("site")
    after = rollout.processes()
    assert done.changed == {"node1": 1}
    assert after["one"] == before["one"]
    assert after["two"] not in (before["two"], "0")
    assert "+  max_workers: 2" in done.text
    assert "holds from the next start on" not in done.text


def test_a_changed_secret_restarts_its_endpoint_while_another_is_added(rollout: Rollout) -> None:
    before = rollout.processes()
    said = rollout.host.sudo(
        f"/opt/cep/releases/{VERSION}/bin/cep",
        "hub", "client", "rotate", "other", "--json", "--state-dir", "/var/lib/cep-hub",
    ).stdout  # fmt: skip
    rollout.endpoint("two")["client_secret"] = json.loads(said)["client_secret"]
    rollout.secrets.append(json.loads(said)["client_secret"])
    rollout.add("own", "researcher", scope="user")
    done = rollout.good("site", "-vvv")
    after = rollout.processes()
    assert done.changed["node1"] > 1
    assert after["one"] == before["one"]
    assert after["two"] not in (before["two"], "0")
    assert rollout.doubles("own")
    unit = "/home/researcher/.config/systemd/user/" + UNIT.format("own")
    assert rollout.host.sudo("stat", "-c", "%U", unit).stdout.strip() == "researcher"


def test_an_upgrade_waits_for_running_tasks_and_loses_none(rollout: Rollout) -> None:
    rollout.variables |= {"cep_version": LATER, "cep_wheelhouse": str(rollout.files[LATER])}
    told = run_gated(rollout, "upgrade")
    assert told == [0, 1, 2]
    assert_runs(rollout, LATER)


def test_the_way_back_is_the_older_version_and_loses_none_either(rollout: Rollout) -> None:
    rollout.variables |= {"cep_version": VERSION, "cep_wheelhouse": str(rollout.files[VERSION])}
    told = run_gated(rollout, "upgrade")
    assert told == [0, 1, 2]
    assert_runs(rollout, VERSION)
    assert "Install the distribution and its libraries" not in rollout.controller.said[-1]


def run_gated(rollout: Rollout, playbook: str) -> list[int]:
    """Run a playbook while a task runs that ends only when its endpoint is stopping.

    Two more tasks wait in the journal meanwhile, for one worker. Returns what the SDK got.
    """
    host = rollout.host
    host.sudo("sh", "-c", "rm -f /tmp/gated-*")
    words = host.sdk_words(host.client(), "until-open", rollout.id_of("one"), "3", "/tmp/gated")
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as sdk:
        begun = ("test", "-e", "/tmp/gated-0")
        until(lambda: host.sudo(*begun, check=False).returncode == 0, within_s=120, what="it began")
        made: list[Play] = []
        thread = threading.Thread(target=lambda: made.append(rollout.play(playbook)))
        thread.start()
        try:
            until(
                lambda: "stopping" in host.show(UNIT.format("one"), "StatusText"),
                within_s=900,
                what=f"the endpoint is stopping\n{host.journal(20)}",
            )
        finally:
            host.sudo("touch", "/tmp/gated-open")
            thread.join()
            said, _ = sdk.communicate(timeout=120)
    assert made[0].good, made[0].text
    values: list[int] = json.loads(said.splitlines()[-1])["values"]
    return sorted(values)


def assert_runs(rollout: Rollout, version: str) -> None:
    """Every endpoint runs this release, its worker included."""
    for name in ("one", "two"):
        process = rollout.host.process(name)
        assert process != "0"
        program = rollout.host.show(UNIT.format(name), "ExecStart")
        assert f"/opt/cep/releases/{version}/bin/cep" in program
    link = rollout.host.sudo("readlink", "/opt/cep/current").stdout.strip()
    assert link == f"/opt/cep/releases/{version}"
    assert rollout.doubles("one")


def test_after_a_maintenance_window_exactly_those_run_that_ran(rollout: Rollout) -> None:
    rollout.host.sudo("systemctl", "stop", UNIT.format("two"))
    rollout.good("maintenance", cep_maintenance="begin")
    assert set(rollout.processes().values()) == {"0"}
    if LONG:
        rollout.good("maintenance", cep_maintenance="begin")  # it is remembered still which ran
    rollout.good("maintenance", cep_maintenance="end")
    running = {name for name, process in rollout.processes().items() if process != "0"}
    assert running == {"one"}
    assert rollout.doubles("own")


def test_verify_fails_with_the_status_of_what_does_not_run(rollout: Rollout) -> None:
    done = rollout.play("verify", cep_health_timeout=0)
    assert not done.good
    assert "researcher/two does not take tasks" in done.text


def test_an_endpoint_that_is_to_be_absent_goes_and_keeps_its_directory(rollout: Rollout) -> None:
    before = rollout.processes()
    rollout.endpoint("two").update(state="absent", deregister=True)
    rollout.good("site")
    assert rollout.processes()["one"] == before["one"]
    assert rollout.host.show(UNIT.format("two"), "LoadState") == "not-found"
    kept = rollout.host.sudo("ls", "/home/researcher/.globus_compute/two").stdout.split()
    assert "config.yaml" in kept
    assert "endpoint.json" not in kept  # its registration went, and with it the id


def test_no_secret_was_told_by_any_run(rollout: Rollout) -> None:
    assert len(rollout.secrets) >= 3
    for secret in rollout.secrets:
        assert len(secret) > 20
        for said in rollout.controller.said:
            assert secret not in said


def test_uninstalling_leaves_data_and_accounts_and_lists_them(rollout: Rollout) -> None:
    rollout.hub = True
    done = rollout.good("uninstall")
    assert "accounts that this role made: cep-one" in done.text
    rollout.host.sudo("test", "-d", "/home/cep-one/.globus_compute/one")
    for path in ("/opt/cep/releases", "/etc/systemd/system/cep-hub.service"):
        assert rollout.host.sudo("test", "-e", path, check=False).returncode == 1


def test_uninstalling_with_purge_leaves_nothing(rollout: Rollout) -> None:
    rollout.hub = True
    rollout.good("uninstall", cep_purge=True)
    left = rollout.host.everything() - rollout.before
    # An account's tokens are its own: the SDK keeps them in the same place.
    assert left <= {
        "/home/researcher/.globus_compute",
        "/home/researcher/.globus_compute/storage.db",
    }
    assert rollout.before <= rollout.host.everything()
