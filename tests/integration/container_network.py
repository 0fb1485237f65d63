"""The network of a host whose Docker engine has its containers on a bridge beside it.

Docker's engine is the machine's, so that its bridge is not in a namespace that a test makes. A
container that only sleeps stands for the host: a scene in its network has an address on that
bridge, as a laptop has that of `docker0`, and loopback of its own.
"""

from __future__ import annotations

import secrets
from types import TracebackType

from tests.integration import docker_engine
from tests.integration.netns import why_not
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
            self._container.remove(force=True, v=True)
            self._engine.close()

    @property
    def container_id(self) -> str:
        """For `--network container:ID`."""
        return str(self._container.id)
