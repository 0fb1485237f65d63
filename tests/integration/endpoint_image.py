"""The image of docker/Dockerfile, built from the present sources as a site without network does.

The base is the test image `python`, the libraries come as a wheelhouse, and the build itself has no
network. Built once for a state of the sources and found by its tag; also for workers of another
endpoint, since it has all that a worker needs. `python -m tests.integration.images` builds it
ahead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.integration import docker_engine, image_python, venvs

BASE = "python"
_SOURCES = ("cep", "templates", "docker", "pyproject.toml", "README.md", "constraints")
_BUILD_S = 600.0


def ensure() -> str:
    """Have the image; return its tag.

    Raises:
        RuntimeError: It does not build; the text is the end of the build's output.
    """
    base = docker_engine.ensure_image(BASE)
    tag = f"cep-test-endpoint:{venvs.key(base, _digest())}"
    with venvs.locked("image-endpoint"):
        if not docker_engine.has_image(tag):
            _build(base, tag)
    return tag


def _digest() -> str:
    digest = hashlib.sha256()
    for name in _SOURCES:
        root = venvs.PROJECT / name
        for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(venvs.PROJECT)}\0".encode())
                digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _build(base: str, tag: str) -> None:
    with tempfile.TemporaryDirectory(prefix="cep-image-") as directory:
        context = Path(directory)
        for name in ("docker", "constraints"):
            shutil.copytree(venvs.PROJECT / name, context / name)
        shutil.copy(venvs.PROJECT / ".dockerignore", context)
        shutil.copytree(image_python.wheels(BASE), context / "wheelhouse")
        venvs.own_wheel(context / "dist")
        done = subprocess.run(
            [
                *("docker", "build", "--quiet", "--network", "none", "--build-arg"),
                *(f"BASE={base}", "--file", str(context / "docker" / "Dockerfile")),
                *("--tag", tag, str(context)),
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BUILD_S,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
        )
    if done.returncode != 0:
        raise RuntimeError(f"The image of the endpoint does not build:\n{done.stdout[-3000:]}")
