"""Three hosts and a hub in one inventory, as docs/ansible.md has them. LONG=1 only.

The hosts share a tree, on which the software is; each has its endpoint, with a state of its own.
The hub has a certificate and a host of its own, and they reach it over the network.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.integration import docker_engine as engines
from tests.integration import venvs, wheelhouses
from tests.integration.ansible_host import SHARED, AnsibleHost, Controller, Play
from tests.integration.ansible_rollout import UNIT
from tests.integration.scene import SDK_CLIENT
from tests.integration.wheelhouses import LATER, VERSION

pytestmark = [pytest.mark.docker, pytest.mark.timeout(5400)]

LOGINS = ("login1", "login2", "login3")
HUB = "hub1"
PLACE = f"{SHARED}/cep"
CERTIFICATES = f"{SHARED}/certificates"
DIRECTORY = "/home/cep-debug/.globus_compute/debug"
# What docs/hub.md tells users of an https:// hub to write above their program.
OVER_TLS = f"""
import runpy
import globus_compute_sdk.sdk.client as sdk_client
sdk_client.get_web_service_url = lambda environment=None: "https://{HUB}:5000"
runpy.run_path("/tmp/client.py", run_name="__main__")
"""


class Site:
    """The hosts, the controller, and what the inventory says now."""

    def __init__(
        self, hosts: dict[str, AnsibleHost], controller: Controller, files: dict[str, Path]
    ) -> None:
        self.hosts = hosts
        self.controller = controller
        self.files = files
        self.client: dict[str, str] = {}
        self.own: dict[str, dict[str, Any]] = {name: {} for name in hosts}
        self.all: dict[str, Any] = {
            "ansible_connection": "container",
            "ansible_python_interpreter": "/usr/bin/python3",
            "cep_version": VERSION,
            "cep_wheelhouse": str(files[VERSION]),
        }
        self.endpoints: dict[str, Any] = {
            "cep_worker_root": PLACE,
            "cep_service_url": f"https://{HUB}:5000",
            "cep_ca_file": f"{CERTIFICATES}/ca.pem",
            "cep_endpoints": [],
        }
        self.hub: dict[str, Any] = {
            "cep_hub_host": "0.0.0.0",
            "cep_hub_public_url": f"https://{HUB}:5000",
            "cep_hub_embedded_broker_exposed": True,
            "cep_hub_tls_cert": f"{CERTIFICATES}/hub.pem",
            "cep_hub_tls_key": f"{CERTIFICATES}/hub.key",
            "cep_hub_tls_ca": f"{CERTIFICATES}/ca.pem",
            "cep_hub_clients": ["tests"],
        }

    def play(self, playbook: str, *words: str, **extra: Any) -> Play:
        """Run a playbook on the inventory."""
        groups: dict[str, Any] = {
            "cep_hubs": {"hosts": {HUB: {}}, "vars": self.hub},
            "cep_endpoints": {"hosts": {}, "vars": self.endpoints},
        }
        for name, host in self.hosts.items():
            group = "cep_hubs" if name == HUB else "cep_endpoints"
            groups[group]["hosts"][name] = {"ansible_host": host.name, **self.own[name]}
        inventory = {"all": {"children": groups, "vars": self.all}}
        return self.controller.play(playbook, inventory, "--diff", *words, extra=extra)

    def good(self, playbook: str, *words: str, **extra: Any) -> Play:
        """The same; it must succeed."""
        done = self.play(playbook, *words, **extra)
        assert done.good, done.text
        return done

    def releases(self) -> set[str]:
        """The releases on the shared tree."""
        said = self.hosts["login1"].sudo("ls", f"{PLACE}/releases", check=False).stdout
        return set(said.split())

    def runs(self, name: str) -> str:
        """The program that the endpoint's unit of a host runs; it must run."""
        host = self.hosts[name]
        assert host.process("debug") != "0"
        return host.show(UNIT.format("debug"), "ExecStart")

    def doubles(self, name: str) -> bool:
        """Whether functions run on a host's endpoint, called from that host."""
        host = self.hosts[name]
        endpoint_id = json.loads(host.read(f"{DIRECTORY}/endpoint.json"))["endpoint_id"]
        host.write_root("/tmp/client.py", SDK_CLIENT.read_text())
        host.write_root("/tmp/over_tls.py", OVER_TLS)
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"https://{HUB}:5000/",
            "GLOBUS_SDK_VERIFY_SSL": f"{CERTIFICATES}/ca.pem",
            "SSL_CERT_FILE": f"{CERTIFICATES}/ca.pem",
            **self.client,
        }
        given = [f"{name}={value}" for name, value in variables.items()]
        (release, *_) = sorted(self.releases())
        python = f"{PLACE}/releases/{release}/bin/python3"
        argv = [python, "/tmp/over_tls.py", "many", endpoint_id, "3"]
        said = host.sudo("env", "-i", "-C", "/tmp", *given, *argv, timeout_s=200)
        return bool(json.loads(said.stdout.splitlines()[-1])["right"])


@pytest.fixture(scope="module")
def site(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    del docker_engine
    root = tmp_path_factory.mktemp("hosts")
    controller = Controller(venvs.ansible_python(), root)
    controller.install_collection()
    files = wheelhouses.make("systemd", root / "wheelhouses")
    shared = root / "shared"
    authority = Authority(root / "authority")
    certificate, key = authority.issue("hub", HUB, "localhost")
    (shared / "certificates").mkdir(parents=True)
    for source, name in ((authority.file, "ca.pem"), (certificate, "hub.pem"), (key, "hub.key")):
        shutil.copy(source, shared / "certificates" / name)
    (shared / "certificates" / "hub.key").chmod(0o600)
    engine = engines.client()
    with ExitStack() as stack:
        stack.callback(engine.close)
        network = engine.networks.create(
            f"cep-hosts-{secrets.token_hex(4)}", labels=engines.session_labels()
        )
        stack.callback(network.remove)
        hosts = {
            name: stack.enter_context(
                AnsibleHost(
                    "systemd",
                    root / "wheelhouses",
                    hostname=name,
                    network=network.name,
                    shared=shared,
                )
            )
            for name in (HUB, *LOGINS)
        }
        yield Site(hosts, controller, files)


def test_one_play_brings_three_hosts_that_share_the_software(site: Site) -> None:
    site.good("site", "--limit", "cep_hubs")
    site.client = site.hosts[HUB].client()
    site.endpoints["cep_endpoints"] = [
        {
            "name": "debug",
            "user": "cep-debug",
            "profile": "processes",
            "vars": {"max_workers": 1, "state_dir": "/var/lib/cep-debug"},
            "local_dirs": ["/var/lib/cep-debug"],
            "client_id": site.client["GLOBUS_COMPUTE_CLIENT_ID"],
            "client_secret": site.client["GLOBUS_COMPUTE_CLIENT_SECRET"],
        }
    ]
    site.good("site", "--check")
    assert site.releases() == set()
    site.good("site")
    assert site.releases() == {VERSION}
    for name in LOGINS:
        assert f"{PLACE}/releases/{VERSION}/bin/cep" in site.runs(name)
        assert site.doubles(name)
    again = site.good("site")
    assert again.changed == dict.fromkeys((HUB, *LOGINS), 0)


def test_an_id_that_came_back_may_stand_in_the_inventory(site: Site) -> None:
    done = site.controller.run(
        "ansible", "-i", str(site.controller.root / "inventory.json"), "login1",
        "-m", "cep.cep.cep_endpoint_info", "-a", "user=cep-debug names=debug", "--become",
    )  # fmt: skip
    text = site.hosts["login1"].read(f"{DIRECTORY}/endpoint.json")
    assert json.loads(text)["endpoint_id"] in done.stdout


def test_a_host_whose_values_are_wrong_takes_no_release_from_the_others(site: Site) -> None:
    site.own["login1"] = {"cep_endpoint_defaults": {"vars": {"amqp_port": "often"}}}
    site.all |= {"cep_version": LATER, "cep_wheelhouse": str(site.files[LATER])}
    done = site.play("site", "--limit", "login1,login2")
    site.own["login1"] = {}
    assert done.failed == {"login1": 1, "login2": 0}, done.text
    assert f"/releases/{VERSION}/" in site.runs("login1")
    assert f"/releases/{LATER}/" in site.runs("login2")
    assert site.doubles("login2")
    assert site.releases() == {VERSION, LATER}


def test_an_upgrade_goes_host_by_host_and_stops_at_the_first_that_fails(site: Site) -> None:
    site.own["login2"] = {"cep_endpoint_defaults": {"vars": {"amqp_port": "often"}}}
    done = site.play("upgrade")
    site.own["login2"] = {}
    assert done.failed == {"login1": 0, "login2": 1}, done.text  # the third was not begun
    assert f"/releases/{LATER}/" in site.runs("login1")
    assert f"/releases/{VERSION}/" in site.runs("login3")
    site.good("upgrade")
    for name in LOGINS:
        assert f"/releases/{LATER}/" in site.runs(name)
    assert site.good("upgrade").changed == dict.fromkeys(LOGINS, 0)


def test_an_old_release_goes_when_the_last_host_has_left_it(site: Site) -> None:
    site.good("upgrade", cep_keep_releases=1)
    assert site.releases() == {LATER}


def test_a_host_that_leaves_takes_nothing_from_the_others(site: Site) -> None:
    site.good("uninstall", "--limit", "login3", cep_purge=True)
    assert site.releases() == {LATER}
    assert site.doubles("login1")
    site.good("uninstall", "--limit", "cep_endpoints", cep_purge=True)
    assert site.releases() == set()
    assert site.hosts["login1"].sudo("test", "-e", PLACE, check=False).returncode == 1
