"""Record what the schedulers of the test images say when a site is surveyed.

Usage: python -m tests.integration.record_detection
Writes tests/unit/scheduler_outputs/detect/*.json; run it after a change of the commands that
`cep.profiles.detect` asks, or of the images.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from cep.profiles.detect import host, network, pbs, slurm
from cep.profiles.detect.commands import Answer
from tests.integration.slurm import ACCOUNT, Cluster
from tests.unit.detect_playback import FOLDER


class Recorder:
    """Asks a cluster's login node, as the account, and keeps what it says."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.user = ACCOUNT
        self.commands: dict[str, Any] = {}
        self.there: list[str] = []

    def which(self, name: str) -> str | None:
        """Where a command is."""
        done = self.cluster.run("sh", "-c", 'command -v "$1"', "sh", name, check=False)
        if done.returncode == 0 and name not in self.there:
            self.there.append(name)
        return done.stdout.strip() or None

    def ask(self, *argv: str) -> Answer:
        """Run a command and keep its answer."""
        done = self.cluster.run(*argv, check=False)
        said = {"code": done.returncode, "out": done.stdout, "err": done.stderr}
        self.commands[shlex.join(argv)] = said
        return Answer(argv, done.stdout, done.stderr, done.returncode)

    def keep(self, name: str, source: str) -> None:
        """Write the file."""
        content = {"source": source, "which": self.there, "commands": self.commands}
        (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def record(cluster: Cluster, name: str, what: str) -> None:
    """Survey a cluster's schedulers, network and modules."""
    recorder = Recorder(cluster)
    found = slurm.find(recorder)
    assert found is not None
    pbs.find(recorder, found)
    network.ways(recorder, found.nodes)
    host.modules(recorder, {}, ("/usr/share/modules/init/bash",))
    recorder.keep(name, f"recorded: {found.version}, {what}")


def main() -> None:
    """Record all clusters."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with Cluster(nodes=2) as cluster:
        record(cluster, "slurm-24.11", "a login node and two nodes, without accounting")
    with Cluster(accounting=True) as cluster:
        record(cluster, "slurm-22.05-accounting", "one host with slurmdbd, one account")
        cluster.root_run("sacctmgr", "-i", "add", "account", "second")
        cluster.root_run("sacctmgr", "-i", "add", "user", ACCOUNT, "account=second")
        record(cluster, "slurm-22.05-two-accounts", "one host with slurmdbd, two accounts")


if __name__ == "__main__":
    main()
