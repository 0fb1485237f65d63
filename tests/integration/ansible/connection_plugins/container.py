"""Ansible's way into a test container: `docker exec`, with pipelining, as root.

The published plugin of that kind is in a collection that no package index has by itself.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: container
short_description: Run in a container
description: Run in a container by docker exec.
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


class Connection(ConnectionBase):  # type: ignore[misc]
    """See the module."""

    transport = "container"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _run(self, argv: list[str], data: bytes | None) -> tuple[int, bytes, bytes]:
        container = self.get_option("remote_addr")
        done = subprocess.run(
            ["docker", "exec", "-i", container, *argv],
            check=False,
            input=data if data is not None else b"",
            capture_output=True,
        )
        return done.returncode, done.stdout, done.stderr

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command; what it needs of become is in it already."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        return self._run(["/bin/sh", "-c", cmd], in_data)

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file into the container."""
        super().put_file(in_path, out_path)
        words = f"cat > {shlex.quote(out_path)}"
        code, _, err = self._run(["/bin/sh", "-c", words], Path(in_path).read_bytes())
        if code != 0:
            raise AnsibleConnectionFailure(f"{out_path}: {err.decode()}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file out of the container."""
        super().fetch_file(in_path, out_path)
        code, out, err = self._run(["cat", in_path], None)
        if code != 0:
            raise AnsibleConnectionFailure(f"{in_path}: {err.decode()}")
        Path(out_path).write_bytes(out)

    def close(self) -> Any:
        """Nothing stays open."""
        self._connected = False
