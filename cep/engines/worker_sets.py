"""Worker sets: what the worker needs beside `cep`, for one Python and one machine, to be lent.

A set is a directory `pythonX.Y-MACHINE/` with `set.json` and `packages/`, which
`cep/worker/lend.py` puts at the end of an interpreter's path on a node. It is made from a directory
of wheels, from a package index (by pip, which only fetches), or from the packages that the endpoint
itself runs on; whole, or not at all. `cep` is in no set: each endpoint lends its own. One thread.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from cep.engines import set_sources
from cep.engines.lending import NEEDS, SUPPORTED, check_sets
from cep.engines.wheelhouse import Target
from cep.errors import CantCreate, InputMissing, UsageError
from cep.safety.files import make_parents
from cep.worker import lend

_DISTRIBUTION = "cep-endpoint"
#: Machines that the index has wheels for. Source: the platform tags of "manylinux" (PEP 600).
MACHINES = ("aarch64", "armv7l", "i686", "ppc64le", "s390x", "x86_64")
#: Of the oldest distribution that is still common on clusters (RHEL 8).
OLDEST_GLIBC = "2.28"
_SCHEMA = 1
_ASK_S = 60.0
_ASK = (
    "import json, platform, sys, sysconfig\n"
    "print(json.dumps([platform.python_implementation(), '%d.%d' % sys.version_info[:2],"
    " platform.machine(), str(sysconfig.get_config_var('HOST_GNU_TYPE') or ''),"
    " bool(sysconfig.get_config_var('Py_GIL_DISABLED'))]))"
)


@dataclass(frozen=True, slots=True)
class WorkerSet:
    """A set that is there.

    Attributes:
        name: Its directory's.
        python: As `3.12`.
        machine: As `x86_64`.
        glibc: The oldest glibc that it works with; empty when it has no compiled part.
        packages: Versions by distribution.
        made: When, as ISO 8601.
        source: `environment`, `wheels` or `index`.
        trouble: Why this version of cep cannot lend it; empty when it can.
    """

    name: str
    python: str
    machine: str
    glibc: str
    packages: dict[str, str]
    made: str
    source: str
    trouble: str = ""


# -- for whom ----------------------------------------------------------------------------------


def target_of(
    python: str | None, machine: str | None, glibc: str | None, *, from_wheels: bool = False
) -> Target:
    """Understand for which interpreter a set is wanted.

    Args:
        python: `3.12`, or the path of an interpreter, which is asked; None: as this one.
        machine: None: as this host, or as the interpreter says.
        glibc: The oldest that must do; None: see `from_wheels`.
        from_wheels: The wheels are somebody's own choice, so without `glibc` those that work on
            this host are taken; else those that work with `OLDEST_GLIBC`.

    Raises:
        UsageError: No set can be made for it; the message says why.
        InputMissing: There is no such interpreter.
    """
    if python is not None and "/" in python:
        python, machine = _asked(Path(python).expanduser(), machine)
    python = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    if python not in SUPPORTED:
        raise UsageError(
            f"A worker set cannot be made for Python {python!r}.",
            hint=f"Workers run on Python {', '.join(SUPPORTED)}.",
        )
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise UsageError(
            f"A worker set cannot be made for the machine {machine!r}.",
            hint=f"Known are {', '.join(MACHINES)}.",
        )
    if glibc is None:
        glibc = (lend.libc()[1] if from_wheels else "") or OLDEST_GLIBC
    if re.fullmatch(r"2\.\d{1,3}", glibc) is None:
        raise UsageError(f"A version of glibc is written like 2.28, not {glibc!r}.")
    return Target(python, machine, glibc)


def _asked(interpreter: Path, machine: str | None) -> tuple[str, str]:
    try:
        done = subprocess.run(
            [interpreter, "-E", "-S", "-c", _ASK],
            check=True,
            capture_output=True,
            text=True,
            timeout=_ASK_S,
        )
        kind, version, its_machine, build, free = json.loads(done.stdout)
    except FileNotFoundError as error:
        raise InputMissing(f"There is no interpreter {interpreter}.") from error
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip()
        raise UsageError(f"{interpreter} does not say which Python it is: {words}") from error
    special = (
        kind
        if kind != "CPython"
        else "a free-threaded Python"
        if free
        else "a Python on musl, and worker sets are for glibc"
        if "musl" in build
        else ""
    )
    if special:
        raise UsageError(
            f"A worker set cannot be made for {interpreter}: it is {special}.",
            hint=f"Install the worker there: {interpreter} -m pip install {_DISTRIBUTION}",
        )
    if machine not in (None, its_machine):
        raise UsageError(f"{interpreter} is for {its_machine}, not for {machine}.")
    return version, its_machine


def is_own(target: Target) -> bool:
    """Whether the packages that this program runs on would do for the target."""
    own = (f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine())
    return (target.python, target.machine) == own and lend.libc()[0] == "glibc"


# -- making ------------------------------------------------------------------------------------


def add(directory: Path, target: Target, wheels: Path | None, *, download: bool) -> WorkerSet:
    """Make a set, in the place of an older one.

    Args:
        directory: That of all sets; made when missing.
        target: For whom.
        wheels: Where wheels lie; None: fetch them, or take the endpoint's own packages.
        download: Fetch them from the package index that pip uses, even when the own would do.

    Raises:
        InputMissing: There are no such wheels.
        Unavailable: The index does not give them.
        CantCreate: The set cannot be written, or others could change it.
    """
    name = lend.set_name(target.python, target.machine)
    try:
        make_parents(directory)
        directory.mkdir(mode=0o700, exist_ok=True)
        check_sets(directory)
        with tempfile.TemporaryDirectory(dir=directory, prefix=f".{name}.") as scratch:
            made = Path(scratch) / name
            packages = made / lend.SET_PACKAGES
            packages.mkdir(parents=True)
            if wheels is not None:
                described = set_sources.from_wheels(wheels, target, packages)
                source = "wheels"
            elif download or not is_own(target):
                described = set_sources.from_index(Path(scratch) / "wheels", target, packages)
                source = "index"
            else:
                described = set_sources.from_environment(packages)
                source = "environment"
            versions, glibc = described
            _write(made / lend.SET_FILE, target, versions, glibc, source)
            _put(made, directory / name, Path(scratch))
    except OSError as error:
        raise CantCreate(
            f"The worker set {directory / name} cannot be written: {error}."
        ) from error
    return read(directory / name)


def _put(made: Path, place: Path, scratch: Path) -> None:
    """Let the new one stand in the old one's place."""
    if place.exists():
        place.rename(scratch / "old")
    made.rename(place)


def _write(path: Path, target: Target, versions: dict[str, str], glibc: str, source: str) -> None:
    content = {
        "schema": _SCHEMA,
        "python": target.python,
        "machine": target.machine,
        "glibc": glibc,
        "packages": versions,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "source": source,
    }
    path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


# -- what there is -----------------------------------------------------------------------------


def read(place: Path) -> WorkerSet:
    """Read a set's description.

    Raises:
        InputMissing: It is no set.
    """
    try:
        kept = json.loads((place / lend.SET_FILE).read_text(encoding="utf-8"))
        packages = {str(name): str(version) for name, version in kept["packages"].items()}
        made = WorkerSet(
            name=place.name,
            python=str(kept["python"]),
            machine=str(kept["machine"]),
            glibc=str(kept["glibc"]),
            packages=packages,
            made=str(kept["made"]),
            source=str(kept["source"]),
            trouble="; ".join(lend.unfit_of(NEEDS, packages)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputMissing(f"{place} is no worker set: {error}.") from error
    return made


def found_in(directory: Path) -> list[WorkerSet]:
    """All sets of a directory; one that cannot be read is left out."""
    found = []
    for place in sorted(directory.glob("python*-*")) if directory.is_dir() else ():
        try:
            found.append(read(place))
        except InputMissing:
            continue
    return found


def remove(directory: Path, name: str) -> None:
    """Remove a set.

    Raises:
        InputMissing: There is no set of this name.
        CantCreate: It cannot be removed.
    """
    if "/" in name or name.startswith("."):
        raise UsageError(f"A worker set is not called {name!r}.")
    place = directory / name
    if not place.is_dir():
        raise InputMissing(f"There is no worker set {name} in {directory}.")
    read(place)
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix=f".{name}.") as scratch:
            place.rename(Path(scratch) / name)
    except OSError as error:
        raise CantCreate(f"The worker set {place} cannot be removed: {error}.") from error


def as_json(found: WorkerSet) -> dict[str, Any]:
    """The set in the plain values of `--json`."""
    return {
        "name": found.name,
        "python": found.python,
        "machine": found.machine,
        "glibc": found.glibc,
        "packages": found.packages,
        "made": found.made,
        "source": found.source,
        "trouble": found.trouble,
    }
