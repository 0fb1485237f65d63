"""The network of a host whose Docker engine has its containers on a bridge beside it.

Docker's engine is the machine's, so that its bridge is not in a namespace that a test makes. A
container that only sleeps stands for the host: a scene in its network has an address on that
bridge, as a laptop has that of `docker0`, and loopback of its own. The official SDK runs in a
container, too, so that a function meets the minor version of Python that it was serialized with.
"""

from __future__ import annotations

import secrets
import subprocess
from pathlib import Path
from types import TracebackType

from tests.integration import docker_engine
from tests.integration.netns import why_not
from tests.integration.scene import SDK_CLIENT, Scene
from tests.integration.servers import SharedNetwork


class BridgedHost(SharedNetwork):
    """See the module; for one scene. The Docker engine has to be up.

    Args:
        image: Tag of any image that has `sleep`.
    """

    def __init__(self, image: str) -> None:
        super().__init__(0)
        self._image = image

    def __enter__(self) -> BridgedHost:
        if why_not() is not None:
            super(SharedNetwork, self).__enter__()  # skips, and says why
        self._engine = docker_engine.client()
        self._container = self._engine.containers.run(
            self._image,
            ["sleep", "infinity"],
            entrypoint="",
            name=f"cep-host-{secrets.token_hex(4)}",
            labels=docker_engine.session_labels(),
            detach=True,
        )
        self._container.reload()
        self._pid = int(self._container.attrs["State"]["Pid"])
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            super().__exit__(kind, value, traceback)
        finally:
            docker_engine.remove_container(self._container)
            self._engine.close()

    @property
    def container_id(self) -> str:
        """For `--network container:ID`."""
        return str(self._container.id)


class ContainerScene(Scene):
    """A scene on such a host.

    Args:
        image: Tag of the endpoint's image; it has the SDK.
    """

    def __init__(self, image: str) -> None:
        self.host = BridgedHost(image)
        super().__init__(network=self.host)
        self._sdk_image = image

    def sdk_popen(self, *words: str, python: Path | None = None) -> subprocess.Popen[str]:
        """Start `sdk_client.py` in a container that shares the scene's network and files."""
        del python
        laptop = {**self.sdk_environment(), "HOME": str(self.root)}
        wanted = ("GLOBUS_", "HOME", "TMPDIR")
        options = ["--rm", "--user", "0:0", "--network", f"container:{self.host.container_id}"]
        for name, value in laptop.items():
            if name.startswith(wanted):
                options += ["--env", f"{name}={value}"]
        for name, value in docker_engine.session_labels().items():
            options += ["--label", f"{name}={value}"]
        options += ["--volume", f"{self.root}:{self.root}"]
        options += ["--volume", f"{SDK_CLIENT}:{SDK_CLIENT}:ro"]
        command = ["docker", "run", *options, self._sdk_image, "python3", str(SDK_CLIENT), *words]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
