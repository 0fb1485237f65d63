"""Choose from a directory of wheels what a Python on some machine needs, and unpack it.

For Pythons that are not here and cannot be asked to install anything: tags and markers are judged
for the target, never for the interpreter that runs this. No index is asked and nothing is built.
One thread.

Source: the specifications "Binary distribution format" and "Dependency specifiers" of the Python
Packaging User Guide.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path, PurePosixPath

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import (
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    parse_wheel_filename,
)
from packaging.version import Version

from cep.errors import DataError, InputMissing

_ROUNDS = 50  # of choosing anew; a handful is usual
_LARGEST_FILE = 1 << 30  # bytes; no library comes near
_LOWEST_GLIBC = 5  # 2.5 is manylinux1's


@dataclass(frozen=True, slots=True)
class Target:
    """The interpreter that a set is for: CPython on Linux with glibc.

    Attributes:
        python: As `3.12`.
        machine: As `platform.machine` says it, e.g. `x86_64`.
        glibc: The oldest glibc that has to do, as `2.28`.
    """

    python: str
    machine: str
    glibc: str

    def tags(self) -> dict[Tag, int]:
        """The tags of wheels that work there, with their rank; 0 is the best."""
        numbers = [int(part) for part in self.python.split(".")]
        platforms = [*self.platforms(), f"linux_{self.machine}"]
        interpreter = f"cp{''.join(map(str, numbers))}"
        ordered = [
            *cpython_tags(numbers, [interpreter], platforms),
            *compatible_tags(numbers, interpreter, platforms),
        ]
        return {tag: rank for rank, tag in reversed(list(enumerate(ordered)))}

    def platforms(self) -> list[str]:
        """The platform tags of wheels for glibc, newest first."""
        major, minor = (int(part) for part in self.glibc.split("."))
        legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        found = []
        for step in range(minor, _LOWEST_GLIBC - 1, -1):
            found.append(f"manylinux_{major}_{step}_{self.machine}")
            if step in legacy:
                found.append(f"{legacy[step]}_{self.machine}")
        return found

    def environment(self) -> dict[str, str]:
        """What environment markers are judged by."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that works for the target.

    Attributes:
        path: The file.
        name: Of the distribution, normalized.
        version: Of the distribution.
        rank: How well its tags fit; smaller is better.
        platform: The platform tag that fits, e.g. `manylinux_2_28_x86_64` or `any`.
    """

    path: Path
    name: NormalizedName
    version: Version
    rank: int
    platform: str


class NotThere(InputMissing):
    """No wheel meets a requirement.

    Args:
        requirement: What is needed, as `parsl<2026.11`.
        message: The sentence for people.
    """

    def __init__(self, requirement: str, message: str) -> None:
        super().__init__(message)
        self.requirement = requirement


def choose(directory: Path, roots: Iterable[str], target: Target) -> list[Wheel]:
    """Choose the newest wheels that meet the roots and what these need in turn.

    Args:
        directory: Where the wheels lie.
        roots: Requirements, as `parsl<2026.11`.
        target: For whom.

    Raises:
        NotThere: Something is missing in the directory.
        DataError: A wheel cannot be read, or the requirements contradict each other.
    """
    by_name = _usable(directory, target)
    chosen: dict[NormalizedName, Wheel] = {}
    extras: dict[NormalizedName, set[str]] = {}
    for _ in range(_ROUNDS):
        before = dict(chosen), {name: set(asked) for name, asked in extras.items()}
        bounds = _bounds(chosen.values(), roots, target, extras)
        chosen = {
            name: _best(by_name.get(name, ()), name, specifier, directory, target)
            for name, specifier in bounds.items()
        }
        if before == (chosen, extras):
            return sorted(chosen.values(), key=lambda wheel: wheel.name)
    raise DataError(f"The wheels in {directory} need versions of each other that contradict.")


def _usable(directory: Path, target: Target) -> dict[NormalizedName, list[Wheel]]:
    tags = target.tags()
    found: dict[NormalizedName, list[Wheel]] = {}
    for path in sorted(directory.glob("*.whl")):
        try:
            name, version, _, theirs = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            raise DataError(f"{path} is no wheel by its name: {error}.") from error
        fitting = [(tags[tag], tag.platform) for tag in theirs if tag in tags]
        if fitting:
            rank, platform = min(fitting)
            # Of several tags of one file the oldest glibc is the one it can do with.
            platform = min(
                (one for _, one in fitting), key=lambda one: (glibc_of(one), one), default=platform
            )
            found.setdefault(name, []).append(Wheel(path, name, version, rank, platform))
    return found


def _bounds(
    chosen: Iterable[Wheel],
    roots: Iterable[str],
    target: Target,
    extras: dict[NormalizedName, set[str]],
) -> dict[NormalizedName, SpecifierSet]:
    """For each distribution that is needed, the versions that all who need it accept.

    Args:
        chosen: The wheels so far.
        roots: What is needed at first.
        target: For whom.
        extras: By distribution, the extras that somebody asks it for; grows.
    """
    bounds: dict[NormalizedName, SpecifierSet] = {}
    asked = [(text, {""}) for text in roots]
    for wheel in chosen:
        own = {"", *extras.get(wheel.name, ())}
        asked += [(text, own) for text in requirements_of(wheel)]
    environment = target.environment()
    for text, own in asked:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise DataError(f"A requirement cannot be read: {text!r}.") from error
        marker = requirement.marker
        if marker is None or any(marker.evaluate({**environment, "extra": one}) for one in own):
            name = canonicalize_name(requirement.name)
            bounds[name] = bounds.get(name, SpecifierSet()) & requirement.specifier
            extras.setdefault(name, set()).update(requirement.extras)
    return bounds


def requirements_of(wheel: Wheel) -> Sequence[str]:
    """What a wheel's metadata say that it requires, with their markers.

    Raises:
        DataError: The file is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel.path) as archive:
            (name,) = (
                name
                for name in archive.namelist()
                if name.count("/") == 1 and name.endswith(".dist-info/METADATA")
            )
            text = archive.read(name).decode("utf-8", "replace")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel.path} cannot be read as a wheel: {error}.") from error
    return Parser().parsestr(text, headersonly=True).get_all("Requires-Dist") or ()


def _best(
    wheels: Iterable[Wheel],
    name: str,
    specifier: SpecifierSet,
    directory: Path,
    target: Target,
) -> Wheel:
    fitting = [wheel for wheel in wheels if specifier.contains(wheel.version, prereleases=True)]
    if not fitting:
        seen = ", ".join(sorted(path.name for path in directory.glob("*.whl") if _is(path, name)))
        raise NotThere(
            f"{name}{specifier}",
            f"{directory} has no wheel of {name}{specifier} for Python {target.python} on "
            f"{target.machine} with glibc {target.glibc}; it has {seen or 'none of any kind'}.",
        )
    finals = [wheel for wheel in fitting if not wheel.version.is_prerelease]
    return max(finals or fitting, key=lambda wheel: (wheel.version, -wheel.rank))


def _is(path: Path, name: str) -> bool:
    return canonicalize_name(path.name.partition("-")[0]) == name


def glibc_of(platform: str) -> tuple[int, int]:
    """The glibc that a wheel's platform tag asks for; (0, 0) when it asks for none."""
    legacy = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    for prefix, version in legacy.items():
        if platform.startswith(f"{prefix}_"):
            return version
    parts = platform.split("_")
    if parts[0] == "manylinux" and len(parts) > 3:
        return int(parts[1]), int(parts[2])
    return 0, 0


# -- unpacking ---------------------------------------------------------------------------------


def unpack(wheel: Wheel, place: Path) -> None:
    """Unpack the packages of a wheel, without its scripts; each file's checksum must be right.

    Raises:
        DataError: It is damaged, or wants to write elsewhere.
    """
    try:
        with zipfile.ZipFile(wheel.path) as archive:
            sums = _checksums(archive)
            for info in archive.infolist():
                inside = _inside(info.filename)
                if info.is_dir() or inside is None:
                    continue
                if info.file_size > _LARGEST_FILE:
                    raise DataError(f"{wheel.path}: {info.filename} is too large.")
                data = archive.read(info)
                known = sums.get(info.filename, "")
                if known and known != _checksum(data):
                    raise DataError(f"{wheel.path} is damaged: {info.filename} is not as recorded.")
                path = place / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel.path} cannot be unpacked: {error}.") from error


def _inside(name: str) -> PurePosixPath | None:
    """Where a member goes, from the directory of packages; None for what is no package."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise DataError(f"A wheel may not hold a file {name!r}.")
    if path.parts and path.parts[0].endswith(".data"):
        if len(path.parts) < 3 or path.parts[1] not in ("purelib", "platlib"):
            return None
        return PurePosixPath(*path.parts[2:])
    return path


def _checksums(archive: zipfile.ZipFile) -> Mapping[str, str]:
    for name in archive.namelist():
        if name.count("/") == 1 and name.endswith(".dist-info/RECORD"):
            rows = csv.reader(io.StringIO(archive.read(name).decode("utf-8")))
            return {row[0]: row[1] for row in rows if len(row) > 1 and row[1]}
    return {}


def _checksum(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode('ascii')}"
