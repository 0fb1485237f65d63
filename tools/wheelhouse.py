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
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
CONSTRAINTS = PROJECT / "constraints" / "constraints.txt"
sys.path.insert(0, str(HERE))

from wheelhouse_bill import bill_of_materials  # noqa: E402
from wheelhouse_check import FORMAT, MANIFEST, SUMS, Refused, check  # noqa: E402
from wheelhouse_wheels import Wheel, describe, fits, platforms, sha256  # noqa: E402

ARCHES = ("x86_64", "aarch64")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: RHEL 8 and its relatives, the oldest that still get updates; everything later fits too.
GLIBC = "2.28"
#: Libraries whose makers publish sources only; pure Python, so a wheel made here fits everywhere.
SOURCES_ONLY = ("sdnotify",)
EXTRAS = "hub,postgres"
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
    extras = EXTRAS.split(",")
    pins = "".join(f"{one.name}=={one.version} --hash=sha256:{one.sha256}\n" for one in wheels)
    manifest = {
        "format": FORMAT,
        "version": own.version,
        "python": python,
        "arch": arch,
        "glibc": glibc,
        "extras": extras,
        "wheels": len(wheels),
    }
    bill = bill_of_materials(wheels, own, python, extras)
    return {
        "constraints.txt": pins,
        MANIFEST: json.dumps(manifest, indent=2) + "\n",
        "sbom.cdx.json": json.dumps(bill, indent=2) + "\n",
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


def _sums(top: Path) -> str:
    files = sorted(path for path in top.rglob("*") if path.is_file())
    return "".join(f"{sha256(path)}  {path.relative_to(top)}\n" for path in files)


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
