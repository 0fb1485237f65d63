"""A Python of another minor version for a test cluster: an older Debian's, in the shared home.

Debian's interpreter finds its library by its own path, so it works from wherever it is copied to,
on hosts with the same or a newer C library. And the wheels that it needs of the worker.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.integration import docker_engine, venvs

IMAGE = "systemd-252"  # Debian 12
VERSION = "3.11"


def install(place: Path, *, uid: int) -> Path:
    """Copy the interpreter and its standard library to `place`; return the interpreter."""
    tag = docker_engine.ensure_image(IMAGE)
    options = ["--rm", "--network=none", "--entrypoint", "tar"]
    for name, value in docker_engine.session_labels().items():
        options += ["--label", f"{name}={value}"]
    place.mkdir()
    words = ["-C", "/usr", "-cf", "-", f"bin/python{VERSION}", f"lib/python{VERSION}"]
    with subprocess.Popen(
        ["docker", "run", *options, tag, *words], stdout=subprocess.PIPE
    ) as reading:
        subprocess.run(
            ["tar", "-C", place, "-xf", "-"], stdin=reading.stdout, check=True, timeout=120
        )
    assert reading.returncode == 0
    subprocess.run(["chown", "-R", f"{uid}:{uid}", place], check=True)
    return place / "bin" / f"python{VERSION}"


def wheels(place: Path, *, uid: int) -> None:
    """Put the wheels that a worker needs on `VERSION` into `place`."""
    subprocess.run(["cp", "-al", fetched(), place], check=True)
    subprocess.run(["chown", f"{uid}:{uid}", place], check=True)


def fetched() -> Path:
    """The directory of these wheels; fetched once, then kept."""
    wanted = ["dill", "globus-compute-sdk", "parsl", "psutil", "pybase64", "setproctitle"]
    kept = venvs.CACHE / f"worker-wheels-{VERSION}-{venvs.key(venvs.CONSTRAINTS.read_text())}"
    with venvs.locked(kept.name):
        if not (kept / ".complete").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir()
            words = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:"]
            words += ["--disable-pip-version-check", "--python-version", VERSION]
            words += ["--constraint", str(venvs.CONSTRAINTS), "--dest", str(kept)]
            for glibc in (34, 28, 17, 12):  # of Debian 12 and before
                words += ["--platform", f"manylinux_2_{glibc}_x86_64"]
            words += ["--platform", "manylinux2014_x86_64", "--platform", "manylinux2010_x86_64"]
            subprocess.run([*words, *wanted], check=True, timeout=600)
            (kept / ".complete").touch()
    return kept
