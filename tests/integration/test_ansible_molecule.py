"""The collection's molecule scenario, for those who change the collection. LONG=1 only."""

from __future__ import annotations

import os
import secrets
import subprocess
from pathlib import Path

import pytest

from tests.integration import docker_engine, molecule
from tests.integration.ansible_host import COLLECTION
from tests.integration.faults.settings import LONG

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3600)]

if LONG:

    def test_the_molecule_scenario_passes(docker_engine: None, tmp_path: Path) -> None:
        del docker_engine
        host = f"cep-molecule-{secrets.token_hex(4)}"
        given = {**molecule.environment(tmp_path), "CEP_MOLECULE_HOST": host, **_label()}
        given["NO_COLOR"] = "1"  # with colours it puts other signs between the words
        done = subprocess.run(
            molecule.command("test"),
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=COLLECTION,
            env={**os.environ, **given},
        )
        assert done.returncode == 0, done.stdout
        for step in ("create", "converge", "idempotence", "verify", "destroy"):
            assert f"[default > {step}] Executed: Successful" in done.stdout, done.stdout
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
