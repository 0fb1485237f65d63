"""Wheelhouses as an air-gapped site gets them, for the Python of a test image.

The libraries come from the image's own pip once and are kept in `.cache/`; our wheel is built from
the present sources. The second one is the same with a later version, for upgrades.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.integration import docker_engine, image_python, venvs

#: The version of the sources' wheel, and of the one that stands for the next release.
VERSION = "0.1.0"
LATER = "0.1.1"
_SUMS, _CONSTRAINTS = "SHA256SUMS", "constraints.txt"
_SOURCES = ("cep", "templates", "pyproject.toml", "README.md", "LICENSE")


def make(image: str, target: Path) -> dict[str, Path]:
    """Make a wheelhouse (a file) for each of the two versions; return them by version."""
    libraries = image_python.wheels(image)
    made = {}
    for version in (VERSION, LATER):
        directory = target / f"wheelhouse-{version}"
        directory.mkdir(parents=True)
        for wheel in libraries.glob("*.whl"):
            (directory / wheel.name).hardlink_to(wheel)
        _own(version, directory)
        write_lists(directory)
        made[version] = pack(directory)
    return made


def write_lists(directory: Path) -> None:
    """Write the versions with their hashes, and the checksums of everything."""
    lines = []
    for wheel in sorted(directory.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{_sha256(wheel)}\n")
    (directory / _CONSTRAINTS).write_text("".join(lines))
    names = sorted(path.name for path in directory.iterdir() if path.name != _SUMS)
    sums = "".join(f"{_sha256(directory / name)}  {name}\n" for name in names)
    (directory / _SUMS).write_text(sums)


def pack(directory: Path) -> Path:
    """Put a directory into a tar file beside it."""
    file = directory.with_suffix(directory.suffix + ".tar")
    with tarfile.open(file, "w") as archive:
        archive.add(directory, arcname=directory.name)
    return file


def _own(version: str, directory: Path) -> None:
    """Build our wheel, for another version than ours from a copy of the sources."""
    if version == VERSION:
        venvs.own_wheel(directory)
        return
    sources = directory.parent / f"sources-{version}"
    for name in _SOURCES:
        path = venvs.PROJECT / name
        if path.is_dir():
            shutil.copytree(
                path, sources / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True
            )
        else:
            sources.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, sources / name)
    module = sources / "cep" / "__init__.py"
    text, number = re.subn(
        r'^__version__ = ".*"$', f'__version__ = "{version}"', module.read_text(), flags=re.M
    )
    assert number == 1
    module.write_text(text)
    venvs.own_wheel(directory, sources=sources)
    shutil.rmtree(sources)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def python_of(image: str) -> str:
    """The version of an image's Python, such as 3.13."""
    words = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    argv = ["docker", "run", "--rm", "--entrypoint", words[0]]
    for name, value in docker_engine.session_labels().items():
        argv += ["--label", f"{name}={value}"]
    tag = docker_engine.ensure_image(image)
    done = subprocess.run([*argv, tag, *words[1:]], check=True, capture_output=True, text=True)
    return done.stdout.strip()
