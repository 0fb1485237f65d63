"""`cep apply` with a real hub: what a document says becomes true, once, and no secret is seen."""

from __future__ import annotations

import getpass
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cep.apply import schema
from cep.cli.main import run
from tests.integration.hub_rig import HubProcess, Rest
from tests.integration.test_cli_with_hub import UNSET


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub")) as found:
        yield found


class Admin:
    """Applies a document of three endpoints, each with a client of its own, by standard input."""

    def __init__(self, hub: HubProcess, base: Path) -> None:
        self.hub, self.base = hub, base
        self.clients = {name: hub.client(f"{base.parent.name}-{name}") for name in "abc"}
        self.defaults: dict[str, Any] = {
            "run_as": getpass.getuser(),
            "profile": "threads",
            "service": hub.running["url"],
            "vars": {"max_workers": 1},
        }
        self.endpoints: dict[str, dict[str, Any]] = {
            name: {"name": name, "credentials": self.credentials(client)}
            for name, client in self.clients.items()
        }

    @staticmethod
    def credentials(client: Rest) -> dict[str, str]:
        return {"client_id": client.client_id, "client_secret": client.secret}

    def apply(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Apply the document in this process; returns the answer."""
        with pytest.MonkeyPatch.context() as patch:
            for name in UNSET:
                patch.delenv(name, raising=False)
            patch.setenv("GLOBUS_COMPUTE_USER_DIR", str(self.base))
            patch.setattr("sys.stdin", io.StringIO(self.document()))
            with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
                ended = run(["apply", "-f", "-", "--json", *words])
        assert ended == code, out.getvalue() + err.getvalue()
        answer: dict[str, Any] = json.loads(out.getvalue())
        assert schema.check(answer, schema.OUTPUT) == []
        return answer

    def document(self) -> str:
        """The document, as a program writes it."""
        return json.dumps({"defaults": self.defaults, "endpoints": list(self.endpoints.values())})

    def apply_as_a_program(self, *words: str, code: int = 0) -> str:
        """Apply the document with the program itself; returns all that it says."""
        environment = {k: v for k, v in os.environ.items() if k not in UNSET}
        done = subprocess.run(
            [sys.executable, "-m", "cep", "apply", "-f", "-", *words],
            env={**environment, "GLOBUS_COMPUTE_USER_DIR": str(self.base)},
            input=self.document(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def actions(self, *words: str) -> dict[str, list[str]]:
        """Apply the document; returns what was done, by endpoint."""
        return {one["name"]: one["actions"] for one in self.apply(*words)["endpoints"]}

    def pids(self) -> dict[str, int | None]:
        """The agents' processes."""
        answer = self.apply("--info")
        return {one["name"]: (one["agent"] or {}).get("pid") for one in answer["endpoints"]}

    def state_all(self, state: str, **more: Any) -> None:
        """Want this of every endpoint."""
        for entry in self.endpoints.values():
            entry |= {"state": state, **more}

    def files(self) -> dict[str, bytes]:
        """Every file below the user directory."""
        found = {}
        for path in self.base.rglob("*"):
            with suppress(FileNotFoundError):  # agents write anew what then takes another's place
                if path.is_file():
                    found[str(path.relative_to(self.base))] = path.read_bytes()
        return found

    def config(self, name: str) -> Path:
        return self.base / name / "config.yaml"


@pytest.fixture
def admin(hub: HubProcess, tmp_path: Path) -> Iterator[Admin]:
    found = Admin(hub, tmp_path / "the base")
    yield found
    found.state_all("absent", purge=True, deregister=False)
    found.apply()


def run_tasks(admin: Admin, name: str, endpoint_id: str) -> None:
    """Have an endpoint answer two tasks (with an error; their function is not one)."""
    client = admin.clients[name]
    client.login()
    group = client.submit(endpoint_id, client.function(), 2)["task_group_id"]
    assert len(client.results(group, 2)) == 2


def test_a_document_is_brought_about_once_and_then_nothing_changes(admin: Admin) -> None:
    planned, done = admin.apply("--dry-run"), admin.apply()
    assert done["changed"]
    assert planned == {
        **done,
        "dry_run": True,
        "endpoints": [
            {**one, "endpoint_id": None, "state": "Absent", "agent": None, "notes": []}
            for one in done["endpoints"]
        ],
    }
    assert [one["actions"] for one in done["endpoints"]] == [["create", "start"]] * 3
    assert {one["state"] for one in done["endpoints"]} == {"Running"}
    ids = {one["name"]: one["endpoint_id"] for one in done["endpoints"]}
    run_tasks(admin, "a", ids["a"])
    log = admin.base / "a" / "endpoint.log"
    log.rename(log.with_name("endpoint.log.1"))
    pids = admin.pids()
    again = admin.apply()
    assert (again["changed"], again["ok"]) == (False, True)
    assert [one["diff"] for one in again["endpoints"]] == [[], [], []]
    assert admin.pids() == pids


def test_a_change_restarts_exactly_its_endpoint(admin: Admin) -> None:
    admin.apply()
    pids = admin.pids()
    admin.endpoints["b"]["vars"] = {"max_workers": 2}
    planned = admin.apply("--dry-run")
    done = admin.apply()
    assert [one["actions"] for one in planned["endpoints"]] == [[], ["configure", "restart"], []]
    assert [one["actions"] for one in done["endpoints"]] == [[], ["configure", "restart"], []]
    changed = done["endpoints"][1]
    assert changed["restarted"]
    assert changed["diff"] == planned["endpoints"][1]["diff"]
    assert "max_workers: 2" in changed["diff"][0]["after"]
    now = admin.pids()
    assert now["b"] not in (None, pids["b"])
    assert (now["a"], now["c"]) == (pids["a"], pids["c"])

    rotated = json.loads(
        admin.hub.cep("client", "rotate", admin.clients["c"].client_id, "--json").stdout
    )
    admin.endpoints["c"]["credentials"]["client_secret"] = rotated["client_secret"]
    assert admin.actions() == {"a": [], "b": [], "c": ["restart"]}
    assert admin.actions() == {"a": [], "b": [], "c": []}

    admin.endpoints["a"] |= {"vars": {"max_workers": 3}, "on_change": "none"}
    told = admin.apply()["endpoints"][0]
    assert (told["actions"], told["restart_needed"]) == (["configure"], True)
    told = admin.apply()["endpoints"][0]  # it still runs with the old values
    assert (told["actions"], told["restart_needed"]) == ([], True)
    admin.endpoints["a"]["on_change"] = "restart"
    assert admin.actions() == {"a": ["restart"], "b": [], "c": []}
    assert admin.actions() == {"a": [], "b": [], "c": []}


def test_a_reload_takes_over_what_it_can_and_says_what_it_cannot(admin: Admin) -> None:
    admin.endpoints = {"a": {**admin.endpoints["a"], "on_change": "reload"}}
    admin.apply()
    pid = admin.pids()["a"]
    admin.endpoints["a"]["display_name"] = "Another name"
    told = admin.apply()["endpoints"][0]
    assert (told["actions"], told["reloaded"]) == (["configure", "reload"], True)
    assert not told["restart_needed"]
    admin.endpoints["a"]["vars"] = {"max_workers": 2}
    planned = admin.apply("--dry-run")["endpoints"][0]
    told = admin.apply()["endpoints"][0]
    assert told["actions"] == planned["actions"] == ["configure", "reload"]
    assert told["restart_needed"] and planned["restart_needed"]
    assert told["notes"] == ["Needs a restart: engine.max_workers."]
    again = admin.apply()["endpoints"][0]
    assert (again["actions"], again["restart_needed"]) == ([], True)
    assert admin.pids()["a"] == pid
    admin.endpoints["a"]["on_change"] = "restart"
    assert admin.actions() == {"a": ["restart"]}
    assert admin.actions() == {"a": []}


def test_no_secret_is_seen_anywhere_also_when_an_endpoint_fails(admin: Admin) -> None:
    admin.endpoints["a"] |= {
        "state": "present",
        "profile": "local",
        "vars": {"worker_init": "export API_TOKEN=hunter2-hunter2"},
    }
    wrong = {"client_id": admin.clients["b"].client_id, "client_secret": "not-the-secret"}
    admin.endpoints["b"]["credentials"] = wrong
    said = admin.apply_as_a_program("--dry-run", "--diff", "--debug")
    said += admin.apply_as_a_program("--json", "--debug", code=77)
    answer = admin.apply(code=77)
    one, two, three = answer["endpoints"]
    assert (answer["ok"], answer["error"]) == (False, None)
    assert (one["state"], two["state"]) == ("Initialized", "Initialized")
    assert three["state"] == "Running"
    assert two["error"]["code"] == 77
    secrets = [*(client.secret for client in admin.clients.values()), "not-the-secret"]
    process = psutil.Process(three["agent"]["pid"])
    shown = " ".join(process.cmdline()) + str(process.environ())
    assert not [secret for secret in secrets if secret in shown]
    for file, content in admin.files().items():
        assert not [secret for secret in secrets if secret.encode() in content], file
    told = said + json.dumps(answer)
    assert not [secret for secret in (*secrets, "hunter2-hunter2") if secret in told]

    admin.endpoints["b"]["credentials"] = admin.credentials(admin.clients["b"])
    assert admin.actions() == {"a": [], "b": ["start"], "c": []}


def test_what_the_document_says_wins_and_what_was_added_by_hand_stays(admin: Admin) -> None:
    admin.state_all("present")
    admin.apply()
    config = admin.config("a")
    text = config.read_text().replace("max_workers: 1", "max_workers: 9  # mine")
    config.write_text(text + "heartbeat_period: 7\n")
    told = admin.apply()["endpoints"][0]
    assert told["actions"] == ["configure"]
    assert "max_workers: 1\n" in config.read_text()
    assert "heartbeat_period: 7\n" in config.read_text()
    assert any("engine.max_workers" in note for note in told["notes"])
    assert not admin.apply()["changed"]
    admin.endpoints["a"]["vars"] = {"max_workers": 4}
    admin.apply()
    assert "max_workers: 4\n" in config.read_text()
    assert "heartbeat_period: 7\n" in config.read_text()


def test_absent_keeps_the_directory_and_purge_and_deregister_do_not(admin: Admin) -> None:
    first = admin.apply()["endpoints"]
    admin.state_all("absent")
    admin.endpoints["b"]["purge"] = True
    admin.endpoints["c"] |= {"purge": True, "deregister": True}
    expected = {"a": ["stop"], "b": ["stop", "purge"], "c": ["stop", "deregister", "purge"]}
    assert admin.actions("--dry-run") == expected
    assert admin.actions() == expected
    assert not admin.apply()["changed"]
    assert admin.config("a").exists()
    assert not (admin.base / "b").exists()
    client = admin.clients["c"]
    assert client.send("GET", f"/v2/endpoints/{first[2]['endpoint_id']}/status")[0] == 404

    old_id = first[1]["endpoint_id"]
    admin.endpoints["b"] |= {"state": "started", "uuid": old_id}
    again = admin.apply()["endpoints"][1]
    assert again["actions"] == ["create", "set_id", "start"]
    assert again["endpoint_id"] == old_id
    admin.endpoints["b"]["uuid"] = first[0]["endpoint_id"]
    assert admin.apply(code=73)["endpoints"][1]["error"]["code"] == 73


def test_a_maintenance_stops_by_name_alone_and_brings_back(admin: Admin) -> None:
    admin.endpoints["b"]["state"] = admin.endpoints["c"]["state"] = "present"
    admin.apply()
    before = admin.files()["a/config.yaml"]
    admin.endpoints = {name: {"name": name, "state": "drained"} for name in "ab"}
    admin.defaults = {"run_as": getpass.getuser()}
    assert admin.actions() == {"a": ["stop"], "b": []}
    assert admin.actions() == {"a": [], "b": []}
    assert admin.pids() == {"a": None, "b": None}
    admin.endpoints["a"] |= {
        "state": "started",
        "credentials": admin.credentials(admin.clients["a"]),
    }
    assert admin.actions() == {"a": ["start"], "b": []}
    assert admin.files()["a/config.yaml"] == before
    admin.endpoints["c"] = {"name": "c"}
