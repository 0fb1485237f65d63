"""Kinds of configuration values: each checks one value and returns it clean, or says what is wrong.

Pure data and functions without effects; used by the tables beside this file and by the loader,
from any thread. Kinds that are made of others are in `cep.config.composites`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

_UUID = re.compile(r"[0-9a-fA-F]{8}-?([0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")
_LARGEST = 1 << 63  # of any number; no quantity of a configuration comes near
_WALLTIME = re.compile(r"\d+:[0-5]\d:[0-5]\d")


class WrongValue(ValueError):
    """A value is not of its kind; the text completes the sentence "the value ... ".

    Args:
        reason: What the value must be, e.g. `must be a whole number`.
        within: Where inside the value the trouble is, e.g. `[2]`; empty for the value itself.
    """

    def __init__(self, reason: str, within: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.within = within


class IntText(int):
    """A whole number that remembers how it was written, so that text keys can take it back."""

    written: str

    @classmethod
    def read(cls, value: int, written: str) -> IntText:
        """Build from the value and the characters of the file."""
        number = cls(value)
        number.written = written
        return number


class FloatText(float):
    """A decimal number that remembers how it was written."""

    written: str

    @classmethod
    def read(cls, value: float, written: str) -> FloatText:
        """Build from the value and the characters of the file."""
        number = cls(value)
        number.written = written
        return number


class Kind(Protocol):
    """What a key may hold."""

    @property
    def name(self) -> str:
        """The kind in words, for messages and documentation."""

    def clean(self, value: Any) -> Any:
        """Return the value in its plain form.

        Raises:
            WrongValue: It is not of this kind.
        """


@dataclass(frozen=True, slots=True)
class Text:
    """Text. A number is taken as it was written, since account names may be digits only."""

    multiline: bool = True
    name: str = "text"

    def clean(self, value: Any) -> str:
        """Return the text."""
        if isinstance(value, (IntText, FloatText)):
            return value.written
        if isinstance(value, bool):
            raise WrongValue("must be text; put it in quotes if it is meant as a word")
        if not isinstance(value, str):
            raise WrongValue("must be text")
        if "\0" in value:
            raise WrongValue("must not hold a NUL character")
        if not self.multiline and "\n" in value:
            raise WrongValue("must be text on one line")
        return value


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    name: str = "true or false"

    def clean(self, value: Any) -> bool:
        """Return the truth value."""
        if not isinstance(value, bool):
            raise WrongValue("must be true or false")
        return value


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number within bounds."""

    low: int | None = 0
    high: int | None = None

    @property
    def name(self) -> str:
        """The bounds in words."""
        return _bounded("whole number", self.low, self.high)

    def clean(self, value: Any) -> int:
        """Return the number."""
        if not _is_number(value) or value != int(value):
            raise WrongValue(f"must be a {self.name}")
        _check_bounds(self.name, value, self.low, self.high)
        return int(value)


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds."""

    low: float | None = 0
    high: float | None = None

    @property
    def name(self) -> str:
        """The bounds in words."""
        return _bounded("number", self.low, self.high)

    def clean(self, value: Any) -> float:
        """Return the number; whole ones stay whole, since they read better in a job script."""
        if not _is_number(value):
            raise WrongValue(f"must be a {self.name}")
        _check_bounds(self.name, value, self.low, self.high)
        return int(value) if isinstance(value, int) else float(value)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some words or numbers."""

    options: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The options, listed."""
        return "one of " + ", ".join(str(option) for option in self.options)

    def clean(self, value: Any) -> Any:
        """Return the option."""
        for option in self.options:
            if value == option and isinstance(value, bool) == isinstance(option, bool):
                return option
        raise WrongValue(f"must be {self.name}")


@dataclass(frozen=True, slots=True)
class Uuid:
    """A UUID, returned in lower case with hyphens."""

    name: str = "UUID"

    def clean(self, value: Any) -> str:
        """Return the canonical text."""
        if not isinstance(value, str) or _UUID.fullmatch(value) is None:
            raise WrongValue("must be a UUID")
        digits = value.replace("-", "").lower()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


@dataclass(frozen=True, slots=True)
class Walltime:
    """A time limit as batch schedulers write it."""

    name: str = "time as HH:MM:SS"

    def clean(self, value: Any) -> str:
        """Return the text."""
        text = value.written if isinstance(value, (IntText, FloatText)) else value
        if not isinstance(text, str) or _WALLTIME.fullmatch(text) is None:
            raise WrongValue('must be a time as HH:MM:SS, e.g. "00:30:00"')
        return text


@dataclass(frozen=True, slots=True)
class WebAddress:
    """An http(s) URL without path, query or password; returned without a trailing slash."""

    name: str = "URL"

    def clean(self, value: Any) -> str:
        """Return scheme, host and port."""
        wrong = WrongValue("must be an address like https://hub.example.org:5000")
        if not isinstance(value, str):
            raise wrong
        try:
            parts = urlsplit(value.rstrip("/"))
            port = parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise wrong
        if parts.username or parts.password or parts.query or parts.fragment or parts.path:
            raise wrong
        return f"{parts.scheme}://{parts.netloc.lower()}"


@dataclass(frozen=True, slots=True)
class Place:
    """A path that is absolute or begins with `~`; returned absolute."""

    name: str = "absolute path, or one from ~"

    def clean(self, value: Any) -> str:
        """Return the absolute path."""
        text = Text(multiline=False).clean(value)
        if not text.startswith(("/", "~")):
            raise WrongValue(f"must be an {self.name}")
        path = Path(text)
        try:
            return str(path.expanduser())
        except RuntimeError:  # no such account
            raise WrongValue(f"must be an {self.name} of an account that exists") from None


@dataclass(frozen=True, slots=True)
class Interpreter:
    """`auto`, `endpoint`, or the path of an interpreter."""

    name: str = "auto, endpoint, or the absolute path of a Python"

    def clean(self, value: Any) -> str:
        """Return the word or the absolute path."""
        if value in ("auto", "endpoint"):
            return str(value)
        try:
            return Place().clean(value)
        except WrongValue:
            raise WrongValue(f"must be {self.name}") from None


def _is_number(value: Any) -> bool:
    """Whether it is a number of ordinary size; no float holds the largest whole ones."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return abs(value) <= _LARGEST  # false for a NaN


def _bounded(noun: str, low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{noun} from {low} to {high}"
    if low is not None:
        return f"{noun}, at least {low}"
    return noun


def _check_bounds(name: str, value: float, low: float | None, high: float | None) -> None:
    if (low is not None and value < low) or (high is not None and value > high):
        raise WrongValue(f"must be a {name}")
