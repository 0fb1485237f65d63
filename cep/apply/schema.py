"""Check plain values against the JSON schemas that are shipped beside this file.

Only the keywords that these two schemas use are known; another one is an error here, so that no
rule of a schema can be passed over in silence. The sentences name the key and what it takes, and
never show the value of a key that is `writeOnly`. Pure, apart from reading the schemas.

Source of the keywords' meaning: JSON Schema 2020-12; `pattern` is anchored in our schemas.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cep.errors import SoftwareError

INPUT, OUTPUT = "input", "output"
_ABOUT = frozenset({"$schema", "$defs", "title", "description", "default", "writeOnly"})
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (Mapping,),
    "array": (list, tuple),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
_LONGEST_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong.

    Attributes:
        where: The key, e.g. `endpoints[0].unit.scope`; empty for the whole.
        sentence: What it must be, and what it is.
    """

    where: str
    sentence: str


def text_of(name: str) -> str:
    """The text of a schema: `input` or `output`."""
    return (Path(__file__).parent / f"{name}.schema.json").read_text(encoding="utf-8")


@functools.cache
def schema(name: str) -> Mapping[str, Any]:
    """A schema as values."""
    found: Mapping[str, Any] = json.loads(text_of(name))
    return found


def check(value: Any, name: str) -> list[Problem]:
    """Return everything that is wrong with a value; empty when nothing is.

    Args:
        value: Values of YAML or JSON.
        name: `input` or `output`.

    Raises:
        SoftwareError: The schema uses a keyword that is not known here.
    """
    whole = schema(name)
    return list(_Check(whole).problems(value, whole, ""))


class _Check:
    """One walk through a value along a schema."""

    def __init__(self, whole: Mapping[str, Any]) -> None:
        self._whole = whole
        self._rules = {
            "type": self._type,
            "enum": self._enum,
            "const": self._const,
            "pattern": self._pattern,
            "minLength": self._shortest,
            "minimum": self._least,
            "maximum": self._most,
            "required": self._required,
            "properties": self._properties,
            "additionalProperties": self._others,
            "items": self._items,
        }

    def problems(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        """Everything that is wrong with a value and what is in it."""
        if "$ref" in rules:
            own = {key: rule for key, rule in rules.items() if key != "$ref"}
            rules = {**self._whole["$defs"][rules["$ref"].rpartition("/")[2]], **own}
        unknown = rules.keys() - self._rules.keys() - _ABOUT
        if unknown:
            raise SoftwareError(f"The schema of apply has an unknown rule: {sorted(unknown)}.")
        kind = list(self._type(value, rules, where)) if "type" in rules else []
        if kind:
            yield from kind
            return
        for name, rule in self._rules.items():
            if name in rules and name != "type":
                yield from rule(value, rules, where)

    def _type(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        wanted = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
        if not any(_is(value, name) for name in wanted):
            yield _wrong(where, f"{_words(wanted)}", value, rules)

    def _enum(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if value not in rules["enum"]:
            yield _wrong(where, f"one of {', '.join(map(str, rules['enum']))}", value, rules)

    def _const(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if value != rules["const"]:
            yield _wrong(where, str(rules["const"]), value, rules)

    def _pattern(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if isinstance(value, str) and re.fullmatch(rules["pattern"], value) is None:
            about = rules.get("description", "").rstrip(".")
            hint = f" ({about})" if about else ""
            yield _wrong(where, f"of the form {rules['pattern'][2:-2]}{hint}", value, rules)

    def _shortest(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if isinstance(value, str) and len(value) < rules["minLength"]:
            yield _wrong(where, "a text that is not empty", value, rules)

    def _least(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if not value >= rules["minimum"]:
            yield _wrong(where, f"at least {rules['minimum']}", value, rules)

    def _most(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if not value <= rules["maximum"]:
            yield _wrong(where, f"at most {rules['maximum']}", value, rules)

    def _required(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        for name in rules["required"]:
            if isinstance(value, Mapping) and name not in value:
                yield Problem(_below(where, name), f"{_below(where, name)} is missing.")

    def _properties(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if isinstance(value, Mapping):
            for name, inner in rules["properties"].items():
                if name in value:
                    yield from self.problems(value[name], inner, _below(where, name))

    def _others(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        known = rules.get("properties", {})
        if not isinstance(value, Mapping):
            return
        for name in value:
            if name not in known:
                close = difflib.get_close_matches(str(name), known, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(known)}."
                place = _below(where, str(name))
                yield Problem(place, f"{place} is no key of this document. {hint}")

    def _items(self, value: Any, rules: Mapping[str, Any], where: str) -> Iterator[Problem]:
        if isinstance(value, list | tuple):
            for number, item in enumerate(value):
                yield from self.problems(item, rules["items"], f"{where}[{number}]")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) and name != "boolean":
        return False
    if name == "number" and isinstance(value, float) and value != value:  # noqa: PLR0124 - NaN
        return False
    return isinstance(value, _TYPES[name])


def _words(types: list[str]) -> str:
    words = {"object": "a block of keys", "array": "a list", "string": "a text", "null": "null"}
    told = [words.get(name, f"a {name}" if name != "integer" else "an integer") for name in types]
    return " or ".join(told)


def _wrong(where: str, wanted: str, value: Any, rules: Mapping[str, Any]) -> Problem:
    if rules.get("writeOnly"):
        shown = "it is something else"
    elif isinstance(value, Mapping):
        shown = "it is a block of keys"
    elif isinstance(value, list | tuple):
        shown = "it is a list"
    else:
        text = json.dumps(value, ensure_ascii=False)
        cut = text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
        shown = f"it is {cut}"
    return Problem(where, f"{where or 'The document'} must be {wanted}, but {shown}.")


def _below(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
