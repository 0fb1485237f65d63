"""Virtual environments that tests need beside their own, made once and kept in `.cache/`.

* `sdk`: the official SDK and nothing of ours, as a researcher's laptop has it;
* `published`: the published endpoint 2.19 with its own SDK, which a site may still run;
* `published-4`: the published endpoint 4.19, which `make bench` compares with;
* `peers`: Celery, dramatiq and Dask, which `make bench` compares with, too;
* `pipx`: the installer of the published guide's quickstart;
* `ansible-2.19` and `ansible`: the oldest ansible-core that the collection supports, and today's;
* `ansible-lint` and `ansible-lint-today`: what judges the collection, with either of them;
* `molecule`: what runs the scenario for those who change the collection.

And the wheelhouse: our wheel and all it needs, for an installation without a package index. Each is
named after a hash of what decides its contents, so a change makes a new one. `python -m
tests.integration.venvs` makes all of them ahead; done by a test, they cost that test their time.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".cache"
CONSTRAINTS = PROJECT / "constraints" / "constraints.txt"
PUBLISHED_CONSTRAINTS = PROJECT / "constraints" / "published-2.19.txt"
PUBLISHED_4_CONSTRAINTS = PROJECT / "constraints" / "published-4.19.txt"
PEERS_CONSTRAINTS = PROJECT / "constraints" / "peers.txt"

SDK = ("globus-compute-sdk==4.19.0",)
PUBLISHED = ("globus-compute-endpoint==2.19.0",)
PUBLISHED_4 = ("globus-compute-endpoint==4.19.0",)
PEERS = ("celery", "dramatiq[rabbitmq]", "distributed")
PIPX = ("pipx==1.7.1",)
ANSIBLE_OLDEST = ("ansible-core==2.19.14",)
ANSIBLE_TODAY = ("ansible-core==2.21.5",)  # needs Python 3.12
LINTERS = ("ansible-lint==26.10.1", "yamllint>=1.37,<2")
MOLECULE = ("molecule==26.10.0",)
BUILDERS = ("pip", "setuptools", "wheel")  # for libraries that have no wheel themselves


class CannotInstall(Exception):
    """A set of packages cannot be installed here; the text is the end of pip's output."""


def sdk_python() -> Path:
    """The interpreter of an environment with the official SDK only."""
    return _environment("sdk", SDK, CONSTRAINTS)


def published_python() -> Path:
    """The interpreter of an environment with the published endpoint 2.19.

    Raises:
        CannotInstall: Its libraries have no release for this Python, or no index is reachable.
    """
    return _environment("published", PUBLISHED, PUBLISHED_CONSTRAINTS)


def published_4_python() -> Path:
    """The interpreter of an environment with the published endpoint 4.19.

    Raises:
        CannotInstall: Its libraries have no release for this Python, or no index is reachable.
    """
    return _environment("published-4", PUBLISHED_4, PUBLISHED_4_CONSTRAINTS)


def peers_python() -> Path:
    """The interpreter of an environment with Celery, dramatiq and Dask.

    Raises:
        CannotInstall: Their libraries have no release for this Python, or no index is reachable.
    """
    return _environment("peers", PEERS, PEERS_CONSTRAINTS)


def pipx_python(python: str) -> Path:
    """The interpreter of an environment with pipx, made by the given Python."""
    return _environment("pipx", PIPX, None, python=python)


def ansible_python() -> Path:
    """The interpreter of an environment with the oldest ansible-core that is supported."""
    return _environment("ansible-2.19", ANSIBLE_OLDEST, None)


def ansible_today_python() -> Path:
    """The interpreter of an environment with today's ansible-core.

    Raises:
        CannotInstall: There is no Python 3.12 or later here.
    """
    return _environment("ansible", ANSIBLE_TODAY, None, python=_python_for_today())


def _python_for_today() -> str:
    for python in _newer_pythons():
        test = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))"
        try:
            done = subprocess.run([python, "-c", test], check=False, capture_output=True)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    raise CannotInstall("ansible-core of today needs Python 3.12 or later, and none is here.")


def _newer_pythons() -> Iterator[str]:
    """Interpreters that may be new enough: on PATH, and those that pyenv keeps, if it is there."""
    yield from ("python3.13", "python3.12", "python3")
    yield from map(str, pyenv_pythons())


def pyenv_pythons() -> list[Path]:
    """The interpreters that pyenv keeps; none where there is no pyenv."""
    if not shutil.which("pyenv"):
        return []
    versions = _text(["pyenv", "versions", "--bare"]).split()
    places = _text(["pyenv", "prefix", *versions]).strip().split(os.pathsep)
    return [Path(place, "bin", "python3") for place in places]


def ansible_lint_python() -> Path:
    """The interpreter of an environment with ansible-lint, yamllint and the oldest ansible-core."""
    return _environment("ansible-lint", (*ANSIBLE_OLDEST, *LINTERS), None)


def ansible_lint_today_python() -> Path:
    """The same with today's ansible-core.

    Raises:
        CannotInstall: There is no Python 3.12 or later here.
    """
    packages = (*ANSIBLE_TODAY, *LINTERS)
    return _environment("ansible-lint-today", packages, None, python=_python_for_today())


def molecule_python() -> Path:
    """The interpreter of an environment with molecule and the oldest ansible-core."""
    return _environment("molecule", (*ANSIBLE_OLDEST, *MOLECULE), None)


def wheelhouse(python: str) -> Path:
    """A directory with our wheel and everything it needs, for the given Python.

    Our own wheel is built anew each time; the libraries are kept.
    """
    version = _text([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    name = key(version, (PROJECT / "pyproject.toml").read_text(), CONSTRAINTS.read_text())
    home = CACHE / f"wheelhouse-{version}-{name}"
    with locked(home.name):
        if not (home / ".complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            pip = _environment("pip", BUILDERS, CONSTRAINTS, python=python)
            # pipx asks for a pip newer than that of some distributions.
            wanted = [*requirements(), "pip"]
            _pip(pip, "wheel", "--constraint", CONSTRAINTS, "--wheel-dir", home, *wanted)
            (home / ".complete").touch()
        for old in home.glob("cep_endpoint-*.whl"):
            old.unlink()
        own_wheel(home)
    return home


def own_wheel(directory: Path, *, sources: Path = PROJECT) -> Path:
    """Build our wheel from the present sources, or from a copy of them, into a directory."""
    alone = ["--no-deps", "--no-build-isolation", "--wheel-dir", directory]
    _pip(Path(sys.executable), "wheel", *alone, sources)
    (made,) = directory.glob("cep_endpoint-*.whl")
    return made


def published_wheelhouse(python: str) -> Path:
    """A directory with the published endpoint 2.19 and all it needs, for the given Python.

    Raises:
        CannotInstall: Its libraries have no release for this Python, or no index is reachable.
    """
    version = _text([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
    home = CACHE / f"wheelhouse-{version}-{key(*PUBLISHED, PUBLISHED_CONSTRAINTS.read_text())}"
    with locked(home.name):
        if not (home / ".complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            pip = _environment("pip", BUILDERS, CONSTRAINTS, python=python)
            narrow = ["--constraint", PUBLISHED_CONSTRAINTS, "--wheel-dir", home]
            _pip(pip, "wheel", *narrow, *PUBLISHED, "pip")
            (home / ".complete").touch()
    return home


def requirements() -> list[str]:
    """What the distribution asks for, its hub included, as pyproject.toml says it."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    wanted = []
    for text in requires("cep-endpoint") or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": "hub"}):
            requirement.marker = None
            wanted.append(str(requirement))
    return wanted


def _environment(
    name: str, packages: Sequence[str], constraints: Path | None, *, python: str | None = None
) -> Path:
    """Make the environment unless it is there; return its interpreter."""
    base = python or getattr(sys, "_base_executable", sys.executable)
    version = _text([base, "-VV"])
    pins = constraints.read_text() if constraints else ""
    home = CACHE / f"venv-{name}-{key(base, version, *packages, pins)}"
    interpreter = home / "bin" / "python"
    with locked(home.name):
        if not (home / ".complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            home.parent.mkdir(exist_ok=True)
            subprocess.run([base, "-m", "venv", home], check=True)
            narrow = ["--constraint", constraints] if constraints else []
            _pip(interpreter, "install", *narrow, *packages)
            (home / ".complete").touch()
    return interpreter


def _pip(python: Path, *words: str | os.PathLike[str]) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "-qq", "--disable-pip-version-check", *words],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        told = " ".join(os.fspath(word) for word in words)
        raise CannotInstall(f"pip {told} failed:\n{done.stdout[-2000:]}")


def key(*texts: str) -> str:
    """A short name for whatever these texts decide."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _text(argv: Sequence[str | os.PathLike[str]]) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Keep other test processes of this checkout from making the same thing."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def user_python() -> str | None:
    """A suitable interpreter that every account of this machine may run, with venv in it."""
    test = "import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))"
    names = ["/usr/local/bin/python3", "/usr/bin/python3"]
    names += [f"/usr/bin/python3.{minor}" for minor in (13, 12, 11, 10)]
    for name in names:
        if Path(name).exists():
            done = subprocess.run([name, "-c", test], check=False, capture_output=True)
            if done.returncode == 0:
                return name
    return None


def prepare() -> None:
    """Make everything ahead, side by side."""
    jobs = [sdk_python, published_python, ansible_python, ansible_lint_python]
    python = user_python()
    if python is not None:
        jobs += [
            lambda: pipx_python(python),
            lambda: wheelhouse(python),
            lambda: published_wheelhouse(python),
        ]
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="venv") as pool:
        for made in [pool.submit(job) for job in jobs]:
            try:
                print(made.result())
            except CannotInstall as exc:
                print(exc, file=sys.stderr)


if __name__ == "__main__":
    prepare()
