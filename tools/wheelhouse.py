"""Build a wheelhouse: one file with which cep is installed where there is no package index.

Usage: wheelhouse.py --python 3.11 --arch x86_64 [--glibc 2.28] [--collection FILE] [--output DIR]

`make wheelhouse PYTHON=3.11 ARCH=x86_64` calls it. The file holds our wheel and every library's in
the versions of `constraints/constraints.txt` (`wheels/`), each version with its hash
(`constraints.txt`), the Ansible collection where there is one, a bill of materials
(`sbom.cdx.json`, CycloneDX), the checksum of everything (`SHA256SUMS`), and the script that checks
it (`check.py`).

The same sources and libraries give the same bytes. The interpreter that it is for must be on this
machine, since only that one can say what it needs; the kind of machine may be another.
"""

from __future__ import annotations

import argparse
import email
import email.message
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import uuid
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
CONSTRAINTS = PROJECT / "constraints" / "constraints.txt"
sys.path.insert(0, str(HERE))

from wheelhouse_check import FORMAT, MANIFEST, SUMS, Refused, check  # noqa: E402

ARCHES = ("x86_64", "aarch64")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: RHEL 8 and its relatives, the oldest that still get updates; everything later fits too.
GLIBC = "2.28"
#: Libraries whose makers publish sources only; pure Python, so a wheel made here fits everywhere.
SOURCES_ONLY = ("sdnotify",)
EXTRAS = "hub,postgres"
_OLDEST_GLIBC_MINOR = 5  # of manylinux1, PEP 513
_ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600
# From this on, tar and zip can hold a date: 1980-01-01.
_EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "315532800"))


class CannotBuild(Exception):
    """Why there is no wheelhouse.

    Args:
        code: Exit code: 64 usage, 69 something that is needed is not here, 65 wrong result.
        sentence: What is missing or wrong, and what to do.
    """

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Wheel:
    """One wheel, as its own metadata describe it."""

    path: Path
    name: str
    version: str
    license: str
    requires: tuple[str, ...]
    sha256: str


def build(
    python: str,
    arch: str,
    output: Path,
    *,
    glibc: str = GLIBC,
    collection: Path | None = None,
    cache: Path | None = None,
) -> Path:
    """Build the file; returns it.

    Args:
        python: `3.11`.
        arch: `x86_64`.
        output: Directory for the file.
        glibc: The oldest C library that it must run on.
        collection: The Ansible collection's file.
        cache: A directory that keeps libraries' wheels of earlier builds of the same set.

    Raises:
        CannotBuild: With the reason.
    """
    check_usage(python, arch)
    with tempfile.TemporaryDirectory(prefix="cep-wheelhouse-") as scratch:
        own = _own_wheel(Path(scratch) / "own")
        libraries = _libraries(own, python, platforms(arch, glibc), Path(scratch), cache)
        return assemble([own, *libraries], python, arch, output, glibc=glibc, collection=collection)


def check_usage(python: str, arch: str) -> None:
    """See that a wheelhouse can be for this Python and kind of machine.

    Raises:
        CannotBuild: It cannot.
    """
    if python not in PYTHONS or arch not in ARCHES:
        raise CannotBuild(
            64,
            f"PYTHON is one of {', '.join(PYTHONS)}, ARCH one of {', '.join(ARCHES)}; not "
            f"{python}, {arch}.",
        )


def assemble(
    wheels: Sequence[Path],
    python: str,
    arch: str,
    output: Path,
    *,
    glibc: str = GLIBC,
    collection: Path | None = None,
) -> Path:
    """Put wheels and lists into the file, and check it; arguments as `build`.

    Raises:
        CannotBuild: Not all of the wheels fit, or cep's own is not among them.
    """
    described = sorted((describe(path) for path in wheels), key=lambda one: one.name)
    own = next((one for one in described if one.name == "cep-endpoint"), None)
    if own is None:
        raise CannotBuild(65, "There is no wheel of cep-endpoint among the wheels.")
    for one in described:
        if not fits(one.path.name, python, arch):
            raise CannotBuild(65, f"{one.path.name} does not fit Python {python} on {arch}.")
    name = f"cep-wheelhouse-{own.version}-py{python}-{arch}"
    with tempfile.TemporaryDirectory(prefix="cep-wheelhouse-") as scratch:
        top = Path(scratch) / name
        (top / "wheels").mkdir(parents=True)
        for one in described:
            shutil.copyfile(one.path, top / "wheels" / one.path.name)
        if collection is not None:
            (top / "collection").mkdir()
            shutil.copyfile(collection, top / "collection" / collection.name)
        shutil.copyfile(HERE / "wheelhouse_check.py", top / "check.py")
        lists = _lists(described, own, python, arch, glibc)
        for file, text in lists.items():
            (top / file).write_text(text, encoding="utf-8")
        (top / SUMS).write_text(_sums(top), encoding="utf-8")
        made = _pack(top, output)
    try:
        check(made, python=python, arch=arch, version=own.version)
    except Refused as exc:
        raise CannotBuild(65, f"What was built is wrong: {exc}") from exc
    return made


def _lists(
    wheels: Sequence[Wheel], own: Wheel, python: str, arch: str, glibc: str
) -> dict[str, str]:
    pins = "".join(f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in wheels)
    manifest = {
        "format": FORMAT,
        "version": own.version,
        "python": python,
        "arch": arch,
        "glibc": glibc,
        "extras": EXTRAS.split(","),
        "wheels": len(wheels),
    }
    return {
        "constraints.txt": pins,
        MANIFEST: json.dumps(manifest, indent=2) + "\n",
        "sbom.cdx.json": json.dumps(bill_of_materials(wheels, own, python), indent=2) + "\n",
    }


# -- wheels ----------------------------------------------------------------------------------------


def _own_wheel(directory: Path) -> Path:
    directory.mkdir()
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    _run(words, "building our wheel", cwd=PROJECT)
    (made,) = directory.glob("*.whl")
    return made


def _libraries(
    own: Path, python: str, tags: Sequence[str], scratch: Path, cache: Path | None
) -> list[Path]:
    """Every library's wheel, as the interpreter that they are for resolves them."""
    needs = "\n".join(describe(own).requires)
    key = hashlib.sha256("\0".join([needs, CONSTRAINTS.read_text(), python, *tags]).encode())
    kept = (cache or scratch) / f"libraries-{key.hexdigest()[:16]}"
    if not kept.is_dir():
        pip = [str(_environment(python, scratch / "venv")), "-m", "pip", "--quiet"]
        pip += ["--disable-pip-version-check", "--no-input"]
        fresh, pure = scratch / "libraries", scratch / "pure"
        narrow = ["--constraint", str(CONSTRAINTS)]
        sources = ["wheel", "--no-deps", *narrow, "--wheel-dir", str(pure), *SOURCES_ONLY]
        _run([*pip, *sources], f"making wheels of {', '.join(SOURCES_ONLY)}")
        platforms = [word for tag in tags for word in ("--platform", tag)]
        wanted = ["download", "--only-binary=:all:", *platforms, *narrow]
        wanted += ["--find-links", str(pure), "--dest", str(fresh), f"{own}[{EXTRAS}]"]
        _run([*pip, *wanted], "fetching the libraries")
        (fresh / own.name).unlink(missing_ok=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(str(fresh), kept)
    return sorted(kept.glob("*.whl"))


def _environment(python: str, place: Path) -> Path:
    """A fresh environment of the interpreter that the wheelhouse is for."""
    program = shutil.which(f"python{python}")
    if program is None:
        raise CannotBuild(
            69,
            f"There is no python{python} on PATH, and only that one can say which libraries it "
            "needs. Install it, or build this where it is.",
        )
    _run([program, "-m", "venv", str(place)], f"making an environment of python{python}")
    return place / "bin" / "python"


def _run(words: Sequence[str], doing: str, cwd: Path | None = None) -> None:
    done = subprocess.run(
        words,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(_EPOCH)},
    )
    if done.returncode != 0:
        raise CannotBuild(69, f"{doing[0].upper()}{doing[1:]} failed:\n{done.stdout[-2000:]}")


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
        sha256=_sha256(path),
    )


def _license(found: email.message.Message) -> str:
    """What a distribution says of its license: expression, classifiers, or the old field."""
    if found["License-Expression"]:
        return str(found["License-Expression"])
    classifiers = found.get_all("Classifier") or []
    named = [one.rpartition(" :: ")[2] for one in classifiers if one.startswith("License ::")]
    return ", ".join(named) or str(found["License"] or "").split("\n")[0]


# -- lists -----------------------------------------------------------------------------------------


def bill_of_materials(wheels: Sequence[Wheel], own: Wheel, python: str) -> dict[str, Any]:
    """What the wheelhouse is made of, as CycloneDX 1.6 has it (ECMA-424)."""
    by_name = {one.name: one for one in wheels}
    seed = "\n".join(f"{one.name} {one.sha256}" for one in wheels)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, seed)}",
        "version": 1,
        "metadata": {"component": _component(own, "application")},
        "components": [_component(one, "library") for one in wheels if one is not own],
        "dependencies": [
            {"ref": _purl(one), "dependsOn": sorted(_purl(by_name[n]) for n in names)}
            for one in wheels
            for names in [_needs(one, by_name, python, is_own=one is own)]
        ],
    }


def _component(one: Wheel, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": kind,
        "bom-ref": _purl(one),
        "name": one.name,
        "version": one.version,
        "purl": _purl(one),
        "hashes": [{"alg": "SHA-256", "content": one.sha256}],
    }
    if one.license:
        found["licenses"] = [{"license": {"name": one.license}}]
    return found


def _purl(one: Wheel) -> str:
    return f"pkg:pypi/{one.name}@{one.version}"


def _needs(one: Wheel, known: Mapping[str, Wheel], python: str, *, is_own: bool) -> set[str]:
    """Which of the wheels another one asks for."""
    from packaging.requirements import Requirement

    extras = ["", *EXTRAS.split(",")] if is_own else [""]
    found = set()
    for text in one.requires:
        wanted = Requirement(text)
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        values = {"python_version": python, "python_full_version": f"{python}.0"}
        holds = wanted.marker is None or any(
            wanted.marker.evaluate({**values, "extra": extra}) for extra in extras
        )
        if holds and name in known:
            found.add(name)
    return found


def _sums(top: Path) -> str:
    files = sorted(path for path in top.rglob("*") if path.is_file())
    return "".join(f"{_sha256(path)}  {path.relative_to(top)}\n" for path in files)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _pack(top: Path, output: Path) -> Path:
    """The directory as one file; not compressed, since wheels are already."""
    output.mkdir(parents=True, exist_ok=True)
    made = output / f"{top.name}.tar"
    partial = made.with_suffix(".partial")
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
        for path in _ordered(top):
            archive.add(path, str(path.relative_to(top.parent)), recursive=False, filter=_plain)
    partial.replace(made)
    return made


def _ordered(top: Path) -> Iterable[Path]:
    return [top, *sorted(top.rglob("*"))]


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's, readable by all, of one date: so that the same content gives the same bytes."""
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = _EPOCH
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def _collection(given: str | None, scratch: Path) -> Path | None:
    """The collection's file: the one that is named, or built where its sources and tool are."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise CannotBuild(66, f"There is no collection {path}.")
        return path
    sources = PROJECT / "ansible"
    if not (sources / "galaxy.yml").is_file():
        return None
    tool = shutil.which("ansible-galaxy")
    if tool is None:
        raise CannotBuild(
            69,
            "The Ansible collection belongs into the wheelhouse, and there is no ansible-galaxy "
            "on PATH to build it. Install ansible-core, or name a built one: COLLECTION=FILE",
        )
    words = [tool, "collection", "build", str(sources), "--output-path", str(scratch)]
    _run(words, "building the collection")
    (made,) = scratch.glob("*.tar.gz")
    return made


def main(argv: list[str]) -> int:
    """Build what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build a wheelhouse for an air-gapped site.")
    parser.add_argument("--python", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--glibc", default=GLIBC)
    parser.add_argument("--collection")
    parser.add_argument("--output", type=Path, default=PROJECT / "dist")
    parser.add_argument("--cache", type=Path)
    words = parser.parse_args(argv)
    try:
        check_usage(words.python, words.arch)  # before the collection is built for nothing
        with tempfile.TemporaryDirectory(prefix="cep-collection-") as scratch:
            made = build(
                words.python,
                words.arch,
                words.output,
                glibc=words.glibc,
                collection=_collection(words.collection, Path(scratch)),
                cache=words.cache,
            )
    except CannotBuild as exc:
        print(exc, file=sys.stderr)
        return exc.code
    print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
