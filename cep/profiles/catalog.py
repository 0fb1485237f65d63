"""The site profiles that exist: a template, and a schema of its variables, for each.

Reads files along the search path only; no effects. Runs in the command line's one thread. The
form of a schema is told in docs/profiles.md; a wrong one is an error that names file and entry.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cep.errors import CepError, ConfigError, SoftwareError, UsageError
from cep.profiles.search import BUILT_IN, Found, SearchPath
from cep.profiles.variables import TYPES, Rule, Variable, WrongVariable

TEMPLATE = ".yaml.j2"
SCHEMA = ".schema.yaml"
#: What reading a damaged or wrong schema or preset runs into.
WRONG_FILE = (
    OSError,
    yaml.YAMLError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,  # nested beyond measure
)
_ENTRY_KEYS = frozenset(field.name for field in dataclasses.fields(Variable)) - {"name"}


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile: how the configuration of one kind of site is written.

    Attributes:
        name: As in `--profile NAME`.
        summary: One sentence.
        template: The template's file.
        variables: By name, in the order of the schema.
        search: Where its partials are looked for.
        origins: Where its template and its schemas came from, parts of the template left out: file
            name -> `built in` or a folder.
    """

    name: str
    summary: str
    template: Path
    variables: Mapping[str, Variable]
    search: SearchPath
    origins: Mapping[str, str]

    def as_json(self, files: Mapping[str, str]) -> dict[str, Any]:
        """The profile as `profiles show --json` tells it.

        Args:
            files: All its files, as `cep.profiles.render.files_of` returns them.
        """
        return {
            "name": self.name,
            "summary": self.summary,
            "files": dict(files),
            "variables": [variable.as_json() for variable in self.variables.values()],
        }


def names(search: SearchPath | None = None) -> list[str]:
    """The names of all profiles."""
    return (search or SearchPath.of()).names(TEMPLATE)


def find(name: str, search: SearchPath | None = None) -> Profile:
    """Return a profile.

    Raises:
        UsageError: There is none of this name; the message lists those that exist.
        SoftwareError: Its shipped schema is damaged.
        ConfigError: Its schema, one of this site or account, is wrong, or others can change a file.
    """
    search = search or SearchPath.of()
    known = names(search)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"There is no profile {name!r}. The profiles are: {', '.join(known)}.",
            hint=f"Did you mean {close[0]}?" if close else None,
        )
    template = search.find(name + TEMPLATE)
    assert template is not None
    reader = _Reader(search)
    summary = reader.read(name + SCHEMA)
    origins = {template.path.name: template.origin, **reader.origins}
    return Profile(name, summary, template.path, reader.variables, search, origins)


class _Reader:
    """Reads a schema and those it includes; the including one wins for a name that both have."""

    def __init__(self, search: SearchPath) -> None:
        self.search = search
        self.variables: dict[str, Variable] = {}
        self.origins: dict[str, str] = {}

    def read(self, file: str, depth: int = 0) -> str:
        """Take over a file's variables; return its summary."""
        found = self.search.find(file)
        if found is None:
            raise SoftwareError(
                f"The schema {file} is not there.",
                hint="A template NAME.yaml.j2 needs a NAME.schema.yaml on the search path.",
            )
        self.origins[file] = found.origin
        try:
            schema = _parsed(found.path, found.path.stat().st_mtime_ns)
            if depth > 5:
                raise ValueError("schemas include each other without end")
            for included in schema.get("include", ()):
                self.read(f"_{included}{SCHEMA}", depth + 1)
            for name, entry in (schema.get("variables") or {}).items():
                self._add(name, entry)
            return str(schema.get("summary", ""))
        except WRONG_FILE as exc:
            raise damaged(found, exc) from exc

    def _add(self, name: str, entry: Any) -> None:
        if entry is None:  # a site's schema may leave out a variable that an included one has
            self.variables.pop(name, None)
            return
        before = self.variables.get(name)
        try:
            self.variables[name] = variable_of(name, entry, before)
        except (KeyError, TypeError, ValueError, AttributeError, re.error) as exc:
            raise ValueError(f"variable {name}: {exc}") from exc


@functools.lru_cache(maxsize=256)
def _parsed(path: Path, _changed_ns: int) -> Any:
    """The content of a schema; parsed once for as long as the file does not change."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def variable_of(name: str, entry: Mapping[str, Any], before: Variable | None = None) -> Variable:
    """Build a variable from its entry in a schema.

    Args:
        name: Its name.
        entry: The entry; with `before` it need only hold what differs.
        before: The variable of the same name in an included schema.

    Raises:
        ValueError: The entry is wrong.
    """
    unknown = sorted(set(entry) - _ENTRY_KEYS)
    if unknown:
        raise ValueError(f"the key {unknown[0]} is unknown")
    if not name.isidentifier():
        raise ValueError("a name is letters, digits and _")
    values: dict[str, Any] = {}
    if before is not None:
        values = {field: getattr(before, field) for field in before.__dataclass_fields__}
    elif "type" not in entry or "description" not in entry:
        raise ValueError("type and description are needed")
    values.update(entry)
    for field in ("options", "excludes"):
        values[field] = tuple(values.get(field, ()))
    if "required_when" in entry:
        values["required_when"] = _conditions(entry["required_when"])
    if "rules" in entry:
        values["rules"] = tuple(
            Rule(_conditions(rule["when"]), str(rule["pattern"]), str(rule["says"]))
            for rule in entry["rules"]
        )
    values["name"] = name
    variable = Variable(**values)
    _check(variable)
    return variable


def _conditions(entry: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(options) for name, options in entry.items()}


def _check(variable: Variable) -> None:
    if variable.type not in TYPES or variable.item not in TYPES[:7]:
        raise ValueError(f"the type {variable.type} is unknown; it is one of {', '.join(TYPES)}")
    if variable.type == "choice" and not variable.options:
        raise ValueError("a choice needs options")
    for pattern in (variable.pattern, *(rule.pattern for rule in variable.rules)):
        re.compile(pattern or "")
    for what in ("default", "example"):
        try:
            variable.read(getattr(variable, what))
        except WrongVariable as exc:
            raise ValueError(f"the {what} must be {exc}") from exc


def damaged(found: Found, cause: object) -> CepError:
    """The error about a schema, preset or template that cannot be used."""
    if found.origin == BUILT_IN:
        return SoftwareError(
            f"The file {found.path} is damaged: {cause}.", hint="Install cep-endpoint again."
        )
    return ConfigError(
        f"The file {found.path} is wrong: {cause}.",
        hint="docs/profiles.md tells the form of these files.",
    )
