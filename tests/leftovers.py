"""What a test run could leave behind: processes, containers, files in the home directory.

A picture is taken before and after; the difference is what the run left. Processes are known by
an environment variable that every child inherits. A process that has set its title has lost its
environment for /proc (setproctitle writes over it), so in CI, where nobody else works on the
machine, the titles count as well. The Docker engine and what it runs may stay.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

RUN_VARIABLE = "CEP_TEST_RUN"
# The test command starts the engine when there is none, and it may stay up.
MAY_STAY = ("dockerd", "containerd", "containerd-shim", "docker-proxy")
TITLES = ("Globus Compute Endpoint (", "parsl: HTEX", "cep hub", "cep.agent")
GONE_S = 10.0  # a process that was stopped is gone in this time
# On every container of the tests (tests/integration/docker_engine.py).
CONTAINER_LABEL = "cep.tests.pid"
# Caches of other programs in the home directory, which a test may fill.
CACHES = frozenset({".cache", ".docker", ".local", ".config", ".npm", ".dotnet"})


@dataclass(frozen=True)
class Picture:
    """The state of the machine, as far as tests could change it.

    Attributes:
        marked: Processes of this run: (pid, command line).
        titled: Processes of this user whose title is one of ours: (pid, title).
        containers: Ids of all containers that tests have started, running or not.
        home: Names in the home directory, and everything in the default user directory.
    """

    marked: frozenset[tuple[int, str]]
    titled: frozenset[tuple[int, str]]
    containers: frozenset[str]
    home: frozenset[str]


def picture(run_mark: str) -> Picture:
    """Look at the machine now.

    Args:
        run_mark: `NAME=value` in the environment of every process that this run has started.
    """
    marked, titled = _processes(run_mark)
    return Picture(marked, titled, _containers(), _home())


def look(before: Picture, run_mark: str, *, thorough: bool) -> list[str]:
    """Return what `compare` finds and keeps finding: a process may take a moment to be gone."""
    deadline = time.monotonic() + GONE_S
    while found := compare(before, picture(run_mark), thorough=thorough):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


def compare(before: Picture, after: Picture, *, thorough: bool) -> list[str]:
    """Return one line for each thing that is there now and was not before.

    Args:
        before: The machine when the run began.
        after: The machine now.
        thorough: Nobody else works here, so count processes by their title, containers that
            another run could own, and files in the home directory too.
    """
    found = [f"process {pid}: {text}" for pid, text in sorted(after.marked - before.marked)]
    if thorough:
        found += [f"process {pid}: {text}" for pid, text in sorted(after.titled - before.titled)]
        found += [f"container {name}" for name in sorted(after.containers - before.containers)]
        found += [f"file {name}" for name in sorted(after.home - before.home)]
    return found


def _processes(run_mark: str) -> tuple[frozenset[tuple[int, str]], frozenset[tuple[int, str]]]:
    marked, titled = set(), set()
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            line = " ".join(process.cmdline())
            if process.uids().real == os.getuid() and line.startswith(TITLES):
                titled.add((process.pid, line))
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode(errors="replace")
            if run_mark not in environment.split("\0") or process.name() in MAY_STAY:
                continue
            # multiprocessing's own servants end when pytest does.
            if process.ppid() == os.getpid() and "multiprocessing" in line:
                continue
            marked.add((process.pid, line))
        except (psutil.Error, OSError):
            continue  # it has gone, or is not ours
    return frozenset(marked), frozenset(titled)


def _containers() -> frozenset[str]:
    docker = shutil.which("docker")
    if docker is None:
        return frozenset()
    answer = subprocess.run(
        [docker, "ps", "--all", "--quiet", "--filter", f"label={CONTAINER_LABEL}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return frozenset(answer.stdout.split())


def _home() -> frozenset[str]:
    home = Path.home()
    try:
        names = {str(path) for path in home.iterdir() if path.name not in CACHES}
    except OSError:
        return frozenset()
    user_dir = home / ".globus_compute"
    names |= {str(path) for path in user_dir.rglob("*")} if user_dir.is_dir() else set()
    return frozenset(names)
