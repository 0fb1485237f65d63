"""Real schedulers other than Slurm, each on one host in a container, from Debian's packages.

Ready means: the scheduler shows a place that takes jobs.
"""

from __future__ import annotations

import os
import threading
import time

from tests.integration.slurm import ACCOUNT, START_S, UID, Cluster


class OneHost(Cluster):
    """See the module. Containers, account and commands are those of a Slurm cluster of one host."""

    profile: str
    image_name: str
    log_files: str

    def __init__(self) -> None:
        super().__init__()
        self.image = self.image_name
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
        while not self.is_ready():
            running = self.root_run("true", check=False).returncode == 0
            if not running or time.monotonic() > deadline:
                raise RuntimeError(f"{self.profile} is not ready.\n{self.logs()}")
            pause.wait(0.1)  # none of them announces it

    def is_ready(self) -> bool:
        """Whether it takes jobs."""
        raise NotImplementedError

    def living(self) -> list[str]:
        """Ids of the account's jobs that are not over."""
        raise NotImplementedError

    def logs(self) -> str:
        """What the container's first process has said, and the end of the daemons' logs."""
        said = [container.logs().decode() for container in self._containers.values()]
        tail = self.root_run("sh", "-c", f"tail -n 15 {self.log_files}", check=False)
        return "\n".join([*said, tail.stdout])


class GridEngine(OneHost):
    """Debian's gridengine-master and gridengine-exec (Son of Grid Engine 8.1.9)."""

    profile = image_name = "gridengine"
    log_files = "/var/spool/gridengine/qmaster/messages /tmp/*_messages*"

    def is_ready(self) -> bool:
        """`qhost` shows the load that the execution daemon has reported."""
        done = self.root_run("qhost", "-h", self.login, check=False)
        words = done.stdout.splitlines()[-1].split() if done.stdout.strip() else []
        return done.returncode == 0 and words[:1] == [self.login] and "-" not in words[6:7]

    def living(self) -> list[str]:
        """Ids of the account's jobs that are not over."""
        rows = self.root_run("qstat", "-u", ACCOUNT).stdout.splitlines()[2:]
        return [row.split()[0] for row in rows]


class HtCondor(OneHost):
    """Debian's minicondor (HTCondor 23.9)."""

    profile = image_name = "htcondor"
    log_files = "/var/log/condor/*Log"

    def is_ready(self) -> bool:
        """The collector knows a slot, and a scheduler that takes jobs."""
        slots = self.root_run("condor_status", "-af", "Name", check=False)
        schedd = self.root_run("condor_status", "-schedd", "-af", "Name", check=False)
        return bool(slots.stdout.strip() and schedd.stdout.strip())

    def living(self) -> list[str]:
        """Ids of the account's jobs that are not over (4) or removed (3)."""
        words = ("-constraint", "JobStatus != 3 && JobStatus != 4", "-af:j", "JobStatus")
        rows = self.root_run("condor_q", ACCOUNT, *words).stdout.splitlines()
        return [row.split()[0] for row in rows]
