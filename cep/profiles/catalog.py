"""The site profiles that exist: a template, and a schema of its variables, for each.

Reads the shipped files only; no effects. Runs in the command line's one thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cep.errors import ConfigError, SoftwareError, UsageError
from cep.paths import templates_dir
from cep.safety.files import check_trusted

_TEMPLATE = ".yaml.j2"
_SCHEMA = ".schema.yaml"


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a profile.

    Attributes:
        name: As in `--set NAME=VALUE`.
        type: `text`, `integer`, `flag` or `choice`.
        default: What holds without it; None means "not written".
        description: One sentence.
        options: The options of a choice.
    """

    name: str
    type: str
    default: Any
    description: str
    options: tuple[Any, ...] = ()

    def read(self, text: str) -> Any:
        """Return the value that a person typed.

        Raises:
            UsageError: It is not of the variable's type.
        """
        if text == "" or text.lower() == "null":
            return None
        if self.type == "text":
            return text
        if self.type == "integer" and text.isascii() and text.isdigit():
            return int(text)
        if self.type == "flag" and text.lower() in ("true", "yes", "on", "1"):
            return True
        if self.type == "flag" and text.lower() in ("false", "no", "off", "0"):
            return False
        for option in self.options:
            if text == str(option):
                return option
        wanted = {
            "integer": "a whole number, 0 or more",
            "flag": "true or false",
        }.get(self.type, "one of " + ", ".join(str(option) for option in self.options))
        raise UsageError(f"The variable {self.name} is {text!r}, but it must be {wanted}.")


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile: how the configuration of one kind of site is written."""

    name: str
    summary: str
    template: Path
    variables: Mapping[str, Variable]


def names() -> list[str]:
    """The names of all profiles."""
    folder = templates_dir() / "configs"
    return sorted(path.name[: -len(_TEMPLATE)] for path in folder.glob(f"*{_TEMPLATE}"))


def find(name: str) -> Profile:
    """Return a profile.

    Raises:
        UsageError: There is none of this name; the message lists those that exist.
        SoftwareError: Its schema is damaged.
        ConfigError: Others can change its files.
    """
    known = names()
    if name not in known:
        raise UsageError(
            f"There is no profile {name!r}. The profiles are: {', '.join(known)}.",
        )
    folder = templates_dir() / "configs"
    schema_path = folder / f"{name}{_SCHEMA}"
    template = folder / f"{name}{_TEMPLATE}"
    for place in (folder, schema_path, template):
        check_trusted(place, ConfigError, f"Of the profile {name},", any_owner=True)
    try:
        schema = yaml.safe_load(schema_path.read_text(encoding="utf-8"))
        variables = {
            key: Variable(
                name=key,
                type=str(entry["type"]),
                default=entry["default"],
                description=str(entry["description"]),
                options=tuple(entry.get("options", ())),
            )
            for key, entry in schema["variables"].items()
        }
        summary = str(schema["summary"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as exc:
        raise SoftwareError(
            f"The schema {schema_path} of profile {name} is damaged: {exc!r}.",
            hint="Install cep-endpoint again.",
        ) from exc
    return Profile(name, summary, template, variables)
