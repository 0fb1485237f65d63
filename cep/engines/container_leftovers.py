"""Find and remove the containers that blocks of this host have left with docker or podman.

They are known by the labels that `cep.engines.container_guard` gives them. Used by the block thread
when it cancels blocks, by the agent's main thread at start, and by `stop` and `delete` when no
agent is left; never by two of them for the same block at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from cep.config.container import CUSTOM, DOCKER_LIKE
from cep.config.settings import EngineSettings, HtexSettings
from cep.engines.container_guard import BLOCK_LABEL, ENDPOINT_LABEL
from cep.engines.scheduler_command import run
from cep.errors import EngineError

log = logging.getLogger(__name__)

COMMAND_S = 30.0  # an engine that answers at all needs a second
# What `rm` says when another was faster, such as the block's own script or `--rm`.
_GONE = ("no such container", "no container with", "is already in progress")


@dataclass(frozen=True, slots=True)
class Containers:
    """The containers of one endpoint on this host.

    Attributes:
        engine: The command: docker, podman or podman-hpc.
        endpoint_id: Whose they are.
    """

    engine: str
    endpoint_id: str

    def end(self, block: str | None = None) -> list[str]:
        """Remove them, running or not, and wait until they are gone or others remove them.

        Args:
            block: Only those of this block.

        Returns:
            Their ids, shortened as the engine shows them.

        Raises:
            EngineError: The engine does not answer, or refuses.
        """
        filters = ["--filter", f"label={ENDPOINT_LABEL}={self.endpoint_id}"]
        if block is not None:
            filters += ["--filter", f"label={BLOCK_LABEL}={block}"]
        found = self._ask("ps", "--all", "--quiet", *filters).split()
        if found:
            # podman would first ask them to end, and wait for ten seconds.
            at_once = ["--time", "0"] if self.engine.startswith("podman") else []
            self._ask("rm", "--force", "--volumes", *at_once, *found)
            log.warning(
                "removed containers that had outlived their block: %s",
                ", ".join(found),
                extra={"event": "blocks.containers"},
            )
        return found

    def _ask(self, *words: str) -> str:
        said = run([self.engine, *words], COMMAND_S)
        if said.code != 0 and not any(word in said.words.lower() for word in _GONE):
            raise EngineError(f"`{self.engine} {words[0]}` failed: {said.words}")
        return said.stdout


def containers_of(settings: EngineSettings, tag: str) -> Containers | None:
    """The containers that an endpoint's blocks can leave on this host, or None.

    Args:
        settings: Its engine.
        tag: The endpoint's id, alone or as the beginning of `ENDPOINT.LIFE`.
    """
    endpoint_id = tag.partition(".")[0]
    if not endpoint_id or not isinstance(settings, HtexSettings):
        return None
    kind = settings.container_type
    if kind not in DOCKER_LIKE or settings.provider.type != "LocalProvider":
        return None
    return Containers(kind, endpoint_id)


def end_leftover_containers(settings: EngineSettings, endpoint_id: str | None) -> list[str]:
    """Remove what earlier lives of an endpoint have left; no agent of it may be running.

    Raises:
        EngineError: Nobody can say what they have left.
    """
    containers = containers_of(settings, endpoint_id or "")
    return [] if containers is None else containers.end()


def warn_of_unknown(settings: EngineSettings) -> None:
    """Say that a custom command of an earlier life may have left a container.

    What such a command starts, and with which engine, nobody but its author knows. For an earlier
    life whose processes had to be ended: one that ended by itself has ended its workers, too.
    """
    if isinstance(settings, HtexSettings) and settings.container_type == CUSTOM:
        log.warning(
            "containers that engine.container_cmd_options has started in an earlier life "
            "are not looked for and may still run; their engine lists them (`docker ps`, say)",
            extra={"event": "recovery.custom-containers"},
        )
