"""A Docker engine, a base image and our test images, from nothing but root and apt.

A site, a laptop and a CI runner differ in what they have: an engine may be missing, not started,
or unable to reach an image registry. This module makes up for each: it installs and starts the
engine, pulls the base image or else makes it from the machine's own apt mirror, and builds the
images of `tests/integration/images/*/Dockerfile` once, tagged by the hash of their files.

The engine and the images stay for the next run; containers, networks and volumes do not: each
carries `SESSION_LABEL` with the test process that made it, and is removed at its end.

Runs in the thread that calls it; a file lock lets several test processes prepare side by side.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Read by testcontainers and by the docker command when they are imported or run: the reaper image
# needs a registry, and the classic builder is the only one in Debian's engine.
os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
os.environ.setdefault("DOCKER_BUILDKIT", "0")

SOCKET = Path("/var/run/docker.sock")
IMAGES_DIR = Path(__file__).parent / "images"
# Only the long form of the tests (LONG=1) starts containers from these.
LONG_ONLY = frozenset({"gridengine", "htcondor", "podman", "slurm-systemd"})
SESSION_LABEL = "cep.tests.pid"  # value: pid of the test process on this host
ENGINE_START_S = 60.0
PULL_S = 120.0
ANSWER_S = 240  # docker's own minute is short for an engine that other tests keep busy


class EngineMissing(Exception):
    """There is no Docker engine and none can be had; the text says why."""


def client() -> Any:
    """Return a docker client on the engine's socket; the caller closes it."""
    import docker

    address = os.environ.get("DOCKER_HOST", f"unix://{SOCKET}")
    return docker.DockerClient(base_url=address, timeout=ANSWER_S)


def engine_answers() -> bool:
    """Tell whether an engine answers now, without starting one."""
    import docker.errors
    import requests

    try:
        with contextlib.closing(client()) as engine:
            return bool(engine.ping())
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return False


def ensure_engine() -> None:
    """Have an engine that answers: use it, start it, or install and start it.

    Raises:
        EngineMissing: None answers and this account cannot install or start one.
    """
    if engine_answers():
        return
    with _locked("engine"):
        if engine_answers():  # another test process was faster
            return
        if os.geteuid() != 0:
            raise EngineMissing(
                "No Docker engine answers, and only root can start one. "
                "Start the engine or run the tests as root."
            )
        if shutil.which("dockerd") is None:
            apt_install("docker.io", "iptables")
        _start_engine()
        if not engine_answers():
            raise EngineMissing("The Docker engine was started but does not answer.")


def _start_engine() -> None:
    """Start dockerd in a session of its own and wait until it reports ready."""
    log_path = Path(tempfile.gettempdir()) / "cep-test-dockerd.log"
    with (
        tempfile.TemporaryDirectory(prefix="cep-dockerd-") as directory,
        log_path.open("ab") as log,
    ):
        notify_path = str(Path(directory) / "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(notify_path)
            ready.settimeout(ENGINE_START_S)
            process = subprocess.Popen(
                ["dockerd", "-H", f"unix://{SOCKET}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": notify_path},
                start_new_session=True,
            )
            # One thread waits for an early end, so that a refusal is known at once.
            threading.Thread(
                target=_report_end, args=(process, notify_path), daemon=True, name="dockerd-end"
            ).start()
            try:
                message = b""
                while b"READY=1" not in message and b"ENDED=1" not in message:
                    message = ready.recv(4096)
            except TimeoutError:
                message = b"ENDED=1"
    if b"ENDED=1" in message:
        tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-10:])
        raise EngineMissing(f"The Docker engine does not start; its log ends with:\n{tail}")


def _report_end(process: subprocess.Popen[bytes], notify_path: str) -> None:
    process.wait()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.sendto(b"ENDED=1", notify_path)


def apt_install(*packages: str) -> None:
    """Install distribution packages.

    Raises:
        EngineMissing: There is no apt, or it refuses.
    """
    if shutil.which("apt-get") is None:
        raise EngineMissing(f"{', '.join(packages)} is not installed and there is no apt-get.")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            command,
            check=False,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    if done.returncode != 0:  # a failing update alone may be harmless: the install decides
        raise EngineMissing(f"apt-get cannot install {', '.join(packages)}:\n{done.stdout[-2000:]}")


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    """Keep other test processes of this machine out of the same preparation."""
    path = Path(tempfile.gettempdir()) / f"cep-test-{name}.{os.getuid()}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# --- base image ---------------------------------------------------------------------------------


def ensure_base(suite: str) -> str:
    """Have the image `debian:SUITE-slim`: present, pulled, or made from the apt mirror.

    Args:
        suite: Debian release name, e.g. `trixie`.

    Returns:
        The image's name.
    """
    name = f"debian:{suite}-slim"
    with _locked(f"base-{suite}"):
        if not has_image(name) and not _pulled(name):
            _make_base(suite, name)
    return name


def has_image(name: str) -> bool:
    import docker.errors

    with contextlib.closing(client()) as engine:
        try:
            engine.images.get(name)
        except docker.errors.ImageNotFound:
            return False
        return True


def _pulled(name: str) -> bool:
    """Try the registry; an engine without one fails at once (no such host) or by the time-out."""
    try:
        done = subprocess.run(
            ["docker", "pull", "-q", name], check=False, capture_output=True, timeout=PULL_S
        )
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return False
    return done.returncode == 0


def apt_mirror(sources: Sequence[Path] | None = None) -> str | None:
    """Return the Debian mirror that this machine itself uses; None leaves it to the bootstrapper.

    Args:
        sources: Source lists to read, both formats; default those of the machine.
    """
    if sources is None:
        parts = Path("/etc/apt/sources.list.d")
        sources = [Path("/etc/apt/sources.list"), *sorted(parts.glob("*.sources"))]
        sources += sorted(parts.glob("*.list"))
    for path in sources:
        if not path.is_file():
            continue
        for line in path.read_text(errors="replace").splitlines():
            found = re.match(r"\s*(?:deb\s+(?:\[[^]]*\]\s+)?|URIs:\s*)(\S+/debian)/?(?:\s|$)", line)
            if found:
                return found.group(1)
    return None


def _make_base(suite: str, name: str) -> None:
    """Bootstrap a minimal Debian and import it under the public image's name."""
    if shutil.which("mmdebstrap") is None:
        apt_install("mmdebstrap")
    with tempfile.TemporaryDirectory(prefix="cep-base-") as directory:
        tar = Path(directory) / "base.tar"
        command = [
            "mmdebstrap", "--quiet", "--variant=apt", "--include=ca-certificates",
            suite, str(tar),
        ]  # fmt: skip
        mirror = apt_mirror()
        if mirror is not None:
            command.append(mirror)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise EngineMissing(f"The base image {name} cannot be made: {done.stderr[-2000:]}")
        with contextlib.closing(client()) as engine:
            repository, tag = name.split(":")
            engine.api.import_image_from_file(str(tar), repository=repository, tag=tag)


# --- our images ---------------------------------------------------------------------------------


def image_names() -> list[str]:
    """Names of all images that the tests have a Dockerfile for."""
    return sorted(path.parent.name for path in IMAGES_DIR.glob("*/Dockerfile"))


def image_tag(name: str) -> str:
    """Return the tag of an image: its name and the hash of all files it is made of."""
    digest = hashlib.sha256()
    root = IMAGES_DIR / name
    for path in sorted(root.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(root)}\0{path.stat().st_mode & 0o111}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return f"cep-test-{name}:{digest.hexdigest()[:12]}"


def ensure_image(name: str) -> str:
    """Have one image built from its present files; found by its tag when it already is.

    Args:
        name: Directory under `tests/integration/images`.

    Returns:
        The tag to start containers from.

    Raises:
        EngineMissing: The base image cannot be had.
        RuntimeError: The Dockerfile does not build; the text holds the end of its log.
    """
    tag = image_tag(name)
    with _locked(f"image-{name}"):
        if not has_image(tag):
            dockerfile = (IMAGES_DIR / name / "Dockerfile").read_text()
            for suite in set(re.findall(r"^FROM debian:(\w+)-slim", dockerfile, re.MULTILINE)):
                ensure_base(suite)
            _build(name, tag)
    return tag


def _build(name: str, tag: str) -> None:
    import docker.errors
    from testcontainers.core.image import DockerImage

    image = DockerImage(path=str(IMAGES_DIR / name), tag=tag, clean_up=False)
    try:
        image.build()
    except docker.errors.BuildError as exc:
        log = "".join(str(entry.get("stream", "")) for entry in exc.build_log)
        raise RuntimeError(f"The image {tag} does not build: {exc}\n{log[-3000:]}") from exc
    finally:
        image.remove()  # with clean_up=False this only closes the client


def prepare(names: Sequence[str] | None = None) -> dict[str, str]:
    """Have the engine and images ready, several images at a time.

    Args:
        names: Image names; default all that this form of the tests needs.

    Returns:
        Tag of each image by name.
    """
    ensure_engine()
    wanted = list(names or image_names())
    if not names and not os.environ.get("LONG"):
        wanted = [name for name in wanted if name not in LONG_ONLY]
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="image") as pool:
        return dict(zip(wanted, pool.map(ensure_image, wanted), strict=True))


# --- what a test process leaves -------------------------------------------------------------------


def session_labels() -> dict[str, str]:
    """Labels that every container, network and volume of a test must carry."""
    return {SESSION_LABEL: str(os.getpid())}


def remove_container(container: Any, within_s: float = 60.0) -> None:
    """Remove a container with its volumes, and return when it is gone.

    An engine that is busy gives up on a container that takes long to die, and one that is being
    removed already is not removed again; so it is asked until nothing is there. What is left after
    that time is for `remove_leftovers`.
    """
    import docker.errors

    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            container.remove(force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError:
            time.sleep(0.5)  # the engine tells nobody when it is done


def remove_leftovers(*, own: bool) -> None:
    """Remove what test processes made: ours, or only that of processes that are gone.

    Args:
        own: Remove the present process's things too.
    """
    with contextlib.closing(client()) as engine:
        marked = {"label": SESSION_LABEL}
        for container in engine.containers.list(all=True, filters=marked, ignore_removed=True):
            if _is_leftover(container.labels.get(SESSION_LABEL, ""), own=own):
                remove_container(container)
        for network in engine.networks.list(filters=marked):
            labels = network.attrs.get("Labels") or {}
            if _is_leftover(labels.get(SESSION_LABEL, ""), own=own):
                _forgiving(network.remove)
        for volume in engine.volumes.list(filters=marked):
            labels = volume.attrs.get("Labels") or {}
            if _is_leftover(labels.get(SESSION_LABEL, ""), own=own):
                _forgiving(lambda v=volume: v.remove(force=True))


def _is_leftover(pid: str, *, own: bool) -> bool:
    if pid == str(os.getpid()):
        return own
    return not Path("/proc", pid or "0").exists()


def _forgiving(remove: Any) -> None:
    import docker.errors

    # Another process that cleans up at the same time may have been faster.
    with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
        remove()


def free_port() -> int:
    """Return a free TCP port, as `free_ports` does."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return free TCP ports on loopback, below the kernel's range for outgoing connections.

    A client that retries against a closed port of that range may, rarely, connect to itself.
    """
    import random

    found: list[int] = []
    for port in random.sample(range(20_000, 32_000), 200):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"Not {count} free TCP ports between 20000 and 32000 on 127.0.0.1.")
