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
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from email.parser import Parser
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cep.engines import wheelhouse
from cep.engines.lending import NEEDS, SUPPORTED, check_sets
from cep.engines.wheelhouse import NotThere, Target
from cep.errors import CantCreate, InputMissing, Unavailable, UsageError
from cep.safety.files import make_parents
from cep.worker import lend

_DISTRIBUTION = "cep-endpoint"
#: What a worker imports, and what tasks may: ShellFunction and uncommon serializers are the SDK's.
_ROOTS = ("dill", "globus-compute-sdk", "parsl", "psutil", "setproctitle")
#: Machines that the index has wheels for. Source: the platform tags of "manylinux" (PEP 600).
MACHINES = ("aarch64", "armv7l", "i686", "ppc64le", "s390x", "x86_64")
#: Of the oldest distribution that is still common on clusters (RHEL 8).
OLDEST_GLIBC = "2.28"
_SCHEMA = 1
_FETCH_S = 600.0
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
                described = _from_wheels(wheels, target, packages)
                source = "wheels"
            elif download or not is_own(target):
                described = _from_index(Path(scratch) / "wheels", target, packages)
                source = "index"
            else:
                described = _from_environment(packages)
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


def _roots() -> list[str]:
    """What this distribution asks for itself, of that what a worker needs."""
    wanted = []
    for text in metadata.requires(_DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker is None and canonicalize_name(requirement.name) in _ROOTS:
            wanted.append(f"{requirement.name}{requirement.specifier}")
    return wanted


def _from_wheels(wheels: Path, target: Target, packages: Path) -> tuple[dict[str, str], str]:
    if not wheels.is_dir():
        raise InputMissing(f"There is no directory {wheels}.")
    try:
        chosen = wheelhouse.choose(wheels, _roots(), target)
    except NotThere as error:
        roots = " ".join(f"'{root}'" for root in _roots())
        raise InputMissing(
            str(error),
            hint=f"Where an index is reached, fill a directory with: pip download --only-binary "
            f":all: --python-version {target.python} --platform {target.platforms()[0]} -d DIR "
            f"{roots}",
        ) from error
    for wheel in chosen:
        wheelhouse.unpack(wheel, packages)
    glibc = max((wheelhouse.glibc_of(wheel.platform) for wheel in chosen), default=(0, 0))
    return {str(wheel.name): str(wheel.version) for wheel in chosen}, _told(glibc)


def _told(glibc: tuple[int, int]) -> str:
    return "" if glibc == (0, 0) else ".".join(map(str, glibc))


def _from_index(scratch: Path, target: Target, packages: Path) -> tuple[dict[str, str], str]:
    """Fetch by pip; what it overlooks, since it judges markers for its own Python, one by one."""
    scratch.mkdir()
    _fetch(scratch, target, _roots(), ())
    while True:
        try:
            wheelhouse.choose(scratch, _roots(), target)
        except NotThere as error:
            before = set(scratch.iterdir())
            _fetch(scratch, target, [error.requirement], ("--no-deps",))
            if before == set(scratch.iterdir()):
                raise
            continue
        return _from_wheels(scratch, target, packages)


def _fetch(place: Path, target: Target, wanted: Sequence[str], options: Sequence[str]) -> None:
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    words += ["--quiet", "--only-binary=:all:", "--dest", str(place), *options]
    words += ["--python-version", target.python, "--implementation", "cp"]
    words += ["--abi", f"cp{target.python.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    for one in target.platforms():
        words += ["--platform", one]
    try:
        done = subprocess.run(
            [*words, "--", *wanted], check=False, capture_output=True, text=True, timeout=_FETCH_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"pip could not be run to fetch wheels: {error}.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or [
            "no reason given"
        ]
        raise Unavailable(
            f"The wheels for Python {target.python} on {target.machine} could not be fetched: "
            f"{lines[-1].removeprefix('ERROR: ')}",
            hint="Without an index, give a directory of wheels: cep worker-sets add "
            f"--python {target.python} --wheels DIR",
        )


def _from_environment(packages: Path) -> tuple[dict[str, str], str]:
    """Copy the distributions that are installed here."""
    versions: dict[str, str] = {}
    glibc = (0, 0)
    for found in _needed():
        glibc = max(glibc, _glibc_of(found))
        name = str(canonicalize_name(found.name))
        if found.files is None:
            raise InputMissing(
                f"The files of {name} are not recorded in this installation, so they cannot be "
                "copied.",
                hint="Make the set from wheels: cep worker-sets add --wheels DIR",
            )
        versions[name] = found.version
        for file in found.files:
            if ".." in file.parts or file.is_absolute() or "__pycache__" in file.parts:
                continue  # scripts, and what Python makes by itself
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(str(found.locate_file(file)), target)
    return versions, _told(glibc)


def _glibc_of(found: metadata.Distribution) -> tuple[int, int]:
    """The glibc that a distribution asks for: its wheel's, or this host's if it was built here."""
    tags = Parser().parsestr(found.read_text("WHEEL") or "").get_all("Tag") or ["--linux_"]
    platforms = [tag.rpartition("-")[2] for tag in tags]
    if any(one.startswith("linux_") for one in platforms):
        major, minor = lend.libc()[1].split(".")[:2]
        return int(major), int(minor)
    return min(map(wheelhouse.glibc_of, platforms))


def _needed() -> Iterator[metadata.Distribution]:
    """The installed distributions that the roots need."""
    asked = [(Requirement(text), "") for text in _roots()]
    seen: set[tuple[str, str]] = set()
    told: set[str] = set()
    while asked:
        requirement, extra = asked.pop()
        name = str(canonicalize_name(requirement.name))
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError as error:
            raise InputMissing(f"This installation lacks {name}, which workers need.") from error
        if name not in told:
            told.add(name)
            yield found
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                asked += [(Requirement(text), wanted) for text in found.requires or ()]


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
