"""How each endpoint is started and stopped, and with which settings.

The settings are the same for all: two workers, everything else as it comes, except that the
blocks of GlobusComputeEngine are one from the beginning and never fewer, and on loopback.

* Ours starts as a user starts it, `cep start`; its web service is a stand-in that answers the
  registration at once.
* The published 2.19 starts with its `start`, and takes the answer of the registration from
  standard input, as its own multi-user manager hands it over.
* The published 4.19 has no single-user endpoint. What runs tasks there is the user endpoint
  process, which is started here with the command and the standard input its manager uses.

So the published ones are spared login and registration, and 4.19 its manager as well: neither
would make them faster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.side_by_side import measure
from benchmarks.side_by_side.place import EXCHANGE, Place
from tests.integration.agent_rig import stand_in_service

PROJECT = Path(__file__).resolve().parents[2]
NAME = "bench"
GRACE_S = 1.0  # nothing is measured any more
ENGINES = ("threads", "processes", "gce")
_CONFIGURATIONS = {
    "threads": "engine: {type: ThreadPoolEngine, max_workers: WORKERS}\n",
    "processes": "engine: {type: ProcessPoolEngine, max_workers: WORKERS}\n",
    "gce": """\
engine:
  type: GlobusComputeEngine
  max_workers_per_node: WORKERS
  address: 127.0.0.1
  provider: {type: LocalProvider, init_blocks: 1, min_blocks: 1, max_blocks: 1}
""",
}


class Endpoint(Protocol):
    """Something that takes tasks from a place's queue and answers them."""

    @property
    def name(self) -> str:
        """In tables."""

    @property
    def engine(self) -> str:
        """One of `ENGINES`, or "echo"."""

    def start(self, place: Place) -> None:
        """Have it start; comes back when its command does, or at once."""

    def stop(self, place: Place) -> None:
        """End every process of it."""


def configuration(engine: str, workers: int) -> str:
    """The text of the configuration."""
    return _CONFIGURATIONS[engine].replace("WORKERS", str(workers))


def _environment(place: Place, interpreter: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GLOBUS_", "CEP_"))}
    return {
        **kept,
        "PATH": f"{interpreter.parent}:{kept.get('PATH', '')}",
        "SPT_NOENV": "1",  # a process title is not to overwrite the mark
        "XDG_RUNTIME_DIR": str(place.directory),
        "GLOBUS_COMPUTE_USER_DIR": str(place.directory),
        "GLOBUS_COMPUTE_CLIENT_ID": place.endpoint_id,
        "GLOBUS_COMPUTE_CLIENT_SECRET": "bench-secret",
        measure.MARK: str(place.directory),
    }


def _write(place: Place, text: str, file: str = "config.yaml") -> None:
    home = place.directory / NAME
    home.mkdir(mode=0o700)
    (home / file).write_text(text)


@dataclass(frozen=True)
class EchoProcess:
    """The echo, see `benchmarks.side_by_side.echo`."""

    name: str = "echo"
    engine: str = "echo"

    def start(self, place: Place) -> None:
        """Start the process."""
        module = "benchmarks.side_by_side.echo"
        subprocess.Popen(
            [sys.executable, "-m", module, place.url, place.tasks, EXCHANGE, place.results],
            cwd=PROJECT,
            env=_environment(place, Path(sys.executable)),
            stdin=subprocess.DEVNULL,
        )

    def stop(self, place: Place) -> None:
        """End it."""
        measure.end(place.directory, 2.0)


@dataclass(frozen=True)
class Ours:
    """This project's endpoint.

    Attributes:
        audit: It writes an audit log as well.
        before: Another checkout of this project whose code is to run instead of this one's.
    """

    engine: str
    workers: int = 2
    audit: bool = False
    before: Path | None = None

    @property
    def name(self) -> str:
        """In tables."""
        kind = "cep" if self.before is None else "before"
        return f"{kind}{'+audit' if self.audit else ''} {self.engine}"

    def _run(self, place: Place, *words: str) -> None:
        here = Path(sys.executable)
        code = {} if self.before is None else {"PYTHONPATH": str(self.before)}
        _run([here.parent / "cep", *words], place, here, more=code)

    def start(self, place: Place) -> None:
        """`cep start`, which comes back when the endpoint is ready."""
        service = stand_in_service(lambda _request: place.registration())
        try:
            text = f"service_url: http://127.0.0.1:{service.server_address[1]}\n"
            text += "audit_log: audit.log\n" if self.audit else ""
            _write(place, text + configuration(self.engine, self.workers))
            self._run(place, "start", NAME)
        finally:
            service.shutdown()
            service.server_close()

    def stop(self, place: Place) -> None:
        """`cep stop`, and make sure of it."""
        self._run(place, "stop", "--now", NAME)
        measure.end(place.directory, GRACE_S)


@dataclass(frozen=True)
class Published:
    """The published endpoint, 2.19 or 4.19.

    Attributes:
        version: "2.19" or "4.19".
        python: The interpreter of its virtual environment.
    """

    version: str
    python: Path
    engine: str
    workers: int = 2

    @property
    def name(self) -> str:
        """In tables."""
        return f"{self.version} {self.engine}"

    def start(self, place: Place) -> None:
        """Start it with the answer of a registration on standard input."""
        program = self.python.parent / "globus-compute-endpoint"
        text = configuration(self.engine, self.workers)
        handed: dict[str, Any] = {"amqp_creds": place.registration()}
        if self.version == "2.19":
            _write(place, text)
            _run([program, "start", NAME], place, self.python, json.dumps(handed))
            return
        _write(place, "display_name: null\n")
        handed.update(config=text, ep_info={})
        child = subprocess.Popen(
            [program, "_start-user-endpoint", NAME],
            cwd=place.directory,
            env=_environment(place, self.python),
            stdin=subprocess.PIPE,
            stdout=(place.directory / "start.txt").open("w"),
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert child.stdin is not None
        child.stdin.write(json.dumps(handed))
        child.stdin.close()

    def stop(self, place: Place) -> None:
        """End every process: its own `stop` leaves blocks behind for minutes."""
        measure.end(place.directory, GRACE_S)


def _run(
    argv: list[Any],
    place: Place,
    python: Path,
    stdin: str | None = None,
    more: dict[str, str] | None = None,
) -> None:
    told = place.directory / "start.txt"
    with told.open("w") as output:
        # Daemons keep what they inherit, so no pipe that somebody waits for.
        done = subprocess.run(
            argv,
            cwd=place.directory,
            env={**_environment(place, python), **(more or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
    if done.returncode:
        raise RuntimeError(f"{argv} fails:\n{told.read_text()[-2000:]}{log_of(place)}")


def log_of(place: Place) -> str:
    """The end of what an endpoint wrote."""
    found = []
    for path in (place.directory / "start.txt", place.directory / NAME / "endpoint.log"):
        if path.exists():
            found.append(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}")
    return "\n".join(found)
