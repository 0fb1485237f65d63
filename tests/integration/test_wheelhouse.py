"""A real wheelhouse: built for this Python, checked, and installed from with no package index."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration import venvs
from tools import wheelhouse
from tools.wheelhouse_check import check


def test_an_installation_comes_from_the_file_alone(tmp_path: Path) -> None:
    base = getattr(sys, "_base_executable", sys.executable)
    python = "{}.{}".format(*sys.version_info[:2])
    made = wheelhouse.build(python, os.uname().machine, tmp_path, cache=venvs.CACHE)
    check(made, python=python, arch=os.uname().machine)
    subprocess.run(["tar", "-xf", made, "-C", tmp_path], check=True)
    top = made.with_suffix("")
    subprocess.run([base, "-m", "venv", tmp_path / "venv"], check=True)
    words = ["install", "-q", "--no-index", "--find-links", "wheels", "--require-hashes"]
    # No index, no proxy, no settings of the account: what is not in the file is not there.
    environment = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull}
    bin_ = tmp_path / "venv" / "bin"
    subprocess.run(
        [bin_ / "pip", *words, "-r", "constraints.txt"], cwd=top, env=environment, check=True
    )
    version = (top / "manifest.json").read_text().split('"version": "')[1].split('"')[0]
    said = subprocess.run(
        [bin_ / "cep", "version"], env=environment, check=True, capture_output=True, text=True
    )
    assert said.stdout == f"Globus Compute endpoint version: {version}\n"
    hub = subprocess.run([bin_ / "cep", "hub", "serve", "--help"], env=environment, check=False)
    assert hub.returncode == 0
    checked = subprocess.run([bin_ / "pip", "check"], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
