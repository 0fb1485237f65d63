"""The collection on the login node of a Slurm cluster whose nodes share only /home. LONG=1 only.

The software is on the shared tree (`cep_worker_root`), the link and the hub are the login node's.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration import docker_engine, venvs, wheelhouses
from tests.integration.ansible_host import CURRENT, Controller
from tests.integration.faults.settings import LONG
from tests.integration.scene import SDK_CLIENT, exports, until
from tests.integration.slurm import HOME, Cluster
from tests.integration.wheelhouses import VERSION

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

SOFTWARE = "/home/software"


class SystemdCluster(Cluster):
    """A cluster whose login node is run by systemd; the nodes share only `/home` with it."""

    def _run(self, image: str, host: str, roles: str) -> None:
        if host != self.login:
            super()._run(image, host, roles)
            return
        self._containers[host] = self._engine.containers.run(
            docker_engine.ensure_image("slurm-systemd"),
            detach=True,
            hostname=host,
            name=f"cep-{host}-{self.root.name}",
            labels=docker_engine.session_labels(),
            cap_add=["SYS_ADMIN"],
            cgroupns="private",
            tmpfs={"/run": "", "/run/lock": ""},
            network=self._network.name,
            networking_config=self._aliases(host),
            volumes={
                str(self.root / "cluster"): {"bind": "/etc/cluster", "mode": "ro"},
                str(self.home): {"bind": "/home", "mode": "rw"},
            },
        )

    @property
    def login_container(self) -> str:
        """The name of the login node's container."""
        return str(self._containers[self.login].name)

    def functions(self, *words: str) -> Any:
        """Run functions through the official SDK on the login node."""
        client = exports(self.root_run("cat", "/etc/cep/hub-clients/tests.env").stdout)
        local = {
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": "http://localhost:5000/",
        }
        done = self.run(f"{CURRENT}/python3", f"{HOME}/sdk.py", *words, env={**local, **client})
        return json.loads(done.stdout.splitlines()[-1])


def roll_out(controller: Controller, cluster: SystemdCluster, file: Path, **more: Any) -> str:
    """Run the site's playbook on the login node; returns what it said."""
    where = {
        "ansible_connection": "container",
        "ansible_host": cluster.login_container,
        "ansible_python_interpreter": "/usr/bin/python3",
        "cep_version": VERSION,
        "cep_wheelhouse": str(file),
        "cep_worker_root": SOFTWARE,
        "cep_service_url": "http://localhost:5000",
        "cep_hub_clients": ["tests"],
        **more,
    }
    groups = {"cep_hubs": {"hosts": {"login": where}}, "cep_endpoints": {"hosts": {"login": where}}}
    done = controller.play("site", {"all": {"children": groups}}, "--diff")
    assert done.good, done.text
    return done.text


if LONG:

    def test_functions_run_in_batch_jobs_of_an_endpoint_that_only_ansible_touched(
        docker_engine: None, tmp_path: Path
    ) -> None:
        del docker_engine
        controller = Controller(venvs.ansible_python(), tmp_path)
        collection = controller.install_collection()
        file = wheelhouses.make("slurm", tmp_path / "wheelhouses", collection)[VERSION]
        with SystemdCluster(nodes=2) as cluster:
            target = ["docker", "cp", str(SDK_CLIENT), f"{cluster.login_container}:{HOME}/sdk.py"]
            subprocess.run(target, check=True)
            roll_out(controller, cluster, file)
            client = exports(cluster.root_run("cat", "/etc/cep/hub-clients/tests.env").stdout)
            endpoint = {
                "name": "batch",
                "user": "researcher",
                "profile": "slurm",
                "vars": {"partition": "debug", "state_dir": "/var/lib/cep-batch"},
                "local_dirs": ["/var/lib/cep-batch"],
                "client_id": client["GLOBUS_COMPUTE_CLIENT_ID"],
                "client_secret": client["GLOBUS_COMPUTE_CLIENT_SECRET"],
            }
            said = roll_out(controller, cluster, file, cep_endpoints=[endpoint])
            assert client["GLOBUS_COMPUTE_CLIENT_SECRET"] not in said
            path = f"{HOME}/.globus_compute/batch/endpoint.json"
            endpoint_id = json.loads(cluster.root_run("cat", path).stdout)["endpoint_id"]
            assert cluster.functions("many", endpoint_id, "5")["right"]
            assert set(cluster.functions("hosts", endpoint_id, "4")["hosts"]) <= {"c1", "c2"}
            unit = "globus-compute-endpoint-batch.service"
            shown = cluster.root_run("systemctl", "cat", unit).stdout
            assert "MemoryMax=1G" in shown and "TasksMax=512" in shown
            assert f"{SOFTWARE}/releases/{VERSION}/bin/cep" in shown
            roll_out(controller, cluster, file, cep_endpoints=[{**endpoint, "state": "absent"}])
            until(lambda: not cluster.jobs(), within_s=120, what="the batch jobs have ended")
