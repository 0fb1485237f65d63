"""A host run by systemd, in a container, with cep installed for an account and a hub beside it.

Everything runs inside; so `localhost:5000`, the one address the SDK knows, is the host's own. Two
ordinary accounts exist; the first, which owns the endpoints, may use sudo.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.integration import docker_engine, image_python, scene
from tests.integration.scene import SDK_CLIENT, exports

ACCOUNT = "researcher"
UID = 1500
HOME = f"/home/{ACCOUNT}"
INSTALLATION = f"{HOME}/cep"
CEP = f"{INSTALLATION}/bin/cep"
PYTHON = f"{INSTALLATION}/bin/python3"
BARE = {"HOME": HOME, "USER": ACCOUNT, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
OWN = {"XDG_RUNTIME_DIR": f"/run/user/{UID}"}
# Limits for a machine that is busy with other things; nothing waits longer than it takes.
BOOT_S = 150.0
COMMAND_S = 200.0

_OLDER_GROUPS = Path(__file__).parent / "systemd_older_groups"  # instead of the image's `begin`
HUB_URL = "http://localhost:5000"
# Endpoints begin when it answers: what tries in vain at boot tries ever less often.
_HUB_UNIT = """\
[Unit]
Description=A hub for the tests
Before=network-online.target user@{uid}.service
[Service]
User={account}
Environment=HOME={home}
ExecStart={cep} hub serve {options}
ExecStartPost=/bin/sh -c 'until {cep} hub env > /dev/null 2>&1; do sleep 0.2; done'
[Install]
WantedBy=multi-user.target
"""

# ptrace(2): PTRACE_ATTACH is 16, PTRACE_DETACH 17; of waitpid(2), __WALL is 0x40000000.
# A thread is held where it waits in the kernel: one that is held while it runs Python would keep
# the interpreter, and the main thread could not tell of it. The numbers are those of Linux's
# system calls that wait (asm/unistd_64.h, asm-generic/unistd.h).
_HOLD_THREADS = """
import ctypes, errno, os, platform, signal, sys, time
process = int(sys.argv[1])
signal.alarm(150)
call = ctypes.CDLL(None, use_errno=True).ptrace
FUTEX, WAITING = {  # poll, select, accept, epoll_wait, pselect6, ppoll, epoll_pwait, accept4
    "x86_64": ("202", {7, 23, 43, 232, 270, 271, 281, 288}),
    "aarch64": ("98", {202, 72, 73, 22, 242}),
}[platform.machine()]

def hold(thread):
    while True:
        if call(16, thread, None, None) != 0:
            error = ctypes.get_errno()
            ended = not os.path.exists(f"/proc/{process}/task/{thread}")
            assert error == errno.ESRCH or ended or dying(thread), os.strerror(error)
            return False  # it ended after it was listed
        if not os.WIFSTOPPED(os.waitpid(thread, 0x40000000)[1]):
            return False
        with open(f"/proc/{process}/task/{thread}/syscall") as file:
            number, *arguments = file.read().split()
        operation = int(arguments[1], 16) if number == FUTEX else -1
        if number.isdigit() and int(number) in WAITING:
            return True
        if number == FUTEX and operation & 0x7f in (0, 9):  # FUTEX_WAIT, FUTEX_WAIT_BITSET
            return True
        call(17, thread, None, None)
        time.sleep(0.001)

def dying(thread):
    try:
        with open(f"/proc/{process}/task/{thread}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True

threads = {int(thread) for thread in os.listdir(f"/proc/{process}/task")} - {process}
held = {thread for thread in threads if hold(thread)}
while held:
    thread, status = os.waitpid(-1, 0x40000000)
    if not os.WIFSTOPPED(status):
        held.discard(thread)
"""


def until(condition: Callable[[], bool], *, within_s: float, what: str) -> None:
    """`scene.until`, asking less often: each question is a process in a container."""
    scene.until(condition, within_s=within_s, what=what, every_s=0.25)


class SystemdHost:
    """See the module. Use it with `with`.

    Args:
        image: The test image, which decides the version of systemd.
        name: The host's name.
        network: A Docker network for it and its hub; by default it is alone.
        hub: Options of `hub serve`; None: its hub is on another host.
        service: The hub's address, for this host's endpoints.
        older_groups: Systemd has the kernel's older control groups beside the newer, so that it
            keeps memory limits on every machine.

    Attributes:
        home: The account's home directory, as the machine of the tests sees it.
        environment: What `hub env` printed: a client's id and secret, among others.
    """

    def __init__(
        self,
        image: str = "systemd",
        *,
        name: str = "node1",
        network: str | None = None,
        hub: Sequence[str] | None = (),
        service: str = HUB_URL,
        older_groups: bool = False,
    ) -> None:
        self.image = image
        self.name = name
        self._network = network
        self._hub = hub
        self._service = service
        self._older_groups = older_groups
        self.root = Path(tempfile.mkdtemp(prefix="cep-systemd-", dir="/tmp"))
        self.home = self.root / "home" / ACCOUNT
        self.environment: dict[str, str] = {}
        self._container: Any = None
        self._engine: Any = None

    def __enter__(self) -> SystemdHost:
        try:
            self._start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    # --- life -------------------------------------------------------------------------------------

    def _start(self) -> None:
        image = docker_engine.ensure_image(self.image)
        self.home.mkdir(parents=True)
        self.root.chmod(0o755)
        os.chown(self.home, UID, UID)
        image_python.install(self.image, INSTALLATION, self.home, uid=UID)
        shutil.copy(SDK_CLIENT, self.home / SDK_CLIENT.name)
        self._engine = docker_engine.client()
        volumes = {str(self.root / "home"): {"bind": "/home", "mode": "rw"}}
        if self._older_groups:
            volumes[str(_OLDER_GROUPS)] = {"bind": "/usr/local/sbin/begin", "mode": "ro"}
        # SYS_ADMIN and a cgroup namespace are what systemd needs; the image does the rest.
        self._container = self._engine.containers.run(
            image,
            detach=True,
            hostname=self.name,
            **({} if self._network is None else {"network": self._network}),
            name=f"cep-systemd-{secrets.token_hex(4)}",
            labels=docker_engine.session_labels(),
            cap_add=["SYS_ADMIN"],
            cgroupns="private",
            tmpfs={"/run": "", "/run/lock": ""},
            volumes=volumes,
        )
        if self._network is not None:  # the name by which the other host finds it
            self.set_network(False)
            self.set_network(True)
        self._wait_booted()
        if self._hub is None:
            return
        options = " ".join(self._hub)
        unit = _HUB_UNIT.format(account=ACCOUNT, uid=UID, home=HOME, cep=CEP, options=options)
        self.write_root("/etc/systemd/system/test-hub.service", unit)
        self.sudo("systemctl", "daemon-reload")
        self.sudo("systemctl", "enable", "--now", "test-hub")
        self._wait_hub()
        self.keep_client(self.cep("hub", "env").stdout)

    def keep_client(self, said: str) -> None:
        """Keep what `hub env` printed, here and in the account's file `client.env`."""
        self.environment.update(exports(said))
        file = self.home / "client.env"
        file.touch(mode=0o600)
        file.write_text(said)
        os.chown(file, UID, UID)

    def reboot(self) -> None:
        """Go down in order and come up again."""
        self._container.restart(timeout=60)
        self._wait_booted()
        if self._hub is not None:
            self._wait_hub()

    def set_network(self, connected: bool) -> None:
        """Plug the host's network cable in, or pull it out."""
        network = self._engine.networks.get(self._network)
        if connected:
            network.connect(self._container, aliases=[self.name])
        else:
            network.disconnect(self._container, force=True)

    def _wait_booted(self) -> None:
        def booted() -> bool:
            said = self.sudo("systemctl", "is-system-running", check=False).stdout.strip()
            return said in ("running", "degraded")

        until(booted, within_s=BOOT_S, what="the host has booted")

    def _wait_hub(self) -> None:
        until(
            lambda: self.cep("hub", "env", check=False).returncode == 0,
            within_s=BOOT_S,
            what="the hub answers",
        )

    def _remove(self) -> None:
        if self._container is not None:
            docker_engine.remove_container(self._container)
        if self._engine is not None:
            self._engine.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # --- commands ---------------------------------------------------------------------------------

    def sudo(
        self, *argv: str, check: bool = True, timeout_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root."""
        return self._exec([], argv, check=check, timeout_s=timeout_s)

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout_s: float = COMMAND_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the account, with hardly any environment and `env` on top."""
        return self._exec(*self._as_account(argv, env), check=check, timeout_s=timeout_s)

    def _as_account(
        self, argv: Sequence[str], env: Mapping[str, str] | None
    ) -> tuple[list[str], list[str]]:
        variables = [f"{name}={value}" for name, value in {**BARE, **(env or {})}.items()]
        return ["--user", ACCOUNT, "--workdir", HOME], ["env", "-i", *variables, *argv]

    def cep(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a cep command as the account, in a shell that knows no credentials."""
        return self.run(CEP, *words, check=check, env=OWN)

    def cep_as_client(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The same in a shell that was pointed at the hub (`source <(cep hub env)`)."""
        return self.run(CEP, *words, check=check, env={**OWN, **self.environment})

    def shell(self, line: str) -> subprocess.CompletedProcess[str]:
        """A line that the account types, with the installation on its path."""
        path = f"{INSTALLATION}/bin:{BARE['PATH']}"
        return self.run("bash", "-c", line, env={**OWN, "PATH": path})

    def account_command(self, *argv: str) -> list[str]:
        """The command line, on this machine, that runs something as the account in there."""
        options, words = self._as_account(argv, OWN)
        return ["docker", "exec", *options, self._container.id, *words]

    def sudo_cep(
        self, *words: str, check: bool = True, with_credentials: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The account calls cep by sudo, as docs/service.md has it."""
        option = ["--credentials", f"{HOME}/client.env"] if with_credentials else []
        return self.run("sudo", CEP, *words, *option, check=check)

    def systemctl(
        self, *words: str, user: bool = False, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run systemctl as root, or as the account for its own manager."""
        if user:
            return self.run("systemctl", "--user", *words, env=OWN, check=check)
        return self.sudo("systemctl", *words, check=check)

    def show(self, unit: str, name: str, *, user: bool = False) -> str:
        """One property of a unit."""
        return self.systemctl("show", "-P", name, unit, user=user).stdout.strip()

    def _exec(
        self, options: Sequence[str], argv: Sequence[str], *, check: bool, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "exec", *options, self._container.id, *argv],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"{shlex.join(argv)} ended with {done.returncode}.\n{done.stdout}\n{done.stderr}\n"
                f"{self.journal()}",
                pytrace=False,
            )
        return done

    def journal(self, lines: int = 60) -> str:
        """The end of the host's log."""
        done = subprocess.run(
            ["docker", "exec", self._container.id, "journalctl", "--no-pager", f"-n{lines}"],
            check=False,
            capture_output=True,
            text=True,
        )
        return done.stdout + done.stderr

    # --- files and endpoints ----------------------------------------------------------------------

    def write_root(self, path: str, text: str) -> None:
        """Write a file of root's."""
        folder = str(Path(path).parent)
        words = f"mkdir -p {shlex.quote(folder)} && cat > {shlex.quote(path)}"
        subprocess.run(
            ["docker", "exec", "-i", self._container.id, "sh", "-c", words],
            input=text,
            text=True,
            check=True,
        )

    def read(self, path: str) -> str:
        """A file's content, as root."""
        return self.sudo("cat", path).stdout

    def files(self) -> set[str]:
        """All files where units and their credentials are."""
        places = ("/etc/systemd", "/etc/cep", f"{HOME}/.config", "/var/lib/systemd/linger")
        said = self.sudo("find", *places, "!", "-type", "d", check=False).stdout
        return set(said.split())

    def configure(self, name: str, more: str = "") -> None:
        """Make an endpoint with one worker process."""
        self.cep("configure", name, "--service", self._service)
        self.config(name).write_text(
            f"service_url: {self._service}\n"
            "engine: {type: ProcessPoolEngine, max_workers: 1}\n"
            f"heartbeat_period: 5\n{more}"
        )

    def config(self, name: str) -> Path:
        """An endpoint's configuration."""
        return self.home / ".globus_compute" / name / "config.yaml"

    def endpoint_id(self, name: str) -> str:
        """The id it was registered under."""
        path = self.home / ".globus_compute" / name / "endpoint.json"
        return str(json.loads(path.read_text())["endpoint_id"])

    def sdk_command(self, *words: str) -> list[str]:
        """The command line, on this machine, that runs `sdk_client.py` in there."""
        options, argv = self._as_account([PYTHON, SDK_CLIENT.name, *words], self.environment)
        return ["docker", "exec", *options, self._container.id, *argv]

    def sdk(self, *words: str) -> Any:
        """Run `sdk_client.py`; return what it told as JSON."""
        done = subprocess.run(
            self.sdk_command(*words), check=False, capture_output=True, text=True, timeout=COMMAND_S
        )
        if done.returncode != 0:
            pytest.fail(
                f"The SDK's script failed.\n{done.stdout}\n{done.stderr}\n{self.journal()}",
                pytrace=False,
            )
        return json.loads(done.stdout.splitlines()[-1])

    def pace_s(self, unit: str) -> int:
        """Restart a service and return three times the seconds that took, 10 to 30.

        A measure for limits that a service keeps easily on this machine, as busy as it is now.
        """
        begun = time.monotonic()
        self.systemctl("restart", unit)
        return min(30, max(10, math.ceil(3 * (time.monotonic() - begun))))

    def hold_threads(self, process: str) -> None:
        """Hold a process's threads but the main one, by a debugger's call, until it ends."""
        self.run(PYTHON, "-c", _HOLD_THREADS, process)

    def wait_active(
        self, unit: str, *, other_than: str = "0", user: bool = False, within_s: float = 240.0
    ) -> str:
        """Wait until a unit is active with another process than this; return the process."""

        def active() -> bool:
            said = self.systemctl(
                "show", "--property=ActiveState,MainPID", unit, user=user, check=False
            ).stdout
            facts = dict(line.split("=", 1) for line in said.split())
            process = facts.get("MainPID", "0")
            return facts.get("ActiveState") == "active" and process not in ("0", other_than)

        try:
            until(active, within_s=within_s, what=f"{unit} is active")
        except BaseException:
            print(self.journal())
            raise
        return self.show(unit, "MainPID", user=user)
