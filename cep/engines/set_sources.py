"""Where the packages of a worker set come from: wheels, a package index, or this installation.

Each source fills a directory of packages and returns the versions by distribution, and the oldest
glibc that they work with (empty when they have no compiled part). One thread.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from email.parser import Parser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cep.engines import wheelhouse
from cep.engines.wheelhouse import NotThere, Target
from cep.errors import InputMissing, Unavailable
from cep.worker import lend

_DISTRIBUTION = "cep-endpoint"
#: What a worker imports, and what tasks may: ShellFunction and uncommon serializers are the SDK's.
_ROOTS = ("dill", "globus-compute-sdk", "parsl", "psutil", "pybase64", "setproctitle")
_FETCH_S = 600.0


def _roots() -> list[str]:
    """What this distribution asks for itself, of that what a worker needs."""
    wanted = []
    for text in metadata.requires(_DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker is None and canonicalize_name(requirement.name) in _ROOTS:
            wanted.append(f"{requirement.name}{requirement.specifier}")
    return wanted


def from_wheels(wheels: Path, target: Target, packages: Path) -> tuple[dict[str, str], str]:
    """Unpack what a directory of wheels has.

    Args:
        wheels: The directory.
        target: For whom.
        packages: Where the packages go.

    Raises:
        InputMissing: There is no such directory, or something is missing in it.
        DataError: A wheel is damaged.
    """
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


def from_index(scratch: Path, target: Target, packages: Path) -> tuple[dict[str, str], str]:
    """Fetch by pip; what it overlooks, since it judges markers for its own Python, one by one.

    Args:
        scratch: For the wheels; made.
        target: For whom.
        packages: Where the packages go.

    Raises:
        Unavailable: The index does not give them.
        DataError: A wheel is damaged.
    """
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
        return from_wheels(scratch, target, packages)


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
        lines = done.stderr.splitlines() or ["pip gives no reason"]
        lines = [line for line in lines if "ERROR" in line] or lines
        raise Unavailable(
            f"The wheels for Python {target.python} on {target.machine} could not be fetched: "
            f"{lines[-1].removeprefix('ERROR: ')}",
            hint="Without an index, give a directory of wheels: cep worker-sets add "
            f"--python {target.python} --wheels DIR",
        )


def from_environment(packages: Path) -> tuple[dict[str, str], str]:
    """Copy the distributions that are installed here.

    Raises:
        InputMissing: One is missing, or its files are not recorded.
    """
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
