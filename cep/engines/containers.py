"""Wrap the workers' command so that it runs in a container, as the configuration says.

Pure text. The forms are those that the published endpoint documents:
`docker run OPTIONS -v RUNDIR:RUNDIR -t IMAGE COMMAND` for docker, podman and podman-hpc,
`apptainer run OPTIONS IMAGE COMMAND` for apptainer and singularity, and for `custom` the options
with `{EXECUTOR_RUNDIR}` and `{EXECUTOR_LAUNCH_CMD}` filled in.
Source: globus-compute-endpoint 4.19, "Containerized environments".
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import pairwise

from cep.config.settings import HtexSettings
from cep.errors import ConfigError

DOCKER_LIKE = ("docker", "podman", "podman-hpc")
APPTAINER_LIKE = ("apptainer", "singularity")
CONTAINER_TYPES = (*DOCKER_LIKE, *APPTAINER_LIKE, "custom")
RUN_DIR_FIELD = "{EXECUTOR_RUNDIR}"
COMMAND_FIELD = "{EXECUTOR_LAUNCH_CMD}"


@dataclass(frozen=True, slots=True)
class Container:
    """A checked choice of container.

    Attributes:
        type: One of `CONTAINER_TYPES`.
        uri: Image; empty for `custom`.
        options: Words for the container command; for `custom`, the whole command.
    """

    type: str
    uri: str
    options: str

    @property
    def shares_network(self) -> bool:
        """Whether the container surely sees the host's loopback addresses."""
        if self.type in APPTAINER_LIKE:
            return True
        words = shlex.split(self.options)
        return "--network=host" in words or "--net=host" in words or _follows(words, "host")

    def wrap(self, command: str, run_dir: str) -> str:
        """Return the command that runs `command` in the container."""
        if self.type == "custom":
            filled = self.options.replace(RUN_DIR_FIELD, run_dir)
            return " ".join(filled.replace(COMMAND_FIELD, command).splitlines()).strip()
        words = [self.type, "run"]
        if self.options:
            words.append(" ".join(self.options.split("\n")).strip())
        if self.type in DOCKER_LIKE:
            mount = shlex.quote(run_dir)
            words += ["-v", f"{mount}:{mount}", "-t"]
        return " ".join([*words, self.uri, command])


def _follows(words: list[str], value: str) -> bool:
    return any(
        option in ("--network", "--net") and word == value for option, word in pairwise(words)
    )


def container_of(settings: HtexSettings) -> Container | None:
    """Return the configured container, or None without one.

    Raises:
        ConfigError: The type is unknown, or what it needs is missing.
    """
    kind = settings.container_type
    if kind is None:
        return None
    if kind not in CONTAINER_TYPES:
        raise ConfigError(
            f"engine.container_type is {kind!r}, which is not known. "
            f"Known are: {', '.join(CONTAINER_TYPES)}."
        )
    options = (settings.container_cmd_options or "").strip()
    if kind == "custom":
        if COMMAND_FIELD not in options:
            raise ConfigError(
                "engine.container_type is 'custom', so engine.container_cmd_options must be the "
                f"whole command, with {COMMAND_FIELD} where the workers' command goes."
            )
        return Container(kind, "", options)
    if not settings.container_uri:
        raise ConfigError(
            f"engine.container_type is {kind!r}, but engine.container_uri, the image to run, "
            "is missing."
        )
    return Container(kind, settings.container_uri, options)
