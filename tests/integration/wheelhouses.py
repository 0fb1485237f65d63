"""Wheelhouses as an air-gapped site gets them, for the Python of a test image.

The libraries come from the image's own pip once and are kept in `.cache/`; our wheel is built from
the present sources. The second one is the same with a later version, for upgrades.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tests.integration import image_python, venvs
from tools.wheelhouse import assemble

#: The version of the sources' wheel, and of the one that stands for the next release.
VERSION = "0.1.0"
LATER = "0.1.1"
_SOURCES = ("cep", "templates", "pyproject.toml", "README.md", "LICENSE")


def make(
    image: str,
    target: Path,
    collection: Path | None = None,
    versions: Sequence[str] = (VERSION, LATER),
) -> dict[str, Path]:
    """Make a wheelhouse for each version, as `make wheelhouse` does.

    Args:
        image: The test image whose Python it is for.
        target: The directory for them.
        collection: The collection's file.
        versions: One or both of the two versions.

    Returns:
        The files by version.
    """
    libraries = image_python.wheels(image)
    python = image_python.version(image)
    made = {}
    for version in versions:
        scratch = target / f"scratch-{version}"
        scratch.mkdir(parents=True)
        own = _own(version, scratch)
        wheels = [own, *libraries.glob("*.whl")]
        made[version] = assemble(wheels, python, platform.machine(), target, collection=collection)
        shutil.rmtree(scratch)
    return made


def _own(version: str, scratch: Path) -> Path:
    """Build our wheel, for another version than ours from a copy of the sources."""
    if version == VERSION:
        return venvs.own_wheel(scratch)
    sources = scratch / "sources"
    sources.mkdir()
    for name in _SOURCES:
        path = venvs.PROJECT / name
        if path.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, sources / name, ignore=ignored, symlinks=True)
        else:
            shutil.copy(path, sources / name)
    module = sources / "cep" / "__init__.py"
    text, number = re.subn(
        r'^__version__ = ".*"$', f'__version__ = "{version}"', module.read_text(), flags=re.M
    )
    assert number == 1
    module.write_text(text)
    return venvs.own_wheel(scratch, sources=sources)
