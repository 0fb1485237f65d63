"""What a configuration may say about the container of the workers, checked before anything starts.

Pure functions, for any thread. The kinds and the two fields of a `custom` command are those of the
published endpoint.
Source: "Containerized Environments" of globus-compute-endpoint's user guide, 2.19 and 4.19.
"""

from __future__ import annotations

import re
import shlex

from cep.config.components import OWN_CONTAINERS
from cep.config.settings import HtexSettings
from cep.config.walk import Walk

DOCKER_LIKE = ("docker", "podman", "podman-hpc")
APPTAINER_LIKE = ("apptainer", "singularity")
CUSTOM = "custom"
CONTAINER_TYPES = (*DOCKER_LIKE, *APPTAINER_LIKE, CUSTOM)
RUN_DIR_FIELD = "{EXECUTOR_RUNDIR}"
COMMAND_FIELD = "{EXECUTOR_LAUNCH_CMD}"

_URI, _OPTIONS = "engine.container_uri", "engine.container_cmd_options"
# Launchers that write the workers' command by a here-document expand these in any quotes.
_IN_NO_IMAGE = re.compile(r"[`\\]|\$\(")


def check_container(walk: Walk, settings: HtexSettings) -> None:
    """Note what is wrong or without effect in the three container keys of an engine."""
    kind, uri = settings.container_type, settings.container_uri
    if uri is not None and settings.provider.type in OWN_CONTAINERS:
        walk.problem(_URI, None, f"cannot be used: {settings.provider.type} has its own")
    if kind is None:
        _warn_unused(walk, settings)
    elif kind == CUSTOM:
        _check_custom(walk, settings.container_cmd_options or "", uri)
    else:
        if uri is None or not uri.strip():
            walk.problem(_URI, None, f"is missing; {kind} needs an image")
        elif _IN_NO_IMAGE.search(uri):
            walk.problem(
                _URI,
                None,
                f"{uri!r} is no image: some launchers would run a part of it as a command",
            )
        _check_options(walk, kind, settings.container_cmd_options or "")


def _warn_unused(walk: Walk, settings: HtexSettings) -> None:
    values = {_URI: settings.container_uri, _OPTIONS: settings.container_cmd_options}
    for key, value in values.items():
        if value is not None:
            walk.warnings.append(
                f"{walk.origin}: {key} has no effect: without engine.container_type there is no "
                "container."
            )


def _check_custom(walk: Walk, command: str, uri: str | None) -> None:
    if COMMAND_FIELD not in command:
        state = "is missing" if not command.strip() else f"has no {COMMAND_FIELD}"
        walk.problem(
            _OPTIONS,
            None,
            f"{state}; a custom container needs its whole command here, with {RUN_DIR_FIELD} and, "
            f"where the workers' command goes, {COMMAND_FIELD}",
        )
    elif RUN_DIR_FIELD not in command:
        walk.warnings.append(
            f"{walk.origin}: {_OPTIONS} has no {RUN_DIR_FIELD}. Unless the container sees the "
            "endpoint's run directory under the same path anyway, its workers find neither their "
            "certificates nor a place for their logs."
        )
    if uri is not None:
        walk.warnings.append(
            f"{walk.origin}: {_URI} has no effect: the image of a custom container is a part of "
            f"{_OPTIONS}."
        )


def _check_options(walk: Walk, kind: str, options: str) -> None:
    """Refuse what would swallow the image and the workers' command that follow the options."""
    try:
        words = option_words(options)
    except ValueError as error:
        problem = str(error).lower().rstrip(".")
        walk.problem(_OPTIONS, None, f"cannot be split into words: {problem}")
        return
    comment = next((word for word in words if word.startswith("#")), None)
    if comment is not None and comment in options.split():
        walk.problem(_OPTIONS, None, f"{comment!r} begins a comment, which would hide the image")
    for one in ("-d", "--detach"):
        if kind in DOCKER_LIKE and one in words:
            walk.problem(
                _OPTIONS,
                None,
                f"{one} cannot be used: a block lasts as long as its command, which would end at "
                "once",
            )


def option_words(options: str) -> list[str]:
    """The words of a container command's options; variables stay as they are written.

    Raises:
        ValueError: A quotation is open or nothing is escaped.
    """
    return shlex.split(one_line(options))


def one_line(text: str) -> str:
    """The text on one line: line ends, escaped by a backslash or not, become blanks."""
    return " ".join(text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines()).strip()
