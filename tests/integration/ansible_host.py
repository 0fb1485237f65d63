"""Hosts that only Ansible touches, and the controller beside them: for the tests of the collection.

A host is a container run by systemd with nothing of ours in it; the hub, where there is one, is put
there by the collection as well. The controller is ansible-core in an environment of its own, with
the collection installed from the file that `ansible-galaxy collection build` makes.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.integration import docker_engine, venvs
from tests.integration.scene import SDK_CLIENT, exports
from tests.integration.systemd_host import SystemdHost

COLLECTION = venvs.PROJECT / "ansible"
PLUGINS = Path(__file__).parent / "ansible" / "connection_plugins"
WHEELHOUSES = "/srv/wheelhouses"
SHARED = "/shared"
CURRENT = "/opt/cep/current/bin"
PLAY_S = 1500.0  # on a machine that does much else
# Where nothing of a removed installation may be left; logs and caches are not files of it.
_PLACES = ("/etc", "/opt", "/home", "/root", "/srv", "/usr", "/var/lib", "/var/spool")
_NOT_OURS = ("/root/.ansible", "/var/lib/systemd/timers")  # Ansible's own; systemd's
_PASSING = re.compile(r"/__pycache__|/\.status\.json\.[^/]*$|\.db-(?:wal|shm|journal)$")
_RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


class AnsibleHost(SystemdHost):
    """A host without anything of ours. Use it with `with`.

    Args:
        image: The test image, which decides the distribution and the version of systemd.
        wheelhouses: A directory of wheelhouses, seen as `WHEELHOUSES`.
        hostname: What the host calls itself.
        network: A network of the engine on which others know it by that name.
        shared: A directory of this machine that the host sees as `SHARED`, as others may.
    """

    def __init__(
        self,
        image: str,
        wheelhouses: Path,
        *,
        hostname: str = "node1",
        network: str | None = None,
        shared: Path | None = None,
    ) -> None:
        super().__init__(image)
        self._wheelhouses = wheelhouses
        self._hostname = hostname
        self._net = network
        self._shared = shared
        self.name = f"cep-ansible-{secrets.token_hex(4)}"

    def _start(self) -> None:
        tag = docker_engine.ensure_image(self.image)
        self._engine = docker_engine.client()
        self._container = self._engine.containers.run(
            tag,
            detach=True,
            hostname=self._hostname,
            **self._place_in_network(),
            name=self.name,
            labels=docker_engine.session_labels(),
            cap_add=["SYS_ADMIN"],
            cgroupns="private",
            tmpfs={"/run": "", "/run/lock": "", "/tmp": "exec"},
            volumes={
                str(self._wheelhouses): {"bind": WHEELHOUSES, "mode": "ro"},
                **({} if self._shared is None else {str(self._shared): {"bind": SHARED}}),
            },
        )
        self._wait_booted()
        for account, uid in (("researcher", 1500), ("colleague", 1501)):
            home = f"/home/{account}"
            self.sudo("install", "-d", "-o", str(uid), "-g", str(uid), "-m", "0700", home)

    def _place_in_network(self) -> dict[str, Any]:
        if self._net is None:
            return {}
        alias = self._engine.api.create_endpoint_config(aliases=[self._hostname])
        return {"network": self._net, "networking_config": {self._net: alias}}

    def reboot(self) -> None:
        """Go down in order and come up again."""
        self._container.restart(timeout=30)
        self._wait_booted()

    def everything(self) -> set[str]:
        """The names of all files where an installation leaves some.

        Not those that services of ours make and remove again while they run, which may go while
        they are listed.
        """
        words = (*_PLACES, "-xdev", "-path", WHEELHOUSES, "-prune", "-o", "-print")
        said = self.sudo("find", *words, check=False)
        assert said.stdout, said.stderr
        return {
            line
            for line in said.stdout.splitlines()
            if not _PASSING.search(line) and not line.startswith(_NOT_OURS)
        }

    def client(self, name: str = "tests") -> dict[str, str]:
        """The id and the secret of a client that the role made on the hub here."""
        return exports(self.read(f"/etc/cep/hub-clients/{name}.env"))

    def sdk_words(self, client: Mapping[str, str], *words: str) -> list[str]:
        """The command line, on this machine, that runs `sdk_client.py` in there."""
        script = Path("/tmp") / SDK_CLIENT.name
        self.write_root(str(script), SDK_CLIENT.read_text())
        variables = {
            "PATH": "/usr/bin:/bin",
            "HOME": "/tmp",
            "LANG": "C.UTF-8",
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": "http://localhost:5000/",
            **client,
        }
        given = [f"{name}={value}" for name, value in variables.items()]
        argv = ["env", "-i", *given, f"{CURRENT}/python3", str(script), *words]
        return ["docker", "exec", "--user", "nobody", "--workdir", "/tmp", self.name, *argv]

    def functions(self, client: Mapping[str, str], *words: str) -> Any:
        """Run functions through the official SDK; return what `sdk_client.py` told as JSON."""
        done = subprocess.run(
            self.sdk_words(client, *words),
            check=False,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.journal()}"
        return json.loads(done.stdout.splitlines()[-1])

    def process(self, endpoint: str) -> str:
        """The process of an endpoint's unit; 0 when it does not run."""
        return self.show(f"globus-compute-endpoint-{endpoint}.service", "MainPID")


@dataclass(frozen=True)
class Play:
    """What one run of a playbook said.

    Attributes:
        code: Its exit status.
        text: Everything that it printed.
        changed: Number of changed tasks by host.
        failed: Number of failed tasks by host, hosts out of reach included.
    """

    code: int
    text: str
    changed: Mapping[str, int]
    failed: Mapping[str, int]

    @property
    def good(self) -> bool:
        """Whether every host came to its end."""
        return self.code == 0 and not any(self.failed.values())


class Controller:
    """ansible-core with the collection, and an inventory.

    Args:
        python: The interpreter of an environment with ansible-core.
        root: A directory for everything that Ansible writes.

    Attributes:
        environment: The variables that Ansible's programs get.
        said: What each run of a playbook printed.
    """

    def __init__(self, python: Path, root: Path) -> None:
        self._bin = python.parent
        self.root = root
        self.said: list[str] = []
        self.environment = {
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "HOME": str(root),
            "LANG": "C.UTF-8",
            "ANSIBLE_HOME": str(root / "home"),
            "ANSIBLE_COLLECTIONS_PATH": str(root / "collections"),
            "ANSIBLE_CONNECTION_PLUGINS": str(PLUGINS),
            "ANSIBLE_PIPELINING": "true",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_RETRY_FILES_ENABLED": "false",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_DEPRECATION_WARNINGS": "true",
        }
        for name, value in os.environ.items():
            if name.startswith(("DOCKER_", "CEP_TEST_")):
                self.environment[name] = value

    @property
    def installed(self) -> Path:
        """Where the collection was installed."""
        return self.root / "collections" / "ansible_collections" / "cep" / "cep"

    def run(
        self, *words: str, check: bool = True, within: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs, in the directory `within` or our own."""
        done = subprocess.run(
            [str(self._bin / words[0]), *words[1:]],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
            cwd=within or self.root,
            stdin=subprocess.DEVNULL,
            timeout=PLAY_S,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done

    def install_collection(self) -> Path:
        """Build the collection's file and install it from there; returns the file."""
        made = self.root / "made"
        words = ["collection", "build", str(COLLECTION), "--output-path", str(made)]
        self.run("ansible-galaxy", *words)
        (file,) = made.glob("cep-cep-*.tar.gz")
        self.run("ansible-galaxy", "collection", "install", "--offline", "--force", str(file))
        return file

    def play(
        self,
        playbook: str,
        inventory: Mapping[str, Any],
        *words: str,
        extra: Mapping[str, Any] | None = None,
    ) -> Play:
        """Run a playbook of the collection on an inventory; everything it says is kept."""
        file = self.root / "inventory.json"
        file.write_text(json.dumps(inventory))
        more: Sequence[str] = ["-e", json.dumps(extra)] if extra else []
        done = self.run(
            "ansible-playbook", "-i", str(file), f"cep.cep.{playbook}", *words, *more, check=False
        )
        self.said.append(done.stdout)
        recap = _RECAP.findall(done.stdout)
        return Play(
            done.returncode,
            done.stdout,
            {name: int(changed) for name, _, changed, _, _ in recap},
            {name: int(lost) + int(failed) for name, _, _, lost, failed in recap},
        )
