"""Which Python would run tasks, as far as the endpoint's host can tell without running anything.

What `worker_init` does is known on the node alone: here its text is looked at for activations, and
an interpreter that is seen on this host is asked what it has. One thread; not for the agent.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from cep.engines.lending import AUTO, ENDPOINT, Lending
from cep.errors import CepError
from cep.worker import lend

_ASK_S = 30.0
_VENV = re.compile(r"(?:^|[\s;&|])(?:source|\.)\s+(?P<file>\"[^\"\n]+\"|'[^'\n]+'|[^\s;&|]+)")
_CONDA = re.compile(r"(?:conda|mamba)\s+activate\s+(?P<name>[^\s;&|]+)")


def foretell(lending: Lending, worker_init: str, scratch: Path) -> str:
    """Say it in a sentence or two.

    Args:
        lending: The endpoint's.
        worker_init: The configuration's, without what is put around it.
        scratch: An empty directory.
    """
    if lending.wanted == ENDPOINT:
        return f"{sys.executable}, the endpoint's own, since worker_python is endpoint."
    where = "in the container's image" if lending.inside else "on the node"
    if lending.wanted != AUTO:
        asked = "" if lending.inside else f" {_ask(lending, lending.wanted, scratch)}"
        return f"{lending.wanted} {where}, since worker_python names it.{asked}"
    if lending.inside:
        return "The python3 of the container's image; what it lacks is seen there."
    found = _activated(worker_init)
    if found is None:
        return (
            f"{sys.executable}, the endpoint's own, unless worker_init does more than can be seen "
            "in its text: it names no environment to activate."
        )
    if isinstance(found, str):
        return f"That of the conda environment {found}, which is found on the node."
    return (
        f"{found}/bin/python3, since worker_init activates {found}. "
        f"{_ask(lending, f'{found}/bin/python3', scratch)}"
    )


def _activated(worker_init: str) -> Path | str | None:
    """The environment that is activated last: a directory, a conda name, or nothing."""
    last: tuple[int, Path | str] | None = None
    for match in _VENV.finditer(worker_init):
        try:
            (name,) = shlex.split(match["file"])
        except ValueError:
            continue
        path = Path(os.path.expandvars(name)).expanduser()
        if path.name == "activate" and path.parent.name == "bin" and path.is_absolute():
            last = (match.start(), path.parent.parent)
    for match in _CONDA.finditer(worker_init):
        if last is None or match.start() > last[0]:
            last = (match.start(), match["name"].strip("'\""))
    return None if last is None else last[1]


def _ask(lending: Lending, python: str, scratch: Path) -> str:
    """What an interpreter lacks, if it is seen on this host."""
    here = dataclasses.replace(lending, directory=scratch / "asked")
    try:
        here.write()
        done = subprocess.run(
            [python, here.files / f"{lend.MODULE}.py", "tell"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            cwd=scratch,
        )
    except FileNotFoundError:
        return "It is not seen on this host."
    except (CepError, OSError, subprocess.SubprocessError) as error:
        return f"It does not answer on this host: {error}"
    return done.stdout.strip().replace(str(here.directory), str(lending.directory))
