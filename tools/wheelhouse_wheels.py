"""Wheels: what they say of themselves, and on which Pythons and machines they run. No effects."""

from __future__ import annotations

import email
import email.message
import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

_OLDEST_GLIBC_MINOR = 5  # of manylinux1, PEP 513
_ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600


@dataclass(frozen=True)
class Wheel:
    """One wheel, as its own metadata describe it."""

    path: Path
    name: str
    version: str
    license: str
    requires: tuple[str, ...]
    sha256: str


def platforms(arch: str, glibc: str) -> list[str]:
    """The platform tags that a host with this C library takes, newest first (PEP 600)."""
    minor = int(glibc.split(".")[1])
    tags = []
    for number in range(minor, _OLDEST_GLIBC_MINOR - 1, -1):
        tags.append(f"manylinux_2_{number}_{arch}")
        if number in _ALIASES:
            tags.append(f"{_ALIASES[number]}_{arch}")
    return tags


def fits(file: str, python: str, arch: str) -> bool:
    """Whether a wheel, by its file name (PEP 427), is for this Python and kind of machine."""
    interpreters, abis, tags = (part.split(".") for part in file[: -len(".whl")].split("-")[-3:])
    number = python.replace(".", "")
    stable = [int(tag[3:]) for tag in interpreters if re.fullmatch(r"cp3\d+", tag)]
    right = bool({f"cp{number}", "py3", f"py{number}"} & set(interpreters)) or (
        "abi3" in abis and bool(stable) and min(stable) <= int(number[1:])
    )
    # `linux_ARCH` was made on this machine, and nobody can say where else it runs.
    return right and all(
        tag == "any" or (tag.startswith("manylinux") and tag.endswith(f"_{arch}")) for tag in tags
    )


def describe(path: Path) -> Wheel:
    """Read a wheel's metadata."""
    with zipfile.ZipFile(path) as archive:
        (name,) = [one for one in archive.namelist() if one.endswith(".dist-info/METADATA")]
        found = email.message_from_bytes(archive.read(name))
    return Wheel(
        path=path,
        name=re.sub(r"[-_.]+", "-", found["Name"]).lower(),
        version=found["Version"],
        license=_license(found),
        requires=tuple(found.get_all("Requires-Dist") or ()),
        sha256=sha256(path),
    )


def _license(found: email.message.Message) -> str:
    """What a distribution says of its license: expression, classifiers, or the old field."""
    if found["License-Expression"]:
        return str(found["License-Expression"])
    classifiers = found.get_all("Classifier") or []
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::")]
    return ", ".join(named) or str(found["License"] or "").split("\n")[0]


def sha256(path: Path) -> str:
    """The checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
