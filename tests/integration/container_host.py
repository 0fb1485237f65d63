"""A host with Apptainer or podman, in a container: an ordinary account, its home, and images.

The container gets what their unprivileged modes ask of a kernel and an engine: mounts in user
namespaces and /dev/fuse. Apptainer's images, a directory (sandbox) and a SIF file, are made once
from the test image `python`, which has Python and nothing of ours, and kept in `.cache/`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.integration import docker_engine, venvs
from tests.integration.slurm import ACCOUNT, HOME, LONGEST_S, SERVICE_ENVIRONMENT, UID

IMAGES = "/images"
SANDBOX, SIF = f"{IMAGES}/sandbox", f"{IMAGES}/python.sif"
_BUILD_S = 300.0
# The first process takes the orphans.
_MAIN = ["sh", "-c", "chmod 666 /dev/fuse; trap 'exit 0' TERM; sleep infinity & wait"]
_UNCONFINED = [f"{name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")]


class ContainerHost:
    """See the module. Use it with `with`; `slurm_site.SlurmSite` installs cep and a hub in it.

    Args:
        image: The test image's name.
        images: A directory that the container sees as `/images`.

    Attributes:
        image: The same.
        home: What the container sees as /home.
    """

    def __init__(self, image: str, images: Path) -> None:
        self.image = image
        self._images = images
        self.root = Path(tempfile.mkdtemp(prefix=f"cep-{image}-", dir="/tmp"))
        self.home = self.root / "home"
        self._container = ""

    def __enter__(self) -> ContainerHost:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._container:
            subprocess.run(
                ["docker", "rm", "--force", "--volumes", self._container],
                check=False,
                stdout=subprocess.DEVNULL,
            )
        shutil.rmtree(self.root, ignore_errors=True)

    def _start(self) -> None:
        account = self.home / ACCOUNT
        account.mkdir(parents=True)
        os.chown(account, UID, UID)
        self.root.chmod(0o755)
        volumes = ["--volume", f"{self.home}:/home"]
        volumes += ["--volume", f"{self._images}:{IMAGES}:ro"]
        image = docker_engine.ensure_image(self.image)
        command = ["docker", "run", "--detach", "--device", "/dev/fuse", *_options(), *volumes]
        self._container = _run([*command, image, *_MAIN]).strip()

    def run(
        self,
        *argv: str | os.PathLike[str],
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout_s: float = LONGEST_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the account, with a service's environment and `env` on top."""
        variables = {**SERVICE_ENVIRONMENT, **(env or {})}
        bare = ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]
        command = ["docker", "exec", "--user", ACCOUNT, "--workdir", HOME, self._container]
        done = subprocess.run(
            [*command, *bare, *map(os.fspath, argv)],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            pytest.fail(f"{argv} ended with {done.returncode}.\n{done.stdout}\n{done.stderr}")
        return done


def apptainer_images() -> Path:
    """The directory with both images of Apptainer."""
    host, python = docker_engine.ensure_image("apptainer"), docker_engine.ensure_image("python")
    kept = venvs.CACHE / f"apptainer-{venvs.key(host, python)}"
    with venvs.locked(kept.name):
        if not (kept / ".complete").exists():
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            _unpack(python, kept / Path(SANDBOX).name)
            options = ["--rm", "--user", f"{UID}:{UID}", "--env", "HOME=/tmp", *_options()]
            options += ["--volume", f"{kept}:{IMAGES}"]
            _run(["docker", "run", *options, host, "apptainer", "build", SIF, SANDBOX])
            (kept / ".complete").touch()
    return kept


def _options() -> list[str]:
    """What a container must be allowed, for docker's command; its library knows not all of it."""
    options = ["--cap-add", "SYS_ADMIN", *(f"--security-opt={one}" for one in _UNCONFINED)]
    for name, value in docker_engine.session_labels().items():
        options += ["--label", f"{name}={value}"]
    return options


def _unpack(image: str, directory: Path) -> None:
    """Put an image's files into a directory that the account owns."""
    directory.mkdir()
    engine = docker_engine.client()
    container = engine.containers.create(image, "true", labels=docker_engine.session_labels())
    try:
        with subprocess.Popen(
            ["tar", "-x", "-C", str(directory), "--exclude=dev/*"], stdin=subprocess.PIPE
        ) as tar:
            assert tar.stdin is not None
            for chunk in container.export():
                tar.stdin.write(chunk)
        assert tar.returncode == 0
    finally:
        container.remove(force=True, v=True)
        engine.close()
    _run(["chown", "-R", f"{UID}:{UID}", str(directory), str(directory.parent)])
    _run(["chmod", "-R", "u+rwX", str(directory)])


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_BUILD_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout
