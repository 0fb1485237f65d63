"""A network of its own for a scenario: only loopback, every port free, nothing else reachable.

The official SDK knows one address for a service at home, http://localhost:5000. Scenarios with it
run in a network namespace, so that they neither need the machine's port 5000 nor meet each other.
The file system and the processes are those of the machine. Needs root and iproute2.

`python -m tests.integration.netns COMMAND...` runs one command in such a network, to try things.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

import psutil
import pytest

NAME_PREFIX = "cep-"
GONE_S = 30.0  # a process of a command that has ended is gone in this time, or was left behind
_SBIN = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def why_not() -> str | None:
    """Return the reason why this process cannot make network namespaces, or None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "nsenter"):
        if shutil.which(tool, path=_SBIN) is None:
            return f"the command '{tool}' is missing (packages iproute2 and util-linux)"
    return None


class NetworkNamespace:
    """One network namespace with loopback up; at its end its processes are ended and it goes.

    Attributes:
        name: As `ip netns list` shows it.
    """

    def __init__(self) -> None:
        self.name = NAME_PREFIX + secrets.token_hex(4)

    def __enter__(self) -> NetworkNamespace:
        reason = why_not()
        if reason is not None:
            pytest.skip(f"NOT TESTED: {reason}.")
        self._ip("netns", "add", self.name)
        try:
            self._ip("-n", self.name, "link", "set", "lo", "up")
        except BaseException:
            self._ip("netns", "del", self.name)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.wait_until_empty()
            left = self.end_processes()
        finally:
            self._ip("netns", "del", self.name)
        if left and kind is None:
            pytest.fail(f"The scenario left processes behind: {left}", pytrace=False)

    def command(self, argv: Sequence[str | os.PathLike[str]]) -> list[str]:
        """The command line that runs `argv` in this network."""
        nsenter = shutil.which("nsenter", path=_SBIN)
        assert nsenter is not None
        return [nsenter, f"--net=/var/run/netns/{self.name}", *map(os.fspath, argv)]

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        check: bool = False,
        **rest: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end in this network; its output is captured as text."""
        return subprocess.run(
            self.command(argv),
            env=env,
            timeout=timeout_s,
            check=check,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            **rest,
        )

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.STDOUT,
        **rest: Any,
    ) -> subprocess.Popen[str]:
        """Start a command in this network; the caller waits for it."""
        return subprocess.Popen(
            self.command(argv),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            **rest,
        )

    def pids(self) -> list[int]:
        """Processes that live in this network now."""
        return [int(word) for word in self._ip("netns", "pids", self.name).split()]

    def wait_until_empty(self, within_s: float = GONE_S) -> list[int]:
        """Wait until nothing lives here: what was stopped may take a moment more to be gone.

        Returns:
            Those that live still when the time is over.
        """
        deadline = time.monotonic() + within_s
        pause = threading.Event()
        while (left := self.pids()) and time.monotonic() < deadline:
            pause.wait(0.05)
        return left

    def end_processes(self, containing: str = "") -> list[str]:
        """End what still runs here (TERM, then KILL); return their command lines.

        Args:
            containing: Only those with this text in their command line.
        """
        told = []
        processes = []
        for pid in self.pids():
            try:
                process = psutil.Process(pid)
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                line = " ".join(process.cmdline())
                if containing not in line:
                    continue
                told.append(f"{pid} {line[:120]}")
                process.send_signal(signal.SIGTERM)
            except psutil.NoSuchProcess:
                continue
            processes.append(process)
        _, alive = psutil.wait_procs(processes, timeout=GONE_S)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, timeout=GONE_S)
        return told

    @staticmethod
    def _ip(*words: str) -> str:
        ip = shutil.which("ip", path=_SBIN)
        assert ip is not None
        done = subprocess.run([ip, *words], check=True, capture_output=True, text=True)
        return done.stdout


def main(argv: Sequence[str]) -> int:
    """Run a command in a network of its own; return its exit code."""
    reason = why_not()
    if reason is not None:
        print(f"Cannot make a network namespace: {reason}.", file=sys.stderr)
        return 69
    with NetworkNamespace() as network:
        return subprocess.call(network.command(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
