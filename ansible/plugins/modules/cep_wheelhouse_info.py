#!/usr/bin/python
# Copyright: The cep project
# Apache-2.0 (see LICENSE)
"""Whether a wheelhouse is whole, and fits a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cep_wheelhouse_info
short_description: Tell whether a wheelhouse is whole and fits a host
version_added: "0.1.0"
description:
  - Reads a wheelhouse, a directory or a tar file, where it is; unpacks and changes nothing.
  - Fails when a file is missing, damaged or not listed in C(SHA256SUMS), and when a wheel is for
    another Python or another kind of machine.
author:
  - The cep project (@cep-project)
attributes:
  check_mode:
    description: It never changes anything.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  path:
    description: The directory or the file.
    type: path
    required: true
  version:
    description: The version of cep that must be in it.
    type: str
    required: true
  python:
    description: The Python it is for, such as V(3.11); empty takes any.
    type: str
    default: ""
  arch:
    description: The kind of machine it is for, such as V(x86_64); empty takes any.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Look at the wheelhouse on the controller
  cep.cep.cep_wheelhouse_info:
    path: /srv/cep/wheelhouse.tar.gz
    version: "0.1.0"
    python: "3.11"
    arch: x86_64
  delegate_to: localhost
"""

RETURN = r"""
directory:
  description: The directory with C(SHA256SUMS), relative to O(path).
  returned: success
  type: str
constraints:
  description: The file with the versions and their hashes, relative to O(path).
  returned: success
  type: str
wheels:
  description: The directory of the wheels, relative to O(path).
  returned: success
  type: str
sha256:
  description: The checksum of C(SHA256SUMS), which stands for everything.
  returned: success
  type: str
"""

import hashlib
import re
import tarfile
from pathlib import Path, PurePosixPath

from ansible.module_utils.basic import AnsibleModule

SUMS = "SHA256SUMS"
CONSTRAINTS = "constraints.txt"
# PEP 427: NAME-VERSION(-BUILD)?-PYTHON-ABI-PLATFORM.whl
WHEEL = re.compile(
    r"(?P<name>[^-]+)-(?P<version>[^-]+)(-\d[^-]*)?"
    r"-(?P<python>[^-]+)-(?P<abi>[^-]+)-(?P<platform>[^-]+)\.whl"
)


class Wrong(Exception):
    """What is wrong with a wheelhouse, as a sentence."""


def sums_of(path):
    """The SHA-256 of each file by its relative name, and the texts of those called SHA256SUMS."""
    sums, texts = {}, {}
    for name, file in _files(path):
        digest = hashlib.sha256()
        kept = []
        while chunk := file.read(1 << 20):
            digest.update(chunk)
            if PurePosixPath(name).name == SUMS:
                kept.append(chunk)
        sums[name] = digest.hexdigest()
        if kept:
            texts[name] = b"".join(kept).decode("utf-8", "replace")
    return sums, texts


def _files(path):
    if Path(path).is_dir():
        for whole in sorted(Path(path).rglob("*")):
            if whole.is_file():
                with whole.open("rb") as file:
                    yield str(whole.relative_to(path)), file
        return
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                outside = name.is_absolute() or ".." in name.parts
                if outside or not (member.isreg() or member.isdir()):
                    raise Wrong(f"{path} is no wheelhouse: it holds {member.name!r}.")
                if member.isreg():
                    yield str(name), archive.extractfile(member)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Wrong(f"{path} cannot be read, or is damaged: {error}.") from error


def check_sums(path, sums, texts):
    """Compare; return the directory that SHA256SUMS stands in, and its checksum."""
    if len(texts) != 1:
        raise Wrong(f"{path} is no wheelhouse: it has {len(texts)} files {SUMS}, not one.")
    ((place, text),) = texts.items()
    directory = PurePosixPath(place).parent
    listed = {}
    for line in text.splitlines():
        digest, _, name = line.partition(" ")
        listed[str(directory / name.lstrip(" *"))] = digest
    for name, digest in listed.items():
        if name not in sums:
            raise Wrong(f"{path} is not whole: {name} is missing.")
        if sums[name] != digest:
            raise Wrong(f"{path} is damaged: the checksum of {name} is another than {SUMS} says.")
    stray = sorted(set(sums) - set(listed) - {place})
    if stray:
        raise Wrong(f"{path} holds {stray[0]}, which {SUMS} does not list.")
    return str(directory), sums[place]


def check_wheels(path, names, wanted):
    """Every wheel fits the host, and ours is among them."""
    ours = False
    for name in names:
        file = PurePosixPath(name).name
        found = WHEEL.fullmatch(file)
        if found is None:
            raise Wrong(f"{path} holds {name}, which is no wheel.")
        ours |= found["name"] == "cep_endpoint" and found["version"] == wanted["version"]
        if wanted["python"] and not _fits_python(found, wanted["python"]):
            raise Wrong(f"{path} is not for Python {wanted['python']}: it holds {file}.")
        if wanted["arch"] and not _fits_arch(found["platform"], wanted["arch"]):
            raise Wrong(f"{path} is not for {wanted['arch']}: it holds {file}.")
    if not ours:
        raise Wrong(f"{path} does not hold cep {wanted['version']}.")


def _fits_python(wheel, python):
    major, minor = python.split(".")
    tags = wheel["python"].split(".")
    if f"cp{major}{minor}" in tags or {f"py{major}", f"py{major}{minor}"} & set(tags):
        return True
    lowest = [int(tag[3:]) for tag in tags if tag.startswith(f"cp{major}") and tag[3:].isdigit()]
    return "abi3" in wheel["abi"].split(".") and bool(lowest) and min(lowest) <= int(minor)


def _fits_arch(platform, arch):
    return platform == "any" or any(tag.endswith(f"_{arch}") for tag in platform.split("."))


def look(path, wanted):
    """Everything about a wheelhouse; raises Wrong."""
    if not Path(path).exists():
        raise Wrong(f"There is no wheelhouse {path}.")
    sums, texts = sums_of(path)
    directory, digest = check_sums(path, sums, texts)
    wheels = sorted(name for name in sums if name.endswith(".whl"))
    constraints = str(PurePosixPath(directory) / CONSTRAINTS)
    if constraints not in sums:
        raise Wrong(f"{path} is no wheelhouse: it has no {CONSTRAINTS} beside {SUMS}.")
    check_wheels(path, wheels, wanted)
    return {
        "directory": directory,
        "constraints": constraints,
        "wheels": str(PurePosixPath(wheels[0]).parent),
        "sha256": digest,
    }


def main():
    """Look and return."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "python": {"type": "str", "default": ""},
            "arch": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    try:
        found = look(module.params["path"], module.params)
    except Wrong as wrong:
        module.fail_json(msg=str(wrong))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
