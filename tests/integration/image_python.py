"""An installation of our wheel for the Python of a test image, as a site makes it.

The libraries are fetched and installed once, by the image's own pip, into `.cache/`, and so is our
wheel of now; a host or a cluster gets a copy by hard links, so no file of it may be written in
place. It must be mounted where the installation was made: its programs name their interpreter by
absolute path.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.integration import docker_engine, venvs

# What a container needs of the host to reach a package index: its authorities and its index.
_AUTHORITIES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_DEFAULT_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_INSTALL_S = 600.0
_building = threading.Lock()


def install(image: str, place: str, home: Path, *, uid: int) -> Path:
    """Put an installation of the present sources at `home / NAME` for use at `place` in `image`.

    Args:
        image: Name of the test image (a directory of `tests/integration/images`).
        place: Absolute path of the installation inside the containers.
        home: The directory on this host that the containers see as the parent of `place`.
        uid: Who owns it.

    Returns:
        The installation on this host.
    """
    made = home / Path(place).name
    tag = docker_engine.ensure_image(image)
    wheel = _own_wheel()
    content = hashlib.sha256(wheel.read_bytes()).hexdigest()
    libraries = _libraries(tag, place)
    kept = libraries.with_name(libraries.name.replace("image-python-", "image-cep-"))
    with venvs.locked(kept.name):
        complete = kept / ".complete"
        if not complete.exists() or complete.read_text() != content:
            shutil.rmtree(kept, ignore_errors=True)
            subprocess.run(["cp", "-al", libraries, kept], check=True)
            complete.unlink()
            words = ["pip", "install", "-qq", "--no-deps", "--no-index", f"/wheel/{wheel.name}"]
            _in_container(tag, words, {kept: place, wheel.parent: "/wheel"}, place)
            complete.write_text(content)
        subprocess.run(["cp", "-al", kept, made], check=True)
    subprocess.run(["chown", "-R", f"{uid}:{uid}", made], check=True)
    return made


def version(image: str) -> str:
    """The version of an image's Python, such as 3.13."""
    words = ["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    argv = ["docker", "run", "--rm", "--entrypoint", "python3"]
    for name, value in docker_engine.session_labels().items():
        argv += ["--label", f"{name}={value}"]
    tag = docker_engine.ensure_image(image)
    done = subprocess.run([*argv, tag, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def wheels(image: str, *packages: str) -> Path:
    """A directory with wheels for the Python of an image, of these packages with what they need.

    Without packages it is everything that we need. Made once.
    """
    tag = docker_engine.ensure_image(image)
    requirements = packages or venvs.requirements()
    # Images of one Python share them.
    python = version(image)
    key = venvs.key(python, "wheels", venvs.CONSTRAINTS.read_text(), *requirements)
    kept = venvs.CACHE / f"image-wheels-{key}"
    with venvs.locked(kept.name):
        if not (kept / ".complete").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            mounts = {kept: "/wheels", venvs.CONSTRAINTS.parent: "/constraints"}
            # Without --use-pep517 the pip of Debian 12 builds none where there is only a source.
            script = (
                "python3 -m venv /tmp/venv && exec /tmp/venv/bin/pip wheel -qq --use-pep517"
                ' -c /constraints/constraints.txt -w /wheels "$@"'
            )
            _run(tag, ["sh", "-c", script, "sh", *requirements], mounts)
            (kept / ".complete").touch()
    return kept


def _libraries(tag: str, place: str) -> Path:
    """The libraries alone, installed for `place`; made once per image and set of libraries."""
    requirements = venvs.requirements()
    key = venvs.key(tag, place, venvs.CONSTRAINTS.read_text(), *requirements)
    kept = venvs.CACHE / f"image-python-{key}"
    with venvs.locked(kept.name):
        if not (kept / ".complete").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            mounts = {kept: place, venvs.CONSTRAINTS.parent: "/constraints"}
            _run(tag, ["python3", "-m", "venv", place], mounts)
            words = ["pip", "install", "-qq", "-c", "/constraints/constraints.txt", *requirements]
            _in_container(tag, words, mounts, place)
            (kept / ".complete").touch()
    return kept


def _own_wheel() -> Path:
    """Our wheel, built once by this process from the sources of then."""
    with _building:
        return _build_wheel()


@functools.cache
def _build_wheel() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="cep-wheel-", dir="/tmp"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return venvs.own_wheel(directory)


def _in_container(tag: str, words: Sequence[str], mounts: dict[Path, str], place: str) -> None:
    _run(tag, [f"{place}/bin/{words[0]}", *words[1:]], mounts)


def _run(tag: str, argv: Sequence[str], mounts: dict[Path, str]) -> None:
    """Run a command as root in a container that ends with it; it may reach the package index."""
    options = ["--rm", "--entrypoint", argv[0]]
    for name, value in docker_engine.session_labels().items():
        options += ["--label", f"{name}={value}"]
    for source, target in mounts.items():
        options += ["--volume", f"{source}:{target}"]
    authorities = next(
        (os.environ[name] for name in _AUTHORITIES if os.environ.get(name)),
        str(_DEFAULT_AUTHORITIES),
    )
    if Path(authorities).is_file():
        options += ["--volume", f"{authorities}:/authorities.pem:ro"]
        options += ["--env", "PIP_CERT=/authorities.pem"]
    if index := os.environ.get("PIP_INDEX_URL"):
        options += ["--env", f"PIP_INDEX_URL={index}"]
    done = subprocess.run(
        ["docker", "run", *options, tag, *argv[1:]],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_INSTALL_S,
    )
    if done.returncode != 0:
        raise venvs.CannotInstall(f"{' '.join(argv)} failed:\n{done.stdout[-2000:]}")
