"""Endpoints' hosts whose hub is on another host, and a reboot there with the network late.

One such pair, on a network of its own, for each release of systemd, all at once. The reboot is
mostly waiting, so it begins with the first test of services and runs beside the others, on hosts
that no other test touches; test_systemd_network.py asks what came of it and goes on there.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event

from tests.integration import docker_engine as engine
from tests.integration.systemd_host import HOME, SystemdHost, until
from tests.integration.systemd_hosts import IMAGES, Hosts, started

UNIT = "globus-compute-endpoint-lab.service"
HUB = "hub.example.org"
ADDRESS = f"http://{HUB}:5000"
PROJECT = Path(__file__).parents[2]
README = PROJECT / "README.md"
LATE_S = 30.0


def lines_of(page: Path) -> list[str]:
    """What a page tells to type, on the hub's host with its prompt."""
    told = page.read_text().partition("<!-- these lines are run by a test -->")[2]
    lines = told.partition("<!-- end -->")[0].splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith(("$ ", "hub$ "))]


SERVE, CREDENTIALS, *OWN, RUN, DISABLE = lines_of(README)
CONFIGURE, ENABLE, REMOVE, REBOOT, STATUS = OWN


class Far:
    """See the module. `begin` first, `close` last.

    Attributes:
        hubs: The hubs' hosts, from where functions are run, too.
        nodes: The endpoints' hosts; each has the credentials that its hub gave.
        up: Done when all of them are up.
        rebooted: Done after the reboot; what it raised is what a test of it raises.
    """

    hubs: Hosts
    nodes: Hosts
    up: Future[None]
    rebooted: Future[None]

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._pool = ThreadPoolExecutor(1, "far")

    def begin(self) -> None:
        """Begin with the hosts and the reboot."""
        self.up = self._pool.submit(self._start)
        self.rebooted = self._pool.submit(self._reboot)

    def wait(self, timeout_s: float) -> None:
        """Wait until nothing runs beside the tests any more, however it ended."""
        wait([self.up, self.rebooted], timeout_s)
        self.up.result(timeout=0)

    def close(self) -> None:
        """Remove the hosts, once what was begun has ended."""
        self._pool.shutdown(cancel_futures=True)
        self._stack.close()

    def _start(self) -> None:
        client = self._stack.enter_context(contextlib.closing(engine.client()))
        hubs, nodes = [], []
        for image in IMAGES:
            name = f"cep-far-{secrets.token_hex(4)}"
            network = client.networks.create(name, labels=engine.session_labels())
            self._stack.callback(network.remove)
            hubs.append(SystemdHost(image, name=HUB, network=name, hub=None))
            nodes.append(SystemdHost(image, network=name, hub=None, service=ADDRESS))
        self._stack.enter_context(started([*hubs, *nodes]))
        self.hubs, self.nodes = Hosts(hubs), Hosts(nodes)
        self.hubs.do(_serve)
        self.nodes.do(
            lambda host, far: host.keep_client((far.home / "client.env").read_text()), self.hubs
        )

    def _reboot(self) -> None:
        self.up.result()
        self.nodes.do(reboot_with_the_network_late, self.hubs)


def _serve(hub: SystemdHost) -> None:
    for line in (SERVE, CREDENTIALS):
        hub.shell(line.removeprefix("hub$ "))
    hub.keep_client((hub.home / "client.env").read_text())


def reboot_with_the_network_late(host: SystemdHost, hub: SystemdHost) -> None:
    """Enable a service as README.md says; it must be back after a reboot."""
    host.shell(CONFIGURE)
    host.shell(ENABLE)
    host.shell(REMOVE)
    far = host.endpoint_id("lab")
    assert (said := double(hub, far)) == "42\n", said
    secret = host.environment["GLOBUS_COMPUTE_CLIENT_SECRET"]
    found = host.sudo("grep", "-rlF", "--", secret, "/etc", HOME, "/run/systemd", check=False)
    kept = "/etc/cep/credentials/globus-compute-endpoint-lab/client-secret"
    assert found.stdout.split() == [kept], found.stdout

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
    assert f"{UNIT} (enabled, active)" in (said := host.shell(STATUS).stdout), said
    assert (said := double(hub, far)) == "42\n", said


def double(hub: SystemdHost, endpoint: str) -> str:
    """Run the program of README.md's quickstart on an endpoint; what it prints."""
    program = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)[0]
    text = re.sub(r'endpoint_id="[^"]*"', f'endpoint_id="{endpoint}"', program)
    assert endpoint in text
    (hub.home / "double.py").write_text(text)
    return hub.shell(RUN.removeprefix("hub$ ")).stdout
