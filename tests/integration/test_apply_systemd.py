"""`cep apply` by root on a host run by systemd: units of the host and of an account.

Root runs without the capability to override the modes of files, as it is on homes that refuse root
(NFS with root_squash): whatever it would open in the account's private directory fails here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.systemd_host import ACCOUNT, CEP, HOME, SystemdHost

# The first test may have to wait for the image, and for cep's libraries in it.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(400)]

DOCUMENT = "/root/endpoints.json"
WITHOUT_OVERRIDE = "-dac_override,-dac_read_search"
UNIT = "globus-compute-endpoint-{}.service"


@pytest.fixture(scope="module")
def host(docker_engine: None) -> Iterator[SystemdHost]:
    del docker_engine
    with SystemdHost() as made:
        yield made


class Root:
    """Root of that host, with a document of two endpoints of the account."""

    def __init__(self, host: SystemdHost) -> None:
        self.host = host
        self.secret = host.environment["GLOBUS_COMPUTE_CLIENT_SECRET"]
        self.defaults: dict[str, Any] = {
            "run_as": ACCOUNT,
            "profile": "processes",
            "vars": {"max_workers": 1},
            "service": "http://localhost:5000",
            "unit": {"scope": "system", "tasks_max": 512},
            "credentials": {
                "client_id": host.environment["GLOBUS_COMPUTE_CLIENT_ID"],
                "client_secret": self.secret,
            },
        }
        self.endpoints: list[dict[str, Any]] = [{"name": "one"}, {"name": "two"}]

    def apply(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Apply the document; returns the answer."""
        text = json.dumps({"defaults": self.defaults, "endpoints": self.endpoints})
        self.host.write_root(DOCUMENT, text)
        self.host.sudo("chmod", "600", DOCUMENT)
        limits = ("--bounding-set", WITHOUT_OVERRIDE, "--inh-caps", WITHOUT_OVERRIDE)
        words = ("setpriv", *limits, CEP, "apply", "-f", DOCUMENT, "--json", *words)
        done = self.host.sudo(*words, check=False)
        assert done.returncode == code, f"{done.stdout}\n{done.stderr}\n{self.host.journal(20)}"
        assert self.secret not in done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def rotate(self) -> None:
        """Give the client another secret at the hub, and here."""
        client = self.defaults["credentials"]
        said = self.host.cep("hub", "client", "rotate", client["client_id"], "--json").stdout
        self.secret = client["client_secret"] = str(json.loads(said)["client_secret"])
        self.host.environment["GLOBUS_COMPUTE_CLIENT_SECRET"] = self.secret

    def actions(self, *words: str) -> dict[str, list[str]]:
        """Apply the document; returns the actions by endpoint."""
        return {one["name"]: one["actions"] for one in self.apply(*words)["endpoints"]}


@pytest.fixture(scope="module")
def root(host: SystemdHost) -> Root:
    return Root(host)


def process(host: SystemdHost, name: str) -> str:
    return host.show(UNIT.format(name), "MainPID")


def test_a_life_of_two_endpoints_as_units_of_the_host(host: SystemdHost, root: Root) -> None:
    before = host.files()
    planned = root.apply("--dry-run")
    done = root.apply()
    first = ["create", "install_unit", "store_credentials", "enable", "start"]
    for plan, made in zip(planned["endpoints"], done["endpoints"], strict=True):
        assert made["actions"] == first
        assert {key: plan[key] for key in ("changed", "actions", "diff")} == {
            key: made[key] for key in ("changed", "actions", "diff")
        }
        assert made["state"] == "Running"
        assert made["unit"] == {
            "name": UNIT.format(made["name"]),
            "scope": "system",
            "enabled": True,
            "state": "active",
        }
    assert host.sdk("many", done["endpoints"][0]["endpoint_id"], "3")["right"]

    again = root.apply()
    assert not again["changed"]
    assert [one["actions"] for one in again["endpoints"]] == [[], []]

    old = {name: process(host, name) for name in ("one", "two")}
    root.endpoints[0]["unit"] = {"scope": "system", "tasks_max": 600}
    assert root.actions() == {"one": ["install_unit", "restart"], "two": []}
    assert process(host, "one") != old["one"]
    assert process(host, "two") == old["two"]

    root.rotate()
    both = ["store_credentials", "restart"]
    assert root.actions("--dry-run") == {"one": both, "two": both}
    assert root.actions() == {"one": both, "two": both}
    assert root.actions() == {"one": [], "two": []}

    root.endpoints[0]["state"] = "drained"
    assert root.actions() == {"one": ["stop"], "two": []}
    assert root.actions() == {"one": [], "two": []}

    del root.defaults["credentials"]  # those that were stored with the units are used
    for one in root.endpoints:
        one |= {"state": "absent", "deregister": True, "purge": True}
    gone = root.apply()
    assert [one["actions"] for one in gone["endpoints"]] == [
        ["deregister", "remove_unit", "purge"],
        ["stop", "deregister", "remove_unit", "purge"],
    ]
    assert not root.apply()["changed"]
    assert host.files() == before
    assert not (host.home / ".globus_compute" / "one").exists()


def test_without_a_login_the_unit_is_there_and_waits(root: Root) -> None:
    entry = {"name": "hosted", "run_as": ACCOUNT, "profile": "threads", "unit": {"scope": "system"}}
    root.defaults, root.endpoints = {}, [entry]
    waiting = root.apply()["endpoints"][0]
    assert waiting["actions"] == ["create", "install_unit", "enable"]
    assert waiting["waiting"].startswith(f"waiting for login: run `cep login` as {ACCOUNT}")
    assert waiting["unit"]["enabled"]
    again = root.apply()
    assert not again["changed"]
    assert again["endpoints"][0]["waiting"] == waiting["waiting"]
    entry |= {"state": "absent", "purge": True}
    assert root.actions() == {"hosted": ["remove_unit", "purge"]}


def test_a_unit_of_the_account_s_own_is_made_by_root_as_that_account(host: SystemdHost) -> None:
    root = Root(host)
    before = host.files()
    root.defaults["unit"] = {"scope": "user"}
    root.endpoints = [{"name": "own"}]
    words = ["create", "linger", "install_unit", "store_credentials", "enable", "start"]
    assert root.actions() == {"own": words}
    assert root.actions() == {"own": []}
    unit = root.apply("--dry-run")["endpoints"][0]["unit"]
    assert (unit["scope"], unit["state"]) == ("user", "active")
    owner = host.sudo("stat", "-c", "%U", f"{HOME}/.config/systemd/user/{unit['name']}").stdout
    assert owner.strip() == ACCOUNT
    root.endpoints[0]["unit"] = False  # from now on without systemd, as that account all the same
    assert root.actions() == {"own": ["stop", "remove_unit", "start"]}
    assert root.actions() == {"own": []}
    root.endpoints[0] |= {"state": "absent", "purge": True}
    assert root.actions() == {"own": ["stop", "purge"]}
    assert host.files() == before
