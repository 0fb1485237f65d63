"""The published 4.x endpoint's `user_config_template.yaml.j2` with its variables -> text of YAML.

Rendered as the published endpoint does it: texts are put in as JSON, so that a template's
`{{ account }}` becomes `"abc"`. In jinja's sandbox, with undefined variables as errors; reads the
template's folder only.
"""

from __future__ import annotations

import json
import os
import pwd
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cep.errors import ConfigError, UsageError
from cep.safety.files import check_trusted

#: Names that the published endpoint gives to each template; the bare ones are their old form.
_RESERVED = ("_GC", "parent_config", "user_runtime", "mapped_identity")
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
#: What a template may run into beyond jinja's own errors.
_WRONG = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class Variables:
    """The variables of a template: what its schema says, and what was given.

    Attributes:
        schema: The JSON schema, an empty mapping for none.
        given: By name.
    """

    schema: Mapping[str, Any]
    given: Mapping[str, Any]

    @classmethod
    def of(
        cls, schema: Mapping[str, Any], given: Mapping[str, Any], words: Mapping[str, str]
    ) -> Variables:
        """Variables of files, and words that a person typed, which win.

        A word is JSON where it can be, unless the schema wants text.
        """
        bare = cls(schema, {})
        read = {name: bare.as_text(name, value) for name, value in given.items()}
        read.update({name: bare.as_value(name, word) for name, word in words.items()})
        return cls(schema, read)

    def as_text(self, name: str, value: Any) -> Any:
        """A number as it was written (account `007`), where the schema wants text."""
        return str(getattr(value, "written", value)) if self._is_text(name, value) else value

    def as_value(self, name: str, word: str) -> Any:
        """What a typed word stands for."""
        if self._is_text(name, 0):
            return word
        try:
            return json.loads(word)
        except ValueError:
            return word

    def _is_text(self, name: str, value: Any) -> bool:
        entry = self.properties.get(name)
        wants = isinstance(entry, Mapping) and entry.get("type") == "string"
        return wants and isinstance(value, int | float) and not isinstance(value, bool)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The schema's entries, by variable."""
        found = self.schema.get("properties")
        return found if isinstance(found, Mapping) else {}

    def whole(self) -> dict[str, Any]:
        """Given values and defaults of the schema.

        Raises:
            UsageError: Some are missing, unknown or not what the schema says.
        """
        defaults = {
            name: entry["default"]
            for name, entry in self.properties.items()
            if isinstance(entry, Mapping) and "default" in entry
        }
        values = {**defaults, **self.given}
        problems = [
            f"{name} is missing; the template's schema requires it."
            for name in self.schema.get("required") or ()
            if name not in values
        ]
        for name, value in self.given.items():
            problems += self._problems(name, value)
        if problems:
            raise UsageError(
                "The template's variables are not right:\n"
                + "\n".join(f"  {problem}" for problem in problems),
                hint="Pass --set NAME=VALUE, or put them in a file for --vars FILE.",
            )
        return values

    def _problems(self, name: str, value: Any) -> list[str]:
        entry = self.properties.get(name)
        if name in _RESERVED:
            return [f"{name} is a name that the endpoint itself gives."]
        if entry is None:
            closed = self.schema.get("additionalProperties") is False
            return [f"{name} is no variable of the template's schema."] if closed else []
        if not isinstance(entry, Mapping):
            return []
        named = entry.get("type")
        types = named if isinstance(named, list) else [named] if isinstance(named, str) else []
        allowed = tuple(kind for name in types for kind in _TYPES.get(name, ()))
        boolean = isinstance(value, bool) and bool not in allowed
        if allowed and (boolean or not isinstance(value, allowed)):
            return [f"{name} is {json.dumps(value)}, but the schema wants {' or '.join(types)}."]
        options = entry.get("enum")
        if isinstance(options, list) and value not in options:
            listed = ", ".join(json.dumps(option) for option in options)
            return [f"{name} is {json.dumps(value)}, but the schema wants one of {listed}."]
        return []


def render(path: Path, variables: Variables, parent: Mapping[str, Any]) -> str:
    """Return the configuration that a template gives.

    Args:
        path: The template.
        variables: Its variables.
        parent: What the endpoint's config.yaml says, for `parent_config`.

    Raises:
        UsageError: Variables are missing or wrong.
        ConfigError: The template is wrong, or needs what only a submitting user has.
    """
    from jinja2 import FileSystemLoader, StrictUndefined, TemplateError, UndefinedError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(path.parent), undefined=StrictUndefined, autoescape=False
    )
    check_trusted(path, ConfigError, "The template", any_owner=True)
    try:
        source = path.read_text(encoding="utf-8")
        names = _needed(environment, source)
        values = {name: _as_json(value) for name, value in variables.whole().items()}
        return environment.get_template(path.name).render({**_reserved(parent), **values})
    except UndefinedError as exc:
        missing = sorted(names - set(variables.whole()) - set(_RESERVED))
        takes = f" Nothing gives a value to {', '.join(missing)}." if missing else ""
        raise UsageError(
            f"The template {path}{_where(exc, path)} cannot be rendered: {exc}.{takes}",
            hint="Pass --set NAME=VALUE, or put them in a file for --vars FILE.",
        ) from exc
    except (TemplateError, *_WRONG) as exc:
        raise ConfigError(
            f"The template {path}{_where(exc, path)} cannot be rendered: {exc}."
        ) from exc


def _where(error: Exception, path: Path) -> str:
    """The line of the template; jinja writes it into the traceback."""
    line = getattr(error, "lineno", None)
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            line = frame.lineno
    return "" if line is None else f", line {line},"


def _needed(environment: Any, source: str) -> set[str]:
    from jinja2 import meta

    return meta.find_undeclared_variables(environment.parse(source))


class _OfEachUser:
    """Stands for what every user who submits brings along; here there is nobody yet."""

    def __init__(self, name: str) -> None:
        self.__name = name

    def __getattr__(self, name: str) -> _OfEachUser:
        if name.startswith("__"):
            raise AttributeError(name)
        return _OfEachUser(f"{self.__name}.{name}")

    __getitem__ = __getattr__

    def _refuse(self, *_: object) -> NoReturn:
        raise ValueError(
            f"it asks for {self.__name}, which differs with each user who submits, and an endpoint "
            "of cep has one configuration; write a value into a copy of the template"
        )

    __str__ = __html__ = __bool__ = __iter__ = __len__ = _refuse
    __eq__ = __ne__ = __lt__ = __gt__ = __le__ = __ge__ = __contains__ = _refuse


def _reserved(parent: Mapping[str, Any]) -> dict[str, Any]:
    entry = pwd.getpwuid(os.getuid())
    local = {
        "uname": entry.pw_name,
        "uid": entry.pw_uid,
        "gid": entry.pw_gid,
        "dir": entry.pw_dir,
        "shell": entry.pw_shell,
        "gecos": entry.pw_gecos,
    }
    own = {
        "parent_config": dict(parent),
        "user_runtime": _OfEachUser("user_runtime"),
        "mapped_identity": {"local": local, "globus": _OfEachUser("mapped_identity.globus")},
    }
    return {**own, "_GC": own}


def _as_json(value: Any) -> Any:
    """Texts as JSON, also inside of lists and mappings, as the published endpoint gives them."""
    if isinstance(value, str):
        return json.dumps(str(value))
    if isinstance(value, Mapping):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    return value
