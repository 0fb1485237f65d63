"""A Slurm site with cep installed for the account, a hub on the login node, and the official SDK.

Everything runs inside the cluster as the ordinary account, with the bare environment of a service;
so `localhost:5000`, the one address the SDK knows, is the login node's own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration import image_python
from tests.integration.scene import SDK_CLIENT, exports
from tests.integration.slurm import HOME, LONGEST_S, UID, Cluster

INSTALLATION = f"{HOME}/cep"
CEP = f"{INSTALLATION}/bin/cep"
PYTHON = f"{INSTALLATION}/bin/python3"


class SlurmSite:
    """See the module. The cluster must be up; `serve` starts the hub.

    Attributes:
        cluster: The hosts.
        home: The account's home directory, as this host sees it.
        environment: What `hub env` printed, on top of a service's environment.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.home = cluster.home / Path(HOME).name
        self.environment: dict[str, str] = {}

    def install(self) -> None:
        """Install the present sources in the account's home, as `python3 -m venv` and pip do."""
        image_python.install(self.cluster.image, INSTALLATION, self.home, uid=UID)
        self._own(shutil.copy(SDK_CLIENT, self.home / SDK_CLIENT.name))

    def serve(self) -> None:
        """Start the hub on the login node and take over what `hub env` prints."""
        self.cep("hub", "serve", "--detach")
        self.environment.update(exports(self.cep("hub", "env").stdout))

    def cep(
        self, *words: str, check: bool = True, timeout_s: float = LONGEST_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a cep command on the login node; unless `check` is false, it must succeed."""
        return self.cluster.run(CEP, *words, env=self.environment, check=check, timeout_s=timeout_s)

    def write(self, path: str, text: str) -> None:
        """Write a file of the account, below its home."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        self._own(file)

    def _own(self, path: str | os.PathLike[str]) -> None:
        os.chown(path, UID, UID)

    def directory(self, name: str) -> Path:
        """An endpoint's directory, as this host sees it."""
        return self.home / ".globus_compute" / name

    def start(self, name: str) -> str:
        """Start an endpoint; return its ID."""
        said = self.cep("start", name).stdout
        found = re.search(r"^Starting endpoint; registered ID: ([0-9a-f-]{36})$", said, re.M)
        assert found, said
        return found.group(1)

    @contextmanager
    def running(self, name: str) -> Iterator[str]:
        """A started endpoint for the length of a block; yields its ID."""
        endpoint_id = self.start(name)
        try:
            yield endpoint_id
        except BaseException:
            print(self.log(name))
            raise
        finally:
            self.cep("stop", name)

    def log(self, name: str, lines: int = 60) -> str:
        """The end of an endpoint's log."""
        text = (self.directory(name) / "endpoint.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def sdk(self, *words: str, timeout_s: float = LONGEST_S) -> Any:
        """Run `sdk_client.py` on the login node; return what it told as JSON."""
        done = self.cluster.run(
            PYTHON, SDK_CLIENT.name, *words, env=self.environment, check=False, timeout_s=timeout_s
        )
        if done.returncode != 0:
            pytest.fail(f"The SDK's script failed.\n{done.stdout}\n{done.stderr}", pytrace=False)
        return json.loads(done.stdout.splitlines()[-1])
