"""What a change in the inventory does to endpoints that run, by each policy. LONG=1 only.

The tests share one host, which the collection has set up, and run in this order.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration import venvs, wheelhouses
from tests.integration.ansible_host import CURRENT, AnsibleHost, Controller
from tests.integration.ansible_rollout import Rollout
from tests.integration.scene import until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(5400)]

WAITS = "what changed holds from the next start on"


@pytest.fixture(scope="module")
def rollout(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rollout]:
    """A host with a hub and the endpoints `one` and `two`."""
    del docker_engine
    root = tmp_path_factory.mktemp("changes")
    controller = Controller(venvs.ansible_python(), root)
    controller.install_collection()
    files = wheelhouses.make("systemd", root / "wheelhouses")
    with AnsibleHost("systemd", root / "wheelhouses") as host:
        made = Rollout(host, controller, files)
        made.good("site")  # the hub alone: it makes the clients that the endpoints log in as
        made.hub = False
        made.add("one", "cep-one")
        made.add("two", "researcher", profile="threads")
        made.good("site")
        yield made


def restart_is_due(rollout: Rollout, name: str) -> bool:
    """Whether cep says that what changed holds from the endpoint's next start on."""
    document = {"endpoints": [{"name": name, "run_as": rollout.endpoint(name)["user"]}]}
    rollout.host.write_root("/run/asked.json", json.dumps(document))
    said = rollout.host.sudo(f"{CURRENT}/cep", "apply", "--info", "--json", "-f", "/run/asked.json")
    return bool(json.loads(said.stdout)["endpoints"][0]["restart_needed"])


def engine_of(rollout: Rollout, name: str) -> str:
    """The engine in an endpoint's configuration."""
    user = rollout.endpoint(name)["user"]
    return rollout.host.read(f"/home/{user}/.globus_compute/{name}/config.yaml")


def test_a_changed_profile_is_shown_exactly_before_it_is_done(rollout: Rollout) -> None:
    before, config = rollout.processes(), engine_of(rollout, "two")
    rollout.endpoint("two")["profile"] = "processes"
    shown = rollout.good("site", "--check")
    assert shown.changed == {"node1": 1}
    assert rollout.processes() == before
    assert engine_of(rollout, "two") == config
    done = rollout.good("site")
    assert done.changed == {"node1": 1}
    difference = changed_lines(done.text)
    assert "-  type: ThreadPoolEngine" in difference
    assert "+  type: ProcessPoolEngine" in difference
    assert changed_lines(shown.text) == difference
    after = rollout.processes()
    assert after["one"] == before["one"]
    assert after["two"] not in (before["two"], "0")
    assert rollout.doubles("two")


def changed_lines(said: str) -> list[str]:
    """The lines of a play's output that stand in differences."""
    return [line for line in said.splitlines() if line.startswith(("+", "-"))]


def test_deferred_changes_wait_for_a_later_play(rollout: Rollout) -> None:
    before = rollout.processes()
    rollout.endpoint("two")["vars"]["max_workers"] = 2
    done = rollout.good("site", cep_restart_policy="defer")
    assert f"researcher/two: {WAITS}" in done.text
    assert done.changed == {"node1": 1}
    again = rollout.good("site", cep_restart_policy="defer")
    assert f"researcher/two: {WAITS}" in again.text
    assert again.changed == {"node1": 0}
    assert rollout.processes() == before
    assert restart_is_due(rollout, "two")
    taken = rollout.good("site")
    assert WAITS not in taken.text
    assert taken.changed == {"node1": 1}
    after = rollout.processes()
    assert after["one"] == before["one"]
    assert after["two"] not in (before["two"], "0")
    assert not restart_is_due(rollout, "two")


def test_deferred_changes_are_taken_by_a_maintenance(rollout: Rollout) -> None:
    rollout.endpoint("two")["vars"]["max_workers"] = 3
    rollout.good("site", cep_restart_policy="defer")
    rollout.good("maintenance", cep_maintenance="begin")
    rollout.good("maintenance", cep_maintenance="end")
    done = rollout.good("site", cep_restart_policy="defer")
    assert WAITS not in done.text
    assert done.changed == {"node1": 0}
    assert rollout.doubles("two")


def test_an_immediate_change_gives_running_tasks_no_time(rollout: Rollout) -> None:
    host = rollout.host
    words = host.sdk_words(host.client(), "until-open", rollout.id_of("two"), "1", "/tmp/held")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, **pipes) as sdk:
        begun = ("test", "-e", "/tmp/held-0")
        until(lambda: host.sudo(*begun, check=False).returncode == 0, within_s=120, what="it began")
        rollout.endpoint("two")["vars"]["max_workers"] = 1
        # The task would hold it up for as long as it may: nobody opens its gate.
        done = rollout.play("site", cep_restart_policy="immediate", cep_drain_timeout=500)
        said, _ = sdk.communicate(timeout=300)
    assert done.good, done.text
    assert done.changed == {"node1": 1}
    assert sdk.returncode != 0
    assert "TaskExecutionFailed" in said, said
    assert rollout.doubles("two")


def test_an_endpoint_that_does_not_start_fails_the_play_with_its_log(rollout: Rollout) -> None:
    before = rollout.processes()
    nobody_may = {"max_workers": 1, "state_dir": "/etc/cep-wrong"}
    rollout.add("wrong", "researcher", vars=nobody_may)
    done = rollout.play("site", cep_log_lines=7)
    assert not done.good, done.text
    rollout.endpoint("wrong")["vars"] = {"max_workers": 1}
    assert "researcher/wrong" in done.text
    assert "/etc/cep-wrong" in done.text.partition("failed: ")[2], done.text
    assert rollout.processes()["one"] == before["one"]
    rollout.good("site")
    assert rollout.doubles("wrong")


def test_a_host_that_is_installed_anew_gets_its_old_id(rollout: Rollout) -> None:
    old = rollout.id_of("two")
    kept = {**rollout.endpoint("two")}
    rollout.endpoint("two").update(state="absent", purge=True)
    rollout.good("site")
    home = "/home/researcher/.globus_compute/two"
    assert rollout.host.sudo("test", "-e", home, check=False).returncode == 1
    rollout.endpoint("two").clear()
    rollout.variables["cep_endpoints"][1].update(kept, uuid=old)
    shown = rollout.good("site", "--check")
    assert f"+{old}" in shown.text
    rollout.good("site")
    assert rollout.id_of("two") == old
    assert rollout.host.functions(rollout.host.client(), "many", old, "3")["right"]
    assert rollout.good("site").changed == {"node1": 0}


def test_another_id_than_the_registered_one_is_refused(rollout: Rollout) -> None:
    before, old = rollout.processes(), rollout.endpoint("two")["uuid"]
    rollout.endpoint("two")["uuid"] = "00000000-0000-4000-8000-000000000000"
    done = rollout.play("site")
    rollout.endpoint("two")["uuid"] = old
    assert not done.good
    assert f"Endpoint two has the id {old}" in done.text
    assert done.changed == {"node1": 0}
    assert rollout.processes() == before


def test_deregister_deletes_the_registration(rollout: Rollout) -> None:
    gone = rollout.id_of("wrong")
    client = rollout.host.client()
    assert rollout.host.functions(client, "status", gone)
    rollout.endpoint("wrong").update(state="absent", deregister=True)
    rollout.good("site")
    done = subprocess.run(
        rollout.host.sdk_words(client, "status", gone), check=False, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "404" in done.stderr, done.stderr
    path = "/home/researcher/.globus_compute/wrong"
    assert rollout.host.sudo("test", "-e", f"{path}/config.yaml").returncode == 0
    assert rollout.host.sudo("test", "-e", f"{path}/endpoint.json", check=False).returncode == 1
    assert rollout.good("site").changed == {"node1": 0}
    rollout.variables["cep_endpoints"].remove(rollout.endpoint("wrong"))


def test_uninstalling_deletes_the_registrations_that_it_is_told_to(rollout: Rollout) -> None:
    gone = [rollout.id_of("one"), rollout.id_of("two")]
    client = rollout.host.client()
    rollout.good("uninstall", cep_deregister=True)
    for endpoint_id in gone:
        words = rollout.host.sdk_words(client, "status", endpoint_id)
        done = subprocess.run(words, check=False, capture_output=True, text=True)
        assert done.returncode != 0
        assert "404" in done.stderr, done.stderr
