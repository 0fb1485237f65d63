"""Run the collection's molecule scenario: `python -m tests.integration.molecule WORD...`.

molecule is given what the scenario asks for by environment variables: the image of a host run by
systemd, a wheelhouse of the present sources for its Python, and the collection, installed from its
own file. What it keeps between `converge`, `verify` and `destroy` is in `.cache/molecule`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.integration import docker_engine, venvs, wheelhouses
from tests.integration.ansible_host import COLLECTION, Controller
from tests.integration.wheelhouses import VERSION

IMAGE = "systemd"
KEPT = venvs.CACHE / "molecule"


def environment(root: Path) -> dict[str, str]:
    """Make what the scenario needs below `root`; return the variables that molecule takes."""
    docker_engine.ensure_engine()
    controller = Controller(venvs.molecule_python(), root)
    shutil.rmtree(root / "made", ignore_errors=True)
    shutil.rmtree(root / "wheelhouses", ignore_errors=True)
    collection = controller.install_collection()
    made = wheelhouses.make(IMAGE, root / "wheelhouses", collection, versions=(VERSION,))
    return {
        **controller.environment,
        "MOLECULE_EPHEMERAL_DIRECTORY": str(root / "molecule"),
        "CEP_MOLECULE_IMAGE": docker_engine.image_tag(IMAGE),
        "CEP_MOLECULE_WHEELHOUSE": str(made[VERSION]),
    }


def command(*words: str) -> list[str]:
    """The command line of molecule."""
    return [str(venvs.molecule_python().with_name("molecule")), *words]


def main(words: list[str]) -> int:
    """Prepare, and run molecule where the collection is."""
    KEPT.mkdir(parents=True, exist_ok=True)
    given: Mapping[str, str] = environment(KEPT)
    return subprocess.run(
        command(*words), check=False, cwd=COLLECTION, env={**os.environ, **given}
    ).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
