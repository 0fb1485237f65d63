"""Ansible's way into a test container, with pipelining, as root: like `docker exec`, and faster.

A play enters the host for each of its tasks, and the engine takes longer to do that than most tasks
take. So where the container's processes are this machine's own, its namespaces are entered
directly; elsewhere the engine is asked. The published plugin of that kind is in a collection that
no package index has by itself.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: container
short_description: Run in a container
description: Run in a container, in its namespaces or by docker exec.
author: cep
options:
  remote_addr:
    description: The container.
    default: inventory_hostname
    vars:
      - name: ansible_host
  remote_user:
    description: Always root.
    default: root
"""

_ENGINE = Path("/var/run/docker.sock")
# What docker exec gives in the tests' images.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
# Systemd takes no process seriously that is in none of its control groups: so join one, then enter.
_ENTER = 'echo $$ > "$1" && exec nsenter --target "$2" --all sh -c "$3"'


class _Engine(http.client.HTTPConnection):
    """The engine's HTTP interface on its socket."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(_ENGINE))


def _place(container: str) -> tuple[str, str] | None:
    """Where a container's first process is: the file of its control group, and its number.

    Nothing where it is on another machine, or where this account may not enter.
    """
    if os.environ.get("DOCKER_HOST") or os.geteuid() != 0 or shutil.which("nsenter") is None:
        return None
    engine = _Engine("localhost")
    try:
        engine.request("GET", f"/containers/{container}/json")
        found = json.loads(engine.getresponse().read())
        number = str(found["State"]["Pid"])
        groups = Path("/proc", number, "cgroup").read_text()
        (tree,) = (
            line.split()[1]
            for line in Path("/proc/mounts").read_text().splitlines()
            if line.split()[2] == "cgroup2"
        )
        (group,) = (line[3:] for line in groups.splitlines() if line.startswith("0::"))
    except (OSError, http.client.HTTPException, KeyError, ValueError):
        return None
    finally:
        engine.close()
    file = Path(f"{tree}{group}", "cgroup.procs")
    # An engine in a virtual machine has a socket here and its processes elsewhere.
    return (str(file), number) if found["Id"] in group and file.exists() else None


class Connection(ConnectionBase):  # type: ignore[misc]
    """See the module."""

    transport = "container"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _run(self, line: str, data: bytes | None) -> tuple[int, bytes, bytes]:
        """Run a line of a shell."""
        container = self.get_option("remote_addr")
        place = _place(container)
        if place is None:
            argv, environment = ["docker", "exec", "-i", container, "/bin/sh", "-c", line], None
        else:
            argv, environment = ["sh", "-c", _ENTER, "sh", *place, line], _ENVIRONMENT
        done = subprocess.run(
            argv,
            check=False,
            input=data if data is not None else b"",
            capture_output=True,
            env=environment,
        )
        return done.returncode, done.stdout, done.stderr

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command; what it needs of become is in it already."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._run(cmd, in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the container."""
        super().put_file(in_path, out_path)
        words = f"cat > {shlex.quote(out_path)}"
        code, _, err = self._run(words, Path(in_path).read_bytes())
        if code != 0:
            raise AnsibleConnectionFailure(f"{out_path}: {err.decode()}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file out of the container."""
        super().fetch_file(in_path, out_path)
        code, out, err = self._run(f"cat {shlex.quote(in_path)}", None)
        if code != 0:
            raise AnsibleConnectionFailure(f"{in_path}: {err.decode()}")
        Path(out_path).write_bytes(out)

    def close(self) -> Any:
        """Nothing stays open."""
        self._connected = False
