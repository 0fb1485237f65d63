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
  - Fails when a file is missing, damaged or not listed in C(SHA256SUMS), and when it is for another
    version, Python or kind of machine.
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
    path: /srv/cep/wheelhouse.tar
    version: "0.1.0"
    python: "3.11"
    arch: x86_64
  delegate_to: localhost
"""

RETURN = r"""
directory:
  description: The directory of its files, relative to O(path).
  returned: success
  type: str
manifest:
  description: What it is for, and what it brings.
  returned: success
  type: dict
"""

import tarfile
from pathlib import Path, PurePosixPath

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.wheelhouse_check import Refused, check


def top_of(path):
    """The one directory that a checked wheelhouse's file unpacks to; a directory is its own."""
    if path.is_dir():
        return "."
    with tarfile.open(path) as archive:
        return PurePosixPath(archive.next().name).parts[0]


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
    wanted = {name: module.params[name] or None for name in ("version", "python", "arch")}
    path = Path(module.params["path"])
    try:
        manifest = check(path, **wanted)
    except Refused as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(changed=False, directory=top_of(path), manifest=manifest)


if __name__ == "__main__":
    main()
