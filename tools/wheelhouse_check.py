#!/usr/bin/env python3
"""See that a wheelhouse is whole and fits: nothing damaged, missing or added, the right Python.

Usage: wheelhouse_check.py [WHEELHOUSE] [--python 3.11] [--arch x86_64] [--version 0.1.0] [--json]

WHEELHOUSE is the file that `make wheelhouse` builds, or the directory that it unpacks to; without
it, the directory that this script is in. Without `--python` and `--arch`, those of the interpreter
that runs this. Reads only. Exit codes: 0 whole and fitting; 65 damaged, or no wheelhouse; 66 not
there; 78 whole, and for another Python, machine, C library or version. Standard library only, for
Python 3.8 and later: it runs on the air-gapped host before anything is installed there.
"""

# The collection has this file among its modules' parts; but a wheelhouse brings it as a program.
# pylint: disable=ansible-bad-function

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

SUMS, MANIFEST, CONSTRAINTS = "SHA256SUMS", "manifest.json", "constraints.txt"
FORMAT = 1
DAMAGED, MISSING, OTHER = 65, 66, 78
_BLOCK = 1 << 20


class Refused(Exception):
    """The wheelhouse is not to be used; the text says why.

    Args:
        code: The exit code.
        sentence: Which file, what is wrong, and what to do.
    """

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def check(
    path: Path,
    *,
    python: str | None = None,
    arch: str | None = None,
    version: str | None = None,
    glibc: str | None = None,
) -> dict[str, Any]:
    """Return the manifest of a wheelhouse that is whole and fits.

    Args:
        path: The file, or the directory.
        python: The Python that it must be for, e.g. `3.11`; None for any.
        arch: The kind of machine, e.g. `x86_64`; None for any.
        version: The version of cep that it must bring; None for any.
        glibc: The C library of the host, e.g. `2.28`; None for any.

    Raises:
        Refused: It is not whole, or does not fit.
    """
    if not path.exists():
        raise Refused(MISSING, f"There is no wheelhouse {path}.")
    found, texts = _read(path)
    if SUMS not in texts or MANIFEST not in texts:
        raise Refused(DAMAGED, f"{path} is no wheelhouse: it has no {SUMS} or no {MANIFEST}.")
    _compare(path, found, _listed(path, texts[SUMS]))
    manifest = _manifest(path, texts[MANIFEST])
    _fits(path, manifest, {"python": python, "arch": arch, "version": version})
    needs = str(manifest["glibc"])
    if glibc is not None and _numbers(glibc) < _numbers(needs):
        raise Refused(OTHER, f"{path} needs glibc {needs} or newer; this host has {glibc}.")
    return manifest


def _read(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The SHA-256 of every file by its name, and the texts of the lists."""
    sums, texts = {}, {}
    try:
        for name, file in _directory(path) if path.is_dir() else _archive(path):
            digest, kept = hashlib.sha256(), []
            while block := file.read(_BLOCK):
                digest.update(block)
                if name in (SUMS, MANIFEST):
                    kept.append(block)
            sums[name] = digest.hexdigest()
            if kept:
                texts[name] = b"".join(kept).decode("utf-8", "replace")
    except (tarfile.TarError, EOFError, OSError) as exc:
        raise Refused(DAMAGED, f"{path} is damaged, it cannot be read to its end: {exc}.") from exc
    return sums, texts


def _directory(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    for one in sorted(path.rglob("*")):
        name = str(one.relative_to(path))
        if one.is_symlink():
            raise Refused(
                DAMAGED, f"{path} holds {name}, a symbolic link, which no wheelhouse has."
            )
        if one.is_file():
            with one.open("rb") as file:
                yield name, file


def _archive(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The files of the archive, named from its one top directory on."""
    tops = set()
    with tarfile.open(str(path), "r:*") as archive:
        for member in archive:
            parts = PurePosixPath(member.name).parts
            if (
                not parts
                or parts[0] == "/"
                or ".." in parts
                or not (member.isfile() or member.isdir())
            ):
                raise Refused(DAMAGED, f"{path} holds {member.name!r}, which no wheelhouse has.")
            tops.add(parts[0])
            if len(tops) > 1:
                raise Refused(DAMAGED, f"{path} is no wheelhouse: it has {len(tops)} directories.")
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                yield "/".join(parts[1:]), file


def _listed(path: Path, text: str) -> dict[str, str]:
    listed = {}
    for line in text.splitlines():
        digest, between, name = line.partition("  ")
        if len(digest) != 64 or not between or not name:
            raise Refused(DAMAGED, f"{path} is damaged: {SUMS} has a line that is no checksum.")
        listed[name] = digest
    return listed


def _compare(path: Path, found: dict[str, str], listed: dict[str, str]) -> None:
    again = "Copy it again from where it was built."
    for name, digest in sorted(listed.items()):
        if name not in found:
            raise Refused(DAMAGED, f"{path} is not whole: {name} is missing. {again}")
        if found[name] != digest:
            raise Refused(DAMAGED, f"{path} is damaged: {name} has another checksum. {again}")
    added = sorted(set(found) - set(listed) - {SUMS})
    if added:
        raise Refused(DAMAGED, f"{path} holds {added[0]}, which {SUMS} does not list. {again}")


def _manifest(path: Path, text: str) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
        if manifest["format"] == FORMAT and all(manifest[k] for k in ("python", "arch", "glibc")):
            return dict(manifest)
    except (ValueError, KeyError, TypeError):
        pass
    raise Refused(DAMAGED, f"{path} has a {MANIFEST} that is not of format {FORMAT}.")


def _fits(path: Path, manifest: dict[str, Any], wanted: dict[str, str | None]) -> None:
    words = {"python": "Python", "arch": "the machine", "version": "cep"}
    for name, value in wanted.items():
        if value is not None and manifest[name] != value:
            raise Refused(
                OTHER,
                f"{path} is for {words[name]} {manifest[name]}, not {value}. Build the right "
                f"one: make wheelhouse PYTHON={wanted['python'] or manifest['python']} "
                f"ARCH={wanted['arch'] or manifest['arch']}",
            )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def main(argv: list[str]) -> int:
    """Check what the command line names; returns the exit code."""
    parser = argparse.ArgumentParser(description="See that a wheelhouse is whole and fits.")
    parser.add_argument("wheelhouse", nargs="?", default=str(Path(__file__).resolve().parent))
    parser.add_argument("--python", default="{}.{}".format(*sys.version_info[:2]))
    parser.add_argument("--arch", default=platform.machine())
    parser.add_argument("--version")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args(argv)
    here = words.arch == platform.machine()
    try:
        manifest = check(
            Path(words.wheelhouse),
            python=words.python,
            arch=words.arch,
            version=words.version,
            glibc=(platform.libc_ver()[1] or None) if here else None,
        )
    except Refused as exc:
        if words.json:
            print(json.dumps({"ok": False, "code": exc.code, "sentence": str(exc)}))
        print(exc, file=sys.stderr)
        return exc.code
    if words.json:
        print(json.dumps({"ok": True, "manifest": manifest}))
    else:
        print(
            f"cep {manifest['version']} for Python {manifest['python']} on {manifest['arch']}, "
            f"glibc {manifest['glibc']} or newer: whole, {manifest['wheels']} wheels."
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
