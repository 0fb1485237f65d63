"""The collection's molecule scenario, for those who change the collection. LONG=1 only."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from pathlib import Path

import pytest

from tests.integration import docker_engine, molecule
from tests.integration.ansible_host import COLLECTION
from tests.integration.faults.settings import LONG

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

if LONG:

    def test_the_molecule_scenario_passes(docker_engine: None, tmp_path: Path) -> None:
        del docker_engine
        host = f"cep-molecule-{secrets.token_hex(4)}"
        given = {**molecule.environment(tmp_path), "CEP_MOLECULE_HOST": host, **_label()}
        done = subprocess.run(
            molecule.command("test"),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=COLLECTION,
            env={**os.environ, **given},
        )
        said = _COLOURS.sub("", done.stdout)
        assert done.returncode == 0, said
        for step in ("create", "converge", "idempotence", "verify", "destroy"):
            assert f"default ➜ {step}: Executed: Successful" in said, said
        left = subprocess.run(
            ["docker", "ps", "--all", "--quiet", "--filter", f"name={host}"],
            check=True,
            capture_output=True,
            text=True,
        )
        assert left.stdout == ""


def _label() -> dict[str, str]:
    """What marks the scenario's container as this test process's."""
    ((name, value),) = docker_engine.session_labels().items()
    return {"CEP_MOLECULE_LABEL": f"{name}={value}"}
