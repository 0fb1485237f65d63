"""Wrap the workers' command so that it runs in a container, as the configuration says.

Pure text. The forms are those that the published endpoint documents:
`docker run OPTIONS -v RUNDIR:RUNDIR -t IMAGE COMMAND` for docker, podman and podman-hpc,
`apptainer run OPTIONS IMAGE COMMAND` for apptainer and singularity (with the run directory bound,
which the published one leaves to the site's defaults), and for `custom` the options with
`{EXECUTOR_RUNDIR}` and `{EXECUTOR_LAUNCH_CMD}` filled in.
Source: "Containerized Environments" of globus-compute-endpoint's user guide, 2.19 and 4.19.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cep.config.container import (
    APPTAINER_LIKE,
    COMMAND_FIELD,
    CONTAINER_TYPES,
    CUSTOM,
    DOCKER_LIKE,
    RUN_DIR_FIELD,
    one_line,
    option_words,
)
from cep.config.settings import HtexSettings
from cep.errors import ConfigError

_FIELDS = re.compile(f"{re.escape(RUN_DIR_FIELD)}|{re.escape(COMMAND_FIELD)}")
# A word that no shell changes, but for a leading tilde, which is meant to be changed.
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./~^-]+")
_VARIABLE = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[A-Za-z_][A-Za-z0-9_]*\})")
_SPECIAL_IN_DOUBLE_QUOTES = re.compile(r'["\\$`]')
# What `-v` and `--bind` take for the end of a path.
_SEPARATORS = {**dict.fromkeys(DOCKER_LIKE, ":"), **dict.fromkeys(APPTAINER_LIKE, ":,")}


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
        if self.type == CUSTOM:
            return False
        words = option_words(self.options)
        if self.type in APPTAINER_LIKE:
            return "--net" not in words and "-n" not in words
        return "--network=host" in words or "--net=host" in words or _follows(words, "host")

    def check_mount(self, directory: str, key: str) -> None:
        """See that a directory can be mounted.

        Args:
            directory: Its path.
            key: The key of the configuration that would move it.

        Raises:
            ConfigError: Its path has a character that the container command takes for the end of
                a path.
        """
        for character in _SEPARATORS.get(self.type, ""):
            if character in directory:
                raise ConfigError(
                    f"{self.type} cannot mount {directory}: its path has a {character!r}.",
                    hint=f"Set {key} in the configuration to a path without it.",
                )

    def wrap(self, command: str, run_dir: str, read_only: Sequence[str] = ()) -> str:
        """Return the command that runs `command` in the container.

        Args:
            command: Words for a shell.
            run_dir: The endpoint's run directory, which the container sees under the same path.
            read_only: Further directories that it sees so; a `custom` command has to mount them
                itself.
        """
        options = one_line(self.options)
        if self.type == CUSTOM:
            return _fill(options, {RUN_DIR_FIELD: run_dir, COMMAND_FIELD: command})
        words = [self.type, "run", *([options] if options else [])]
        mount = shlex.quote(run_dir)
        if self.type in DOCKER_LIKE:
            words += [f"-v {one}:{one}:ro" for one in map(shlex.quote, read_only)]
            words += ["-v", f"{mount}:{mount}", "-t"]
        else:
            words += [f"--bind {one}:{one}:ro" for one in map(shlex.quote, read_only)]
            words += ["--bind", mount]
        return " ".join([*words, self.image, command])

    @property
    def image(self) -> str:
        """The image as one word for the shell."""
        return _word(self.uri)


def _follows(words: list[str], value: str) -> bool:
    return any(
        option in ("--network", "--net") and word == value for option, word in pairwise(words)
    )


def _word(text: str) -> str:
    """One word for the shell: variables and a leading `~/` are meant, nothing else is special."""
    if _PLAIN.fullmatch(text):
        return text
    head, rest = ("~/", text[2:]) if text.startswith("~/") else ("", text)
    if not _VARIABLE.search(rest):
        return head + shlex.quote(rest)
    parts: list[str] = []
    end = 0
    for variable in _VARIABLE.finditer(rest):
        parts += [_in_double_quotes(rest[end : variable.start()]), variable[0]]
        end = variable.end()
    return f'{head}"{"".join(parts)}{_in_double_quotes(rest[end:])}"'


def _fill(template: str, values: dict[str, str]) -> str:
    """Put values into a command, each escaped for the quotes that it stands in.

    Outside of quotes the run directory becomes one word, and the command stays a command.
    """
    parts: list[str] = []
    end = 0
    for field in _FIELDS.finditer(template):
        quote = _quote_at(template, field.start())
        value = values[field[0]]
        if quote == '"':
            value = _in_double_quotes(value)
        elif quote == "'":
            value = value.replace("'", "'\\''")
        elif field[0] == RUN_DIR_FIELD:
            value = shlex.quote(value)
        parts += [template[end : field.start()], value]
        end = field.end()
    return "".join([*parts, template[end:]])


def _quote_at(text: str, place: int) -> str:
    """The quotes that are open at this place of a command, or nothing (POSIX shell, 2.2)."""
    quote = ""
    at = 0
    while at < place:
        character = text[at]
        if character == "\\" and quote != "'":
            at += 1  # the next one means nothing special
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        at += 1
    return quote


def _in_double_quotes(text: str) -> str:
    return _SPECIAL_IN_DOUBLE_QUOTES.sub(lambda found: "\\" + found[0], text)


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
    if kind == CUSTOM:
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
