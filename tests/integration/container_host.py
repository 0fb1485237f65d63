"""A host with Apptainer or podman, in a container: an ordinary account, its home, and images.

The container gets what their unprivileged modes ask of a kernel and an engine: mounts in user
namespaces and /dev/fuse. Apptainer's images, a directory (sandbox) and a SIF file, are made once
from the test image `python`, which has Python and nothing of ours, and kept by the engine: an image
of the host with both in it, which is found by its tag like the others.
"""

from __future__ import annotations

import contextlib
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
# The account's own, as if it had built them; a level of compression that is soon done.
_BUILD = f"""
chown -R {UID}:{UID} {IMAGES}
chmod -R u+rwX {SANDBOX}
exec runuser -u {ACCOUNT} -- \\
    apptainer build --mksquashfs-args '-Xcompression-level 1' {SIF} {SANDBOX}
"""
# The first process takes the orphans.
_MAIN = ["sh", "-c", "chmod 666 /dev/fuse; trap 'exit 0' TERM; sleep infinity & wait"]
_UNCONFINED = [f"{name}=unconfined" for name in ("seccomp", "apparmor", "systempaths")]


class ContainerHost:
    """See the module. Use it with `with`; `slurm_site.SlurmSite` installs cep and a hub in it.

    Args:
        image: The test image's name.
        tag: What to start instead of the test image: one that was made from it.
        images: A directory that the container sees as `/images`.

    Attributes:
        image: The same.
        home: What the container sees as /home.
    """

    def __init__(self, image: str, *, tag: str = "", images: Path | None = None) -> None:
        self.image = image
        self._tag = tag
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
            with contextlib.closing(docker_engine.client()) as engine:
                docker_engine.remove_container(engine.containers.get(self._container))
        shutil.rmtree(self.root, ignore_errors=True)

    def _start(self) -> None:
        account = self.home / ACCOUNT
        account.mkdir(parents=True)
        os.chown(account, UID, UID)
        self.root.chmod(0o755)
        volumes = ["--volume", f"{self.home}:/home"]
        if self._images is not None:
            volumes += ["--volume", f"{self._images}:{IMAGES}:ro"]
        image = self._tag or docker_engine.ensure_image(self.image)
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


def apptainer_with_images() -> str:
    """The tag of the test image `apptainer` with both images of Apptainer in it."""
    host, python = docker_engine.ensure_image("apptainer"), docker_engine.ensure_image("python")
    tag = f"cep-test-apptainer-images:{venvs.key(host, python, _BUILD)}"
    with venvs.locked("apptainer-images"):
        if not docker_engine.has_image(tag):
            container = _run(["docker", "run", "--detach", *_options(), host, *_MAIN]).strip()
            try:
                _copy(python, container)
                _run(["docker", "exec", container, "sh", "-ec", _BUILD])
                _run(["docker", "commit", container, tag])
            finally:
                _run(["docker", "rm", "--force", "--volumes", container])
    return tag


def _options() -> list[str]:
    """What a container must be allowed, for docker's command; its library knows not all of it."""
    options = ["--cap-add", "SYS_ADMIN", *(f"--security-opt={one}" for one in _UNCONFINED)]
    for name, value in docker_engine.session_labels().items():
        options += ["--label", f"{name}={value}"]
    return options


def _copy(image: str, container: str) -> None:
    """Put an image's files into the directory in a container that becomes the sandbox."""
    labels = [f"--label={name}={value}" for name, value in docker_engine.session_labels().items()]
    source = _run(["docker", "create", *labels, image, "true"]).strip()
    unpack = f"mkdir -p {SANDBOX} && tar -x -C {SANDBOX} --exclude='dev/*'"
    try:
        with subprocess.Popen(["docker", "export", source], stdout=subprocess.PIPE) as reading:
            subprocess.run(
                ["docker", "exec", "-i", container, "sh", "-ec", unpack],
                stdin=reading.stdout,
                check=True,
                timeout=_BUILD_S,
            )
        assert reading.returncode == 0
    finally:
        _run(["docker", "rm", "--force", "--volumes", source])


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
