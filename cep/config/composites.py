"""Kinds of values that are made of others: lists, maps, alternatives, and blocks of keys.

As `cep.config.kinds`: pure data and functions without effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cep.config.kinds import Kind, Number, Text, Whole, WrongValue


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind, returned as a tuple, or as a list where the taker insists on one."""

    item: Kind
    length: int | None = None
    as_list: bool = False

    @property
    def name(self) -> str:
        """The item's kind, in the plural."""
        count = "" if self.length is None else f"{self.length} of "
        return f"list of {count}{self.item.name}"

    def clean(self, value: Any) -> tuple[Any, ...] | list[Any]:
        """Return the cleaned items."""
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise WrongValue(f"must be a {self.name}")
        if self.length is not None and len(value) != self.length:
            raise WrongValue(f"must be a {self.name}")
        items = []
        for index, item in enumerate(value):
            try:
                items.append(self.item.clean(item))
            except WrongValue as exc:
                raise WrongValue(exc.reason, f"[{index}]{exc.within}") from None
        return items if self.as_list else tuple(items)


@dataclass(frozen=True, slots=True)
class TextMap:
    """Names with text values, as environment variables or annotations."""

    name: str = "mapping of names to text"

    def clean(self, value: Any) -> dict[str, str]:
        """Return a plain dictionary."""
        if not isinstance(value, dict):
            raise WrongValue(f"must be a {self.name}")
        cleaned = {}
        for key, item in value.items():
            try:
                cleaned[Text().clean(key)] = Text().clean(item)
            except WrongValue as exc:
                raise WrongValue(exc.reason, f".{key}") from None
        return cleaned


@dataclass(frozen=True, slots=True)
class PlainMap:
    """Names with text, numbers or truth values, passed on as they are."""

    name: str = "mapping of names to plain values"

    def clean(self, value: Any) -> dict[str, Any]:
        """Return a plain dictionary."""
        if not isinstance(value, dict):
            raise WrongValue(f"must be a {self.name}")
        cleaned: dict[str, Any] = {}
        for key, item in value.items():
            if isinstance(item, bool) or item is None or isinstance(item, str):
                cleaned[str(key)] = item
            elif isinstance(item, (int, float)):
                cleaned[str(key)] = Number(None).clean(item)
            else:
                raise WrongValue("must be a plain value", f".{key}")
        return cleaned


@dataclass(frozen=True, slots=True)
class PortRange:
    """A first and an end port."""

    name: str = "two port numbers, the lower first"

    def clean(self, value: Any) -> tuple[int, int]:
        """Return both ports."""
        low, high = ListOf(Whole(1, 65535), length=2).clean(value)
        if low >= high:
            raise WrongValue(f"must be {self.name}")
        return (low, high)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """The first of several kinds that fits."""

    kinds: tuple[Kind, ...]

    @property
    def name(self) -> str:
        """The kinds, joined."""
        return " or ".join(kind.name for kind in self.kinds)

    def clean(self, value: Any) -> Any:
        """Return what the first fitting kind makes of it."""
        for kind in self.kinds:
            try:
                return kind.clean(value)
            except WrongValue:
                continue
        raise WrongValue(f"must be {self.name}")


@dataclass(frozen=True, slots=True)
class Component:
    """A `type:` with its arguments; the loader looks them up in the family's table.

    Attributes:
        family: `provider`, `launcher` or `address`.
        text_allowed: A plain text may stand in its place (addresses).
    """

    family: str
    text_allowed: bool = False

    @property
    def name(self) -> str:
        """The family, in words."""
        return ("text or " if self.text_allowed else "") + f"{self.family} block with a type"

    def clean(self, value: Any) -> Any:
        """Only the loader can check a component; this is never the last word."""
        if self.text_allowed and isinstance(value, str):
            return value
        raise WrongValue(f"must be a {self.name}")


@dataclass(frozen=True, slots=True)
class Block:
    """A mapping of keys with kinds of their own."""

    keys: tuple[Key, ...]
    name: str = "block of keys"

    def clean(self, value: Any) -> Any:
        """Only the loader can check a block, so whatever comes here is wrong."""
        del value
        raise WrongValue(f"must be a {self.name}")


@dataclass(frozen=True, slots=True)
class Key:
    """One documented key.

    Attributes:
        name: As written in the file.
        kind: What it may hold.
        default: What holds without it, for people; None means "not set".
        text: One sentence of meaning.
        ours: The published endpoint does not have it.
        required: Its block is wrong without it.
        field: Name of the settings' field it fills, when that is another name.
    """

    name: str
    kind: Kind
    default: Any = None
    text: str = ""
    ours: bool = False
    required: bool = False
    field: str | None = None
