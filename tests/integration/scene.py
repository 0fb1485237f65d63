"""A scene for a scenario: a network of its own, a hub in it, endpoints, and the official SDK.

Everything is done by the commands a user would type, in a network namespace (the SDK knows only
http://localhost:5000), with all files below one temporary directory. At its end the scene stops
what runs; whatever then still lives in the network fails the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import venvs
from tests.integration.netns import NetworkNamespace

if TYPE_CHECKING:
    from tests.integration.servers import Servers

HERE = Path(__file__).resolve().parent
SDK_CLIENT = HERE / "sdk_client.py"
HUB_URL = "http://localhost:5000"
# Variables that lead a command to somebody's account, or to another service than the scene's.
FOREIGN = (
    *("GLOBUS_", "FUNCX_", "GC_TASK_", "CEP_ENDPOINT", "CEP_HUB_"),
    *("XDG_", "PYTHONPATH", "VIRTUAL_ENV"),
)

ENGINES = {
    "threads": "engine:\n  type: ThreadPoolEngine\n  max_workers: 2\n",
    "processes": "engine:\n  type: ProcessPoolEngine\n  max_workers: 2\n",
    "htex": (
        "engine:\n  type: GlobusComputeEngine\n  max_workers_per_node: 2\n"
        "  provider:\n    type: LocalProvider\n"
        "    init_blocks: 1\n    min_blocks: 0\n    max_blocks: 1\n"
    ),
}


class Scene:
    """See the module. Use it with `with`; `hub()` first, then `endpoint()`.

    Args:
        servers: RabbitMQ and PostgreSQL for the hub, and their network for the scene; without
            them the hub has its embedded broker and SQLite.
        network: Another network than one with nothing but loopback.

    Attributes:
        root: The temporary directory (short: socket paths are limited to 108 bytes).
        network: Where all commands run.
        environment: Variables of the endpoint's side; `hub()` adds what it printed.
    """

    def __init__(
        self, servers: Servers | None = None, network: NetworkNamespace | None = None
    ) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="cep-s-", dir="/tmp"))
        self.servers = servers
        self.network = network or (NetworkNamespace() if servers is None else servers.network())
        self._hub_variables: dict[str, str] = {}
        self._database = ""
        self.user_dir = self.root / "user"
        (self.root / "tmp").mkdir()
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)
        }
        self.environment.update(
            GLOBUS_COMPUTE_USER_DIR=str(self.user_dir),
            TMPDIR=str(self.root / "tmp"),
            XDG_RUNTIME_DIR=str(self.root / "tmp"),
            HOME=str(self.root),
            NO_PROXY="localhost,127.0.0.1",
        )
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Scene:
        try:
            self.network.__enter__()
        except BaseException:
            shutil.rmtree(self.root, ignore_errors=True)
            raise
        self._stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self._stack.push(self.network.__exit__)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, value, traceback)

    # --- commands ---------------------------------------------------------------------------------

    def cep(
        self, *words: str, check: bool = True, timeout_s: float = 180.0, program: str = "cep"
    ) -> subprocess.CompletedProcess[str]:
        """Run a cep command; unless `check` is false, its failure fails the test."""
        argv = [Path(sys.executable).parent / program, *words]
        return self.command(argv, check=check, timeout_s=timeout_s)

    def command(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        timeout_s: float = 180.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the scene's network; unless `check` is false, it must succeed."""
        # Files, not pipes: a daemon that kept one open would hide its parent's end.
        with (
            tempfile.TemporaryFile("w+", dir=self.root) as out,
            tempfile.TemporaryFile("w+", dir=self.root) as err,
        ):
            process = self.network.popen(
                argv, env=env or self.environment, stdout=out, stderr=err, cwd=self.root
            )
            try:
                code = process.wait(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                code = -9
            out.seek(0)
            err.seek(0)
            words = [os.fspath(word) for word in argv]
            done = subprocess.CompletedProcess(words, code, out.read(), err.read())
        if check and code != 0:
            pytest.fail(
                f"{shlex.join(words)} ended with {code}.\n{done.stdout}\n{done.stderr}"
                f"\n{self.logs()}",
                pytrace=False,
            )
        return done

    def hub(self, name: str = "hub", *options: str) -> None:
        """Start a hub, by default at the address the SDK knows, to be stopped at the scene's end.

        What `hub env` prints is taken over.
        """
        state = str(self.root / name)
        if self.servers is not None and not self._database:
            self._hub_variables, self._database = self.servers.addresses()
        self.serve(name, *options)
        self._stack.callback(self.cep, "hub", "stop", "--state-dir", state)
        self.environment.update(exports(self.cep("hub", "env", "--state-dir", state).stdout))

    def serve(self, name: str = "hub", *options: str) -> None:
        """Start a hub (again); nothing more."""
        state = str(self.root / name)
        argv = [Path(sys.executable).parent / "cep", "hub", "serve", "--detach", "--state-dir"]
        self.command([*argv, state, *options], env={**self.environment, **self._hub_variables})

    def hub_pid(self, name: str = "hub") -> int:
        """The hub's process."""
        return int(json.loads((self.root / name / "running.json").read_text())["pid"])

    def task_states(self) -> dict[str, int]:
        """How many tasks the hub's database has in each state."""
        query = "SELECT state, count(*) FROM tasks GROUP BY state"
        if self.servers is not None:
            return dict(self.servers.postgres.query(self._database, query))
        store = sqlite3.connect(f"file:{self.root}/hub/hub.db?mode=ro", uri=True)
        try:
            return dict(store.execute(query).fetchall())
        finally:
            store.close()

    def configure(self, name: str, engine: str, extra: str = "") -> Path:
        """Make an endpoint with this engine block; return its directory."""
        self.cep("configure", name)
        root = self.user_dir / name
        (root / "config.yaml").write_text(f"display_name: null\n{extra}{engine}")
        return root

    def start(self, name: str) -> str:
        """Start an endpoint, to be stopped at the scene's end; return its ID."""
        said = self.cep("start", name).stdout
        found = re.search(r"^Starting endpoint; registered ID: ([0-9a-f-]{36})$", said, re.M)
        assert found, said
        return found.group(1)

    @contextlib.contextmanager
    def endpoint(self, name: str, engine: str, extra: str = "") -> Iterator[str]:
        """An endpoint for the length of a block; yields its ID."""
        self.configure(name, ENGINES[engine], extra)
        endpoint_id = self.start(name)
        try:
            yield endpoint_id
        finally:
            self.cep("stop", name)

    def states(self) -> dict[str, str]:
        """Status of each endpoint as the table of `list` shows it."""
        found = {}
        for line in self.cep("list").stdout.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if line.startswith("|") and cells[0] != "Endpoint ID":
                found[cells[2]] = cells[1]
        return found

    def agent_pid(self, name: str) -> int:
        """The agent's process, as its pid file tells."""
        return int((self.user_dir / name / "daemon.pid").read_text())

    def logs(self) -> str:
        """The end of every log below the scene's directory, for a failure's message."""
        told = []
        for log in sorted(self.root.rglob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-25:]
            told.append("\n".join([f"--- {log.relative_to(self.root)}", *lines]))
        return "\n".join(told)

    # --- the official SDK -------------------------------------------------------------------------

    def sdk_environment(self) -> dict[str, str]:
        """The variables of a researcher's laptop: those of `hub env`, and files of its own."""
        return {**self.environment, "GLOBUS_COMPUTE_USER_DIR": str(self.root / "laptop")}

    def sdk(self, *words: str, timeout_s: float = 200.0, python: Path | None = None) -> Any:
        """Run `sdk_client.py` with the official SDK to its end; return what it told as JSON."""
        process = self.sdk_popen(*words, python=python)
        return self.sdk_answer(process, timeout_s=timeout_s)

    def sdk_popen(self, *words: str, python: Path | None = None) -> subprocess.Popen[str]:
        """Start `sdk_client.py`; `sdk_answer` waits for it."""
        return self.network.popen(
            [python or venvs.sdk_python(), SDK_CLIENT, *words],
            env=self.sdk_environment(),
            cwd=self.root,
            stderr=subprocess.PIPE,
        )

    def sdk_answer(self, process: subprocess.Popen[str], *, timeout_s: float = 200.0) -> Any:
        """Wait for a client; its failure fails the test. Returns its last line, as JSON."""
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\n(ended after {timeout_s:.0f} s)"
        if process.returncode != 0:
            pytest.fail(f"The SDK's script failed.\n{out}\n{err}\n{self.logs()}", pytrace=False)
        return json.loads(out.splitlines()[-1])


def exports(text: str) -> dict[str, str]:
    """The variables in `export NAME=value` lines."""
    words = shlex.split(text, comments=True)
    return dict(word.split("=", 1) for word in words if "=" in word)


def until(
    condition: Callable[[], bool], *, within_s: float, what: str, every_s: float = 0.05
) -> float:
    """Wait until something that nothing announces is true; return the seconds it took.

    Only for facts that can be asked and not waited for, such as the service's view of an endpoint.
    """
    begun = time.monotonic()
    pause = threading.Event()
    while not condition():
        if time.monotonic() - begun > within_s:
            pytest.fail(f"Not within {within_s} s: {what}", pytrace=False)
        pause.wait(every_s)
    return time.monotonic() - begun


class Witness:
    """Hears from each function that begins, through a socket in the file system.

    Functions send a short text to `path`; it is kept in order, and `wait_for` waits for a number
    of them. One thread receives.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heard: list[str] = []
        self._more = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen, name="witness", daemon=True)

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"", str(self.path))
        self._thread.join(60)
        self._socket.close()

    def wait_for(self, number: int, within_s: float) -> list[str]:
        """Wait until this many have spoken; return what was heard so far."""
        with self._more:
            enough = self._more.wait_for(lambda: len(self.heard) >= number, within_s)
            assert enough, f"only {len(self.heard)} of {number} functions began in {within_s} s"
            return list(self.heard)

    def _listen(self) -> None:
        while text := self._socket.recv(4096).decode():
            with self._more:
                self.heard.append(text)
                self._more.notify_all()
