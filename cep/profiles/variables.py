"""One variable of a profile: its type, what it may hold, and how a person's word becomes a value.

Pure data and functions without effects. A value is refused where it could break out of the place
that the template puts it in: a `word` ends up in a directive of a job script or on a command
line, so it has no blanks, quotes or characters that a shell would act on; a `script` is a script
by intent, and only control characters are refused in it.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: What a `word` may look like when the schema names no pattern of its own.
WORD = r"[A-Za-z0-9_][A-Za-z0-9_.:@%+,=/-]*"
_PATH = r"(~|/)[^\s'\"`$\\;|&<>(){}*?!#]*"
_UUID = r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}"
_WALLTIME = r"[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NULL = ("", "null", "~")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_LONGEST = 100_000  # characters of a script

TYPES = (
    "text",
    "script",
    "word",
    "path",
    "uuid",
    "walltime",
    "integer",
    "number",
    "flag",
    "choice",
    "list",
    "map",
)


class WrongVariable(ValueError):
    """A value is not one that the variable may hold; the text completes "it must be ..."."""


@dataclass(frozen=True, slots=True)
class Detected:
    """What was found on this host for a variable.

    Attributes:
        value: The proposed value.
        reason: Where it comes from, e.g. `the default partition that sinfo shows`.
    """

    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A pattern that holds only together with certain values of other variables.

    Attributes:
        when: Values of other variables, by name, with which it holds; all must fit.
        pattern: Regular expression that the whole value must match.
        says: What the value must be, in words.
    """

    when: Mapping[str, tuple[Any, ...]]
    pattern: str
    says: str

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the rule applies beside these values."""
        return all(values.get(name) in options for name, options in self.when.items())


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a profile; see docs/profiles.md for the form of the schemas.

    Attributes:
        name: As in `--set NAME=VALUE`.
        type: One of `TYPES`.
        description: One sentence.
        default: What holds without it; None means "not written".
        required: The profile cannot be rendered without it.
        required_when: As `required`, but only beside these values of other variables.
        excludes: Variables that cannot be given together with this one.
        example: A value that would do.
        group: The heading it is listed under.
        options: The options of a choice.
        item: The type of a list's items.
        low: The least number allowed.
        high: The greatest number allowed.
        pattern: Regular expression that a text, a word or an item must match whole.
        says: What the pattern asks for, in words.
        rules: Patterns that depend on other variables.
    """

    name: str
    type: str
    description: str
    default: Any = None
    required: bool = False
    required_when: Mapping[str, tuple[Any, ...]] | None = None
    excludes: tuple[str, ...] = ()
    example: Any = None
    group: str = "endpoint"
    options: tuple[Any, ...] = ()
    item: str = "word"
    low: float | None = None
    high: float | None = None
    pattern: str | None = None
    says: str | None = None
    rules: tuple[Rule, ...] = ()

    @property
    def wanted(self) -> str:
        """What a value must be, in words."""
        if self.says is not None:
            return self.says
        if self.type == "choice":
            return "one of " + ", ".join(str(option) for option in self.options)
        if self.type == "list":
            return f"a list of {_PLURALS.get(self.item, self.item + 's')}"
        words = _WANTED[self.type]
        if self.low is not None and self.high is not None:
            return f"{words} from {self.low} to {self.high}"
        return words if self.low is None else f"{words}, {self.low} or more"

    def must_be_given(self, values: Mapping[str, Any]) -> bool:
        """Whether the profile needs this variable beside these values of the others."""
        if self.required:
            return True
        if self.required_when is None:
            return False
        return all(values.get(name) in options for name, options in self.required_when.items())

    def read(self, given: Any) -> Any:
        """Return the clean value of what a file or a program gave.

        Args:
            given: A value of YAML or JSON; texts are taken for every type.

        Returns:
            The value; None for none or an empty text, which mean "as if it were not given".

        Raises:
            WrongVariable: It is none of this variable's values.
        """
        if given is None or given == "":
            return None
        return _READERS[self.type](self, given)

    def read_word(self, text: str) -> Any:
        """As `read`, for what a person typed: `null` means none as well."""
        return None if text.lower() in _NULL else self.read(text)

    def as_json(self) -> dict[str, Any]:
        """The variable as `profiles show --json` tells it; every name is always there."""
        return {
            "name": self.name,
            "type": self.type,
            "item": self.item if self.type == "list" else None,
            "required": self.required,
            "required_when": _plain(self.required_when),
            "excludes": list(self.excludes),
            "default": self.default,
            "description": self.description,
            "example": self.example,
            "group": self.group,
            "options": list(self.options),
            "low": self.low,
            "high": self.high,
            "pattern": self.pattern or _PATTERNS.get(self.type),
            "wanted": self.wanted,
            "rules": [
                {"when": _plain(rule.when), "pattern": rule.pattern, "says": rule.says}
                for rule in self.rules
            ],
        }


def show(value: Any, longest: int = 60) -> str:
    """A value for a message: short, on one line, with control characters made visible."""
    text = repr(str(value)) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= longest else text[: longest - 3] + "..."


def _plain(conditions: Mapping[str, tuple[Any, ...]] | None) -> dict[str, list[Any]] | None:
    if conditions is None:
        return None
    return {name: list(options) for name, options in conditions.items()}


def _written(given: Any) -> str:
    """The text of a scalar; numbers from a file as they were written (account `007`)."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise WrongVariable("text")
    return str(getattr(given, "written", given))


def _text(variable: Variable, given: Any) -> str:
    text = _written(given)
    allowed = "\n\t" if variable.type == "script" else "\t" if variable.type == "text" else ""
    for character in text:
        if character in allowed:
            continue
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            lines = " (line ends are a single \\n)" if character == "\r" else ""
            raise WrongVariable(
                f"{variable.wanted}, without the character U+{ord(character):04X}{lines}"
            )
    if len(text) > _LONGEST:
        raise WrongVariable(f"{variable.wanted}, of at most {_LONGEST} characters")
    pattern = variable.pattern or _PATTERNS.get(variable.type)
    if pattern is not None and re.fullmatch(pattern, text) is None:
        raise WrongVariable(variable.wanted)
    return text


def _uuid(variable: Variable, given: Any) -> str:
    digits = _text(variable, given).replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _integer(variable: Variable, given: Any) -> int:
    if isinstance(given, str):
        if re.fullmatch(r"-?[0-9]{1,15}", given) is None:
            raise WrongVariable(variable.wanted)
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int | float) or given != given // 1:
        raise WrongVariable(variable.wanted)
    return int(_bounded(variable, given))


def _number(variable: Variable, given: Any) -> float | int:
    if isinstance(given, str):
        if re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,15})?", given) is None:
            raise WrongVariable(variable.wanted)
        given = float(given) if "." in given else int(given)
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise WrongVariable(variable.wanted)
    return _bounded(variable, int(given) if isinstance(given, int) else float(given))


def _bounded(variable: Variable, number: float) -> float:
    low, high = variable.low, variable.high
    if (low is not None and number < low) or (high is not None and number > high):
        raise WrongVariable(variable.wanted)
    return number


def _flag(variable: Variable, given: Any) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).lower()
    if isinstance(given, str) and word in (*_TRUE, *_FALSE):
        return word in _TRUE
    raise WrongVariable(variable.wanted)


def _choice(variable: Variable, given: Any) -> Any:
    if not isinstance(given, bool):
        for option in variable.options:
            if str(given) == str(option):
                return option
        if given == "None":  # as the published guide writes "no container"
            return None
    raise WrongVariable(variable.wanted)


def _list(variable: Variable, given: Any) -> list[Any]:
    if isinstance(given, str):
        if given.lstrip(" ").startswith("["):
            given = _flow(given, list, variable)
        else:
            given = [item.strip(" ") for item in given.split(",")]
    elif isinstance(given, int | float) and not isinstance(given, bool):
        given = [given]
    if not isinstance(given, list | tuple):
        raise WrongVariable(variable.wanted)
    inner = Variable(variable.name, variable.item, "", pattern=variable.pattern, says=variable.says)
    items = []
    for item in given:
        clean = inner.read(item)
        if clean is None:
            raise WrongVariable(f"{variable.wanted}, without an empty item")
        items.append(clean)
    return items


def _map(variable: Variable, given: Any) -> dict[str, str]:
    if isinstance(given, str):
        if given.lstrip().startswith("{"):
            given = _flow(given, dict, variable)
        else:
            pairs = [pair.partition("=") for pair in given.split(",")]
            if any(not equals for _, equals, _ in pairs):
                raise WrongVariable(variable.wanted)
            given = {name.strip(): value for name, _, value in pairs}
    if not isinstance(given, Mapping):
        raise WrongVariable(variable.wanted)
    inner = Variable(variable.name, "text", "", pattern=variable.pattern, says=variable.says)
    found = {}
    for name, value in given.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise WrongVariable(variable.wanted)
        found[str(name)] = _text(inner, value)
    return found


def _flow(text: str, kind: type, variable: Variable) -> Any:
    """A list or mapping written in one line of YAML or JSON."""
    import yaml

    try:
        value = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, kind):
        raise WrongVariable(variable.wanted)
    return value


_READERS: dict[str, Callable[[Variable, Any], Any]] = {
    "text": _text,
    "script": _text,
    "word": _text,
    "path": _text,
    "uuid": _uuid,
    "walltime": _text,
    "integer": _integer,
    "number": _number,
    "flag": _flag,
    "choice": _choice,
    "list": _list,
    "map": _map,
}
_PATTERNS = {"word": WORD, "path": _PATH, "uuid": _UUID, "walltime": _WALLTIME}
_PLURALS = {"word": "words", "path": "paths", "text": "texts", "integer": "whole numbers"}
_WANTED = {
    "text": "text on one line",
    "script": "lines of a script",
    "word": "one word of letters, digits and _.:@%+,=/-",
    "path": "a path that begins with / or ~ and has no blanks or shell characters",
    "uuid": "a UUID",
    "walltime": "a time as HH:MM:SS",
    "integer": "a whole number",
    "number": "a number",
    "flag": "true or false",
    "map": "names with text, as NAME=VALUE,NAME=VALUE or {NAME: VALUE}",
}
