"""What `cep apply` decides to do, from what is wanted and what is there."""

from __future__ import annotations

from typing import Any

import pytest

from cep.apply.document import Client, Wanted
from cep.apply.plan import Plan, Seen, plan
from cep.apply.unit_work import UnitWish

DIRECTORY = "/home/a/.globus_compute/lab"
PATH = "/etc/systemd/system/globus-compute-endpoint-lab.service"
UNIT = "globus-compute-endpoint-lab.service"
CLIENT = Client("an-id", "hunter2-hunter2")
SYSTEM = UnitWish(user=False)


def home(**more: Any) -> dict[str, Any]:
    """An endpoint that is configured as wanted, registered and stopped, of an account logged in."""
    return {
        "account": "a",
        "directory": DIRECTORY,
        "exists": True,
        "before": "old",
        "after": None,
        "endpoint_id": "4cf29807-cf21-49ec-9443-ff9a3fb9f81c",
        "state": "Stopped",
        "here": True,
        "host": None,
        "pid": None,
        "due": None,
        "reloads": True,
        "service": None,
        "other_client": False,
        "login": True,
        "shell": False,
        "hub": False,
        **more,
    }


RUNS = {"state": "Running", "pid": 7, "host": "node1"}
NEW = {"exists": False, "before": None, "after": "new", "endpoint_id": None, "state": "Absent"}


def found(**more: Any) -> dict[str, Any]:
    """The unit as it was found: enabled, and its process is the agent's."""
    return {
        "name": UNIT,
        "path": PATH,
        "text": "[Unit]\n",
        "user": False,
        "enabled": True,
        "state": "active",
        "pid": 7,
        "credentials": False,
        **more,
    }


def unit(**more: Any) -> dict[str, Any]:
    """The wanted unit, which is there already."""
    return {
        "name": UNIT,
        "path": PATH,
        "before": "[Unit]\n",
        "after": None,
        "store": False,
        "credentials": False,
        "linger": False,
        **more,
    }


def decide(seen: Seen, **keys: Any) -> Plan:
    return plan(Wanted(where="endpoints[0]", name="lab", **keys), seen)


def verbs(made: Plan) -> list[str]:
    """Every step: its verb, and what systemd is asked to do."""
    return [
        f"{step.verb} {step.extra['verb']}" if step.verb == "unit_do" else step.verb
        for step in made.steps
    ]


def test_a_new_endpoint_is_made_and_started() -> None:
    made = decide(Seen(home(**NEW)), uuid="x" * 4)
    assert made.actions == ["create", "set_id", "start"]
    assert verbs(made) == ["configure", "start"]
    assert [one["after"] for one in made.diff] == ["new", "xxxx\n"]


def test_what_is_as_wanted_is_left_alone() -> None:
    assert decide(Seen(home(**RUNS))).actions == []
    assert decide(Seen(home()), state="present").actions == []
    assert decide(Seen(home()), state="stopped").actions == []
    by_unit = Seen(home(**RUNS), units=(found(),), unit=unit(), root=True)
    assert decide(by_unit, unit=SYSTEM).steps == []


def test_a_changed_configuration_restarts_what_runs() -> None:
    made = decide(Seen(home(**RUNS, after="new")), drain_s=30)
    assert made.actions == ["configure", "restart"]
    assert verbs(made) == ["mark", "configure", "stop", "start"]
    assert made.steps[2].extra == {"drain_s": 30}
    assert made.restarted


def test_a_restart_under_systemd_lets_the_agent_drain_and_has_systemd_start_it() -> None:
    seen = Seen(home(**RUNS, after="new"), units=(found(),), unit=unit(), root=True)
    made = decide(seen, unit=SYSTEM)
    assert made.actions == ["configure", "restart"]
    assert verbs(made) == ["mark", "configure", "stop", "unit_do stop", "unit_do start"]


def test_other_policies_reload_or_only_say_so() -> None:
    seen = Seen(home(**RUNS, after="new"))
    reloaded = decide(seen, on_change="reload")
    assert (reloaded.actions, reloaded.reloaded) == (["configure", "reload"], True)
    assert not reloaded.restart_needed
    partly = decide(Seen(home(**RUNS, after="new", reloads=False)), on_change="reload")
    assert (partly.actions, partly.restart_needed) == (["configure", "reload"], True)
    told = decide(Seen(home(**RUNS, due="told")), on_change="reload")
    assert (told.actions, told.restart_needed) == ([], True)
    said = decide(seen, on_change="none")
    assert (said.actions, said.restart_needed) == (["configure"], True)
    later = decide(Seen(home(**RUNS, due="untold")), on_change="none")
    assert (later.actions, later.restart_needed) == ([], True)
    assert decide(Seen(home(**RUNS, due="untold"))).actions == ["restart"]


def test_a_unit_or_a_secret_is_known_to_a_new_process_only() -> None:
    for change in ({"after": "[Unit]\n#\n"}, {"store": True}):
        seen = Seen(home(**RUNS), units=(found(),), unit=unit(**change), root=True)
        made = decide(seen, unit=SYSTEM, on_change="reload", client=CLIENT)
        assert made.actions[-1] == "restart"
        assert CLIENT.secret not in str(made)
    by_hand = Seen(home(**RUNS, other_client=True))
    assert decide(by_hand, client=CLIENT, on_change="reload").actions == ["restart"]


def test_what_was_started_by_hand_moves_under_its_unit() -> None:
    seen = Seen(home(**RUNS), unit=unit(after="[Unit]\n", before=""), root=True)
    made = decide(seen, unit=SYSTEM)
    assert made.actions == ["stop", "install_unit", "enable", "start"]
    assert verbs(made) == ["stop", "unit_put", "unit_do enable", "unit_do start"]
    kept = decide(seen, unit=SYSTEM, state="present")
    assert kept.actions == made.actions


def test_what_runs_is_not_stopped_where_it_could_not_log_in_again() -> None:
    seen = Seen(home(**RUNS, login=False, shell=True), unit=unit(after="x"), root=True)
    made = decide(seen, unit=SYSTEM)
    assert made.error is not None
    assert made.error.exit_code == 77


def test_a_unit_that_is_not_wanted_goes_and_the_endpoint_runs_on_without_it() -> None:
    made = decide(Seen(home(**RUNS), units=(found(),), root=True), unit=False)
    assert made.actions == ["stop", "remove_unit", "start"]
    assert verbs(made) == ["stop", "unit_do stop", "unit_remove", "start"]


def test_a_unit_of_another_name_or_scope_is_replaced() -> None:
    other = found(name="old.service", path="/etc/systemd/system/old.service")
    seen = Seen(home(**RUNS), units=(other,), unit=unit(after="x", before=""), root=True)
    made = decide(seen, unit=SYSTEM)
    assert made.actions == ["stop", "remove_unit", "install_unit", "enable", "start"]


def test_without_a_unit_key_an_enabled_unit_still_owns_the_endpoint() -> None:
    seen = Seen(home(), units=(found(state="inactive", pid=None),), root=True)
    made = decide(seen)
    assert verbs(made) == ["unit_do start"]
    refused = decide(Seen(home(), units=(found(state="inactive", pid=None),)))
    assert refused.error is not None
    assert refused.error.exit_code == 77


def test_credentials_that_no_unit_is_given_for_are_not_passed_over_in_silence() -> None:
    seen = Seen(home(**RUNS, other_client=True), units=(found(),), root=True)
    made = decide(seen, client=CLIENT)
    assert made.steps == []
    assert made.notes[0].startswith(f"The credentials are not used: it is run by {UNIT}")
    assert decide(Seen(home(**RUNS)), client=CLIENT).notes == []


def test_an_account_may_stop_what_root_s_unit_runs() -> None:
    made = decide(Seen(home(**RUNS), units=(found(),)), state="drained")
    assert (made.error, verbs(made)) == (None, ["stop"])


def test_disabling_keeps_the_unit() -> None:
    seen = Seen(home(**RUNS), units=(found(),), unit=unit(), root=True)
    assert decide(seen, unit=SYSTEM, unit_enabled=False).actions == ["disable"]


def test_without_a_login_everything_is_made_and_waits() -> None:
    seen = Seen(home(**{**NEW, "login": False}), unit=unit(after="x", before=""), root=True)
    made = decide(seen, unit=SYSTEM)
    assert made.actions == ["create", "install_unit", "enable"]
    assert made.error is None
    assert made.waiting is not None
    assert made.waiting.startswith("waiting for login: run `cep login` as a")
    with_client = decide(seen, unit=SYSTEM, client=CLIENT)
    assert with_client.actions[-1] == "start"
    by_hub = decide(Seen(home(**{**NEW, "login": False, "hub": True})))
    assert by_hub.error is not None
    assert by_hub.error.exit_code == 77


def test_a_client_of_the_shell_counts_without_a_unit_only() -> None:
    by_shell = home(login=False, shell=True)
    assert decide(Seen(by_shell)).actions == ["start"]
    seen = Seen(by_shell, unit=unit(after="x", before=""), root=True)
    assert decide(seen, unit=SYSTEM).waiting is not None


def test_absent_ends_and_removes_in_order() -> None:
    seen = Seen(home(**RUNS), units=(found(),), root=True)
    made = decide(seen, state="absent", deregister=True, purge=True)
    assert made.actions == ["stop", "deregister", "remove_unit", "purge"]
    assert verbs(made) == ["stop", "unit_do stop", "deregister", "unit_remove", "purge"]
    assert made.steps[2].extra["client_of"]["path"] == PATH
    gone = home(exists=False, before=None, endpoint_id=None, state="Absent")
    assert decide(Seen(gone), state="absent", deregister=True, purge=True).steps == []


def test_jobs_of_a_dead_agent_are_cleared_up_without_calling_it_a_change() -> None:
    made = decide(Seen(home(state="Disconnected")), state="absent")
    assert (made.actions, verbs(made)) == ([], ["stop"])


@pytest.mark.parametrize("keys", [{"state": "stopped"}, {"state": "absent"}, {"unit": SYSTEM}])
def test_what_runs_on_another_host_is_left_to_it(keys: dict[str, Any]) -> None:
    seen = Seen(home(**RUNS, here=False), unit=unit(after="x", before=""), root=True)
    made = decide(seen, **keys)
    assert made.error is not None
    assert made.error.exit_code == 73
    assert "node1" in str(made.error)
    assert made.steps == []


def test_another_id_than_the_registered_one_is_refused() -> None:
    made = decide(Seen(home()), uuid="4cf29807-cf21-49ec-9443-ff9a3fb9f81d")
    assert made.error is not None
    assert made.error.exit_code == 73
    same = decide(Seen(home(**RUNS)), uuid="4CF29807CF2149EC9443FF9A3FB9F81C")
    assert (same.error, same.steps) == (None, [])
