"""Write constraints.txt anew: what pip chooses today, for each Python that cep supports.

Usage: renew.py PYTHON... (one interpreter for each of 3.10, 3.11, 3.12 and 3.13). Each is asked,
in a throw-away virtual environment, what it would install for the extras `fuzz` and `bench` (`dev`
is a part of both) and for building the project; the answers are merged, with an environment marker
wherever they differ. Standard library only; runs by hand (`make constraints`), never as part of a
test.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE / "constraints.txt"
WANTED = ("hatchling", "editables", "setuptools", "wheel", f"{HERE.parent}[fuzz,bench]")


def resolve(python: str, scratch: Path) -> tuple[str, dict[str, str]]:
    """Return the interpreter's version ("3.12") and what pip would install for it."""
    asked = subprocess.run(
        [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
        check=True,
        capture_output=True,
        text=True,
    )
    version = asked.stdout.strip()
    home = scratch / version
    subprocess.run([python, "-m", "venv", home], check=True)
    report = scratch / f"{version}.json"
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--dry-run"]
    subprocess.run([*pip, "--ignore-installed", "--report", report, *WANTED], check=True)
    chosen = {}
    for item in json.loads(report.read_text())["install"]:
        name = item["metadata"]["name"].lower().replace("_", "-")
        if name != "cep-endpoint":
            chosen[name] = item["metadata"]["version"]
    return version, chosen


def merge(answers: dict[str, dict[str, str]]) -> list[str]:
    """Return constraint lines; a marker where the interpreters differ."""
    versions = sorted(answers, key=lambda text: tuple(map(int, text.split("."))))
    lines = []
    for name in sorted({name for chosen in answers.values() for name in chosen}):
        releases = [answers[version].get(name) for version in versions]
        if len(set(releases)) == 1:
            lines.append(f"{name}=={releases[0]}")
            continue
        for release in sorted({release for release in releases if release}):
            users = [v for v, r in zip(versions, releases, strict=True) if r == release]
            lines.append(f"{name}=={release}; {_marker(users, versions)}")
    return lines


def _marker(users: list[str], versions: list[str]) -> str:
    """An environment marker for some of the versions; short where they are the first or last."""
    count = len(users)
    if users == versions[:count]:
        return f'python_version < "{versions[count]}"'
    if users == versions[-count:]:
        return f'python_version >= "{users[0]}"'
    return " or ".join(f'python_version == "{user}"' for user in users)


def main(pythons: list[str]) -> None:
    """Ask every interpreter and write the file; the head comment of the old one is kept."""
    with tempfile.TemporaryDirectory() as scratch:
        answers = dict(resolve(python, Path(scratch)) for python in pythons)
    missing = {"3.10", "3.11", "3.12", "3.13"} - answers.keys()
    if missing:
        sys.exit(f"No interpreter was given for Python {', '.join(sorted(missing))}.")
    head = [line for line in TARGET.read_text().splitlines() if line.startswith("#")]
    TARGET.write_text("\n".join([*head, *merge(answers)]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
