"""A real Grid Engine on one host, in a container: Debian's gridengine-master and gridengine-exec.

Ready means: `qhost` shows the load that the execution daemon has reported.
"""

from __future__ import annotations

import os
import threading
import time

from tests.integration.slurm import ACCOUNT, START_S, UID, Cluster


class GridEngine(Cluster):
    """See the module. Containers, account and commands are those of a Slurm cluster of one host."""

    def __init__(self) -> None:
        super().__init__()
        self.image = "gridengine"
        self.login = "master"
        self.nodes = [self.login]

    def _write_shared(self) -> None:
        (self.root / "cluster").mkdir()
        account = self.home / ACCOUNT
        account.mkdir(parents=True)
        account.chmod(0o755)
        os.chown(account, UID, UID)
        self.root.chmod(0o755)

    def _wait_idle(self) -> None:
        deadline = time.monotonic() + START_S
        pause = threading.Event()
        while True:
            done = self.root_run("qhost", "-h", self.login, check=False)
            words = done.stdout.splitlines()[-1].split() if done.stdout.strip() else []
            if done.returncode == 0 and words[:1] == [self.login] and "-" not in words[6:7]:
                return
            ended = "is not running" in done.stderr  # the container's first process has failed
            if ended or time.monotonic() > deadline:
                raise RuntimeError(
                    f"Grid Engine is not ready: {done.stdout}{done.stderr}\n{self.logs()}"
                )
            pause.wait(0.1)  # Grid Engine announces nothing

    def living(self) -> list[str]:
        """Ids of the account's jobs that are not over."""
        rows = self.root_run("qstat", "-u", ACCOUNT).stdout.splitlines()[2:]
        return [row.split()[0] for row in rows]

    def logs(self) -> str:
        """What the containers' first processes have said, and the end of the daemons' logs."""
        said = [container.logs().decode() for container in self._containers.values()]
        words = "tail -n 15 /var/spool/gridengine/qmaster/messages /tmp/*_messages*"
        return "\n".join([*said, self.root_run("sh", "-c", words, check=False).stdout])
