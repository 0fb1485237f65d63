"""Profile + variables -> the text of a config.yaml, checked before anybody writes it. No effects.

Templates run in jinja's sandbox with undefined variables as errors; every text passes a filter
that makes it safe YAML.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from cep.config.load import load_text
from cep.errors import SoftwareError, UsageError
from cep.profiles.catalog import Profile, Variable


def chosen(profile: Profile, assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of `--set NAME=VALUE` words, by name.

    Raises:
        UsageError: A word is no assignment, or names no variable of the profile.
    """
    values: dict[str, Any] = {}
    for word in assignments:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes NAME=VALUE, not {word!r}.")
        values[name] = _variable(profile, name).read(text)
    return values


def check_names(profile: Profile, values: Mapping[str, Any]) -> None:
    """Check that all values belong to variables of the profile.

    Raises:
        UsageError: One does not.
    """
    for name in values:
        _variable(profile, name)


def render(
    profile: Profile,
    values: Mapping[str, Any],
    *,
    service_url: str | None,
    service_is_hub: bool,
    ca_file: str | None = None,
    origin: str,
) -> str:
    """Return the configuration's text, which `cep validate` would accept.

    Args:
        profile: The profile.
        values: What was chosen; the rest has the schema's defaults.
        service_url: Written into the file when not None.
        service_is_hub: The service says its AMQP port itself.
        ca_file: Written into the file as `ssl_ca_file` when not None.
        origin: What to call the result in messages, usually its path.

    Raises:
        ConfigError: The values do not make a valid configuration.
    """
    variables = {name: variable.default for name, variable in profile.variables.items()}
    variables.update({name: value for name, value in values.items() if value is not None})
    environment = SandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the result is YAML; every text goes through the filter
    )
    environment.filters["yaml"] = as_yaml
    try:
        template = environment.from_string(profile.template.read_text(encoding="utf-8"))
        text = template.render(
            **variables, service_url=service_url, service_is_hub=service_is_hub, ca_file=ca_file
        )
    except (OSError, TemplateError) as exc:
        raise SoftwareError(f"The template of profile {profile.name} is damaged: {exc}.") from exc
    load_text(text, origin)
    return text


def as_yaml(value: Any) -> str:
    """A value as one line of YAML, quoted where it has to be."""
    if isinstance(value, str) and ("\n" in value or value != value.strip()):
        dumped = yaml.safe_dump(value, default_style='"', width=2**20, allow_unicode=True)
    else:
        dumped = yaml.safe_dump(value, width=2**20, allow_unicode=True)
    return dumped.removesuffix("\n").removesuffix("\n...").strip()


def difference(old: str, new: str, path: str) -> str:
    """A unified diff from the old text to the new one; empty when they are equal."""
    return "".join(
        difflib.unified_diff(
            old.splitlines(keepends=True),
            new.splitlines(keepends=True),
            fromfile=path,
            tofile=f"{path} (new)",
        )
    )


def _variable(profile: Profile, name: str) -> Variable:
    if name not in profile.variables:
        close = difflib.get_close_matches(name, profile.variables, n=1)
        hint = f"Did you mean {close[0]}?" if close else None
        listed = ", ".join(profile.variables)
        raise UsageError(
            f"The profile {profile.name} has no variable {name!r}; it has {listed}.", hint=hint
        )
    return profile.variables[name]
