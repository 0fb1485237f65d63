"""A real Slurm cluster in containers: one host for everything, or a login node and compute nodes.

As a site has it: each host has its own address on a network that the test made, one munge key, the
same ordinary account everywhere, and a shared `/home`; `/opt`, `/var` and `/tmp` are each host's
own. Ready means: `sinfo` shows every node idle. What runs as the account runs with the bare
environment of a service unless a login shell is asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.integration import docker_engine

ACCOUNT = "researcher"
UID = 1500
HOME = f"/home/{ACCOUNT}"
# Limits for a machine that others keep busy; on a quiet one all of it takes seconds.
START_S = 180.0
LONGEST_S = 400.0  # for one command
# What a service manager gives: no login shell, no modules, hardly a PATH.
SERVICE_ENVIRONMENT = {"HOME": HOME, "USER": ACCOUNT, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

# MinJobAge: what a test asks after must still be known, however long the machine takes.
_SLURM_CONF = """\
ClusterName=cluster
SlurmctldHost={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmdParameters=config_overrides
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SchedulerParameters=sched_interval=1,bf_interval=1
OverTimeLimit=0
SlurmdTimeout={node_timeout_s}
KillWait=2
MinJobAge=3600
{accounting}
NodeName={nodes} CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes={open_nodes} Default=YES MaxTime=30 State=UP
PartitionName=long Nodes={open_nodes} Default=NO MaxTime=UNLIMITED State=UP
"""
_APART = "PartitionName=apart Nodes={nodes} Default=NO MaxTime=30 State=UP\n"
_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageEnforce=associations
JobAcctGatherType=jobacct_gather/linux"""
_SLURMDBD_CONF = """\
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm_acct
LogFile=/var/log/slurm/slurmdbd.log
"""


class Cluster:
    """See the module. Use it with `with`.

    Args:
        nodes: Number of compute nodes beside a login node without slurmd; 0 makes one host that
            is everything.
        accounting: Run slurmdbd on a database, so that `sacct` answers, and refuse unknown
            accounts.
        cpus: Processors that Slurm believes each node has.
        node_timeout_s: After how long a silent node counts as down.
        apart: Nodes in a partition of their own, `apart`, and in no other: no job gets there that
            does not ask for it, so a test may take such a node's power beside others.
    """

    def __init__(
        self,
        *,
        nodes: int = 0,
        accounting: bool = False,
        cpus: int = 2,
        node_timeout_s: int = 300,
        apart: Sequence[str] = (),
    ) -> None:
        self.accounting = accounting
        self.image = "slurm-accounting" if accounting else "slurm"
        self.login = "login" if nodes else "localhost"
        self.nodes = [f"c{number}" for number in range(1, nodes + 1)] or [self.login]
        self.cpus = cpus
        self.node_timeout_s = node_timeout_s
        self.apart = tuple(apart)
        self.root = Path(tempfile.mkdtemp(prefix="cep-slurm-", dir="/tmp"))
        self.home = self.root / "home"
        self._containers: dict[str, Any] = {}
        self._powerless: set[str] = set()
        self._network: Any = None
        self._engine: Any = None

    def __enter__(self) -> Cluster:
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
        if kind is not None:
            print(self.logs())
        self._remove()

    # --- life -------------------------------------------------------------------------------------

    def _start(self) -> None:
        image = docker_engine.ensure_image(self.image)
        self._engine = docker_engine.client()
        self._write_shared()
        # Not an internal one: without a default route slurmctld takes ten seconds to start. A host
        # alone gets a network too, since Slurm resolves no name where there is only loopback.
        self._network = self._engine.networks.create(
            f"cep-slurm-{secrets.token_hex(4)}",
            driver="bridge",
            labels=docker_engine.session_labels(),
        )
        roles = "database controller" if self.accounting else "controller"
        if self.nodes == [self.login]:
            self._run(image, self.login, f"{roles} node")
        else:
            self._run(image, self.login, roles)
            for node in self.nodes:
                self._run(image, node, "node")
            self._write_hosts()
        self._wait_idle()

    def _write_shared(self) -> None:
        shared = self.root / "cluster"
        shared.mkdir()
        (shared / "munge.key").write_bytes(secrets.token_bytes(128))
        text = _SLURM_CONF.format(
            controller=self.login,
            nodes=",".join(self.nodes),
            open_nodes=",".join(node for node in self.nodes if node not in self.apart),
            cpus=self.cpus,
            node_timeout_s=self.node_timeout_s,
            accounting=_ACCOUNTING if self.accounting else "",
        )
        if self.apart:
            text += _APART.format(nodes=",".join(self.apart))
        (shared / "slurm.conf").write_text(text)
        (shared / "slurmdbd.conf").write_text(_SLURMDBD_CONF)
        account = self.home / ACCOUNT
        account.mkdir(parents=True)
        account.chmod(0o755)
        os.chown(account, UID, UID)
        self.root.chmod(0o755)

    def _run(self, image: str, host: str, roles: str) -> None:
        self._containers[host] = self._engine.containers.run(
            image,
            detach=True,
            hostname=host,
            name=f"cep-{host}-{secrets.token_hex(4)}",
            environment={"ROLES": roles},
            labels=docker_engine.session_labels(),
            network=self._network.name,
            networking_config=self._aliases(host),
            volumes={
                str(self.root / "cluster"): {"bind": "/etc/cluster", "mode": "ro"},
                str(self.home): {"bind": "/home", "mode": "rw"},
            },
        )

    def _aliases(self, host: str) -> dict[str, Any]:
        return {self._network.name: self._engine.api.create_endpoint_config(aliases=[host])}

    def _write_hosts(self) -> None:
        """Give each host all names: a node without power keeps its name, as it does at a site.

        The engine's own resolver forgets a stopped container, and slurmctld, which asks again ten
        times a second apart for an unknown name, answers nobody meanwhile.
        """
        lines = "".join(f"{self.address_of(host)} {host}\n" for host in self._containers)
        for host in self._containers:
            self.root_run("sh", "-c", 'printf %s "$0" >> /etc/hosts', lines, host=host)

    def _wait_idle(self) -> None:
        wanted = {f"{node} idle" for node in self.nodes}
        deadline = time.monotonic() + START_S
        pause = threading.Event()
        while True:
            done = self.root_run("sinfo", "-h", "-N", "-o", "%N %T", check=False)
            if done.returncode == 0 and set(done.stdout.splitlines()) == wanted:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"Slurm is not idle: {done.stdout}{done.stderr}\n{self.logs()}")
            pause.wait(0.1)  # Slurm announces nothing

    def _remove(self) -> None:
        for container in self._containers.values():
            with contextlib.suppress(Exception):
                docker_engine.remove_container(container)
        if self._network is not None:
            with contextlib.suppress(Exception):
                self._network.remove()
        if self._engine is not None:
            self._engine.close()
        shutil.rmtree(self.root, ignore_errors=True)

    # --- commands ---------------------------------------------------------------------------------

    def root_run(
        self, *argv: str, host: str = "", check: bool = True, timeout_s: float = LONGEST_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root on a host (default: the login node)."""
        return self._exec(host or self.login, [], argv, check=check, timeout_s=timeout_s)

    def run(
        self,
        *argv: str | os.PathLike[str],
        host: str = "",
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout_s: float = LONGEST_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the account, with a service's environment and `env` on top."""
        variables = {**SERVICE_ENVIRONMENT, **(env or {})}
        words = [os.fspath(word) for word in argv]
        bare = ["env", "-i", *(f"{name}={value}" for name, value in variables.items()), *words]
        options = ["--user", ACCOUNT, "--workdir", HOME]
        return self._exec(host or self.login, options, bare, check=check, timeout_s=timeout_s)

    def shell(
        self, script: str, *, host: str = "", check: bool = True, timeout_s: float = LONGEST_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in a login shell of the account, as after ssh."""
        options = ["--user", ACCOUNT, "--workdir", HOME, "--env", f"HOME={HOME}"]
        return self._exec(
            host or self.login, options, ["bash", "-lc", script], check=check, timeout_s=timeout_s
        )

    def _exec(
        self,
        host: str,
        options: Sequence[str],
        argv: Sequence[str],
        *,
        check: bool,
        timeout_s: float,
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["docker", "exec", *options, self._containers[host].id, *argv],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"{shlex.join(argv)} on {host} ended with {done.returncode}.\n"
                f"{done.stdout}\n{done.stderr}\n{self.logs()}",
                pytrace=False,
            )
        return done

    def jobs(self) -> list[dict[str, Any]]:
        """Jobs that the controller knows and that have not ended."""
        found = json.loads(self.root_run("squeue", "--json").stdout)["jobs"]
        return [
            job for job in found if set(job["job_state"]) & {"PENDING", "RUNNING", "COMPLETING"}
        ]

    def address_of(self, host: str) -> str:
        """A host's address on the cluster's network."""
        container = self._containers[host]
        container.reload()
        networks = container.attrs["NetworkSettings"]["Networks"]
        return str(networks[self._network.name]["IPAddress"])

    def power_off(self, node: str) -> None:
        """Take a node away as a power cut would: nobody hears a last word of it."""
        container = self._containers[node]
        self._powerless.add(node)
        self._network.disconnect(container)
        container.kill()

    def logs(self) -> str:
        """The end of the logs of Slurm's daemons on each host that has power."""
        told = []
        for host in self._containers:
            if host in self._powerless:
                told.append(f"--- {host}: without power")
                continue
            done = self.root_run(
                "sh", "-c", "tail -n 15 /var/log/slurm/*.log", host=host, check=False
            )
            told.append(f"--- {host}\n{done.stdout}{done.stderr}")
        return "\n".join(told)
