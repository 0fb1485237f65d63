"""What a user might pick instead, on the same machine: Celery, dramatiq, Dask, and Parsl alone.

Each has its own client, which is part of what is measured: for Celery that client is the limit.
Celery and dramatiq use the same broker as the endpoints. All have two workers. What differs:
dramatiq keeps no results; Dask and Parsl keep nothing on a disk and have no broker.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import measure
from benchmarks.side_by_side.session import Figures

PROGRAMS = Path(__file__).parent / "peer_programs"
LIMIT_S = 300


@dataclass(frozen=True)
class Peer:
    """One program.

    Attributes:
        name: In tables.
        program: Module in `peer_programs`.
        python: Interpreter that has its library.
        instead_of: The engine of ours beside which it stands.
        worker: Words after the interpreter that start its workers; empty when the client does.
    """

    name: str
    program: str
    python: Path
    instead_of: str
    worker: tuple[str, ...] = ()


def peers(python: Path) -> list[Peer]:
    """All of them.

    Args:
        python: Interpreter of the environment with Celery, dramatiq and Dask.
    """
    options = "--pool prefork --concurrency 2 --without-gossip --without-mingle --without-heartbeat"
    celery = f"-m celery -A celery_app worker --loglevel ERROR {options}"
    dramatiq = "-m dramatiq dramatiq_app --processes 2 --threads 1"
    return [
        Peer(
            "Celery prefork, rpc results", "celery_app", python, "processes", tuple(celery.split())
        ),
        Peer("dramatiq, no results", "dramatiq_app", python, "processes", tuple(dramatiq.split())),
        Peer("Dask LocalCluster", "dask_app", python, "gce"),
        Peer("Parsl HTEX alone", "parsl_app", Path(sys.executable), "gce"),
    ]


def measure_peer(peer: Peer, url: str, directory: Path, count: int, singles: int) -> Figures:
    """Run its workers and its client once.

    Raises:
        RuntimeError: It fails; the text has the end of what it wrote.
    """
    directory.mkdir(mode=0o700)
    environment = {
        **os.environ,
        "PATH": f"{peer.python.parent}:{os.environ.get('PATH', '')}",
        "PEER_URL": f"{url}/" if peer.program == "celery_app" else url,  # "//": the vhost "/"
        "PEER_QUEUE": f"peer-{uuid.uuid4()}",
        "PEER_DIRECTORY": str(directory),
        "SPT_NOENV": "1",
        measure.MARK: str(directory),
    }
    log = directory / "peer.log"
    common: dict[str, Any] = {"cwd": PROGRAMS, "env": environment, "stdin": subprocess.DEVNULL}
    try:
        with log.open("w") as output:
            if peer.worker:
                command = [peer.python, *peer.worker]
                subprocess.Popen(command, stdout=output, stderr=output, **common)
            done = subprocess.run(
                [peer.python, f"{peer.program}.py", str(count), str(singles)],
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                check=False,
                timeout=LIMIT_S,
                **common,
            )
        if done.returncode:
            raise RuntimeError(f"{peer.name} fails:\n{log.read_text()[-2000:]}")
        return dict(json.loads(done.stdout.splitlines()[-1]))
    finally:
        measure.end(directory, 3.0)
        shutil.rmtree(directory, ignore_errors=True)
