"""Bring a configuration up to date without losing what its owner wrote into it: a 3-way merge.

`base` is what was written last time, `mine` what the file holds now, `new` what would be written
today. The merge is decided on keys (`merged`). The text is then merged line by line, which keeps
every comment and the order; where the lines do not give the same values as the keys, the
values are written out plainly and comments are lost (`Merge.comments_lost`). Pure functions.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cep.config.document import parse
from cep.config.written import dump
from cep.errors import ConfigError

_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Merge:
    """A merged configuration.

    Attributes:
        text: The file.
        kept: Paths of keys that the owner had changed or added, and that stayed so.
        replaced: Paths of keys that the owner had changed and that this command has set.
        comments_lost: The file was written out from its values.
    """

    text: str
    kept: tuple[str, ...]
    replaced: tuple[str, ...]
    comments_lost: bool


def merge(base: str, mine: str, new: str, asked: frozenset[str] = frozenset()) -> Merge:
    """Merge three texts of one configuration.

    Args:
        base: As it was written last time.
        mine: As it is now.
        new: As it would be written without looking at `mine`.
        asked: Paths of keys that this very command sets: they win over the owner's.

    Raises:
        ConfigError: One of them is no YAML mapping.
    """
    values = [parse(text, what) for text, what in ((base, "before"), (mine, "now"), (new, "new"))]
    keys = _Keys(asked)
    wanted = keys.merged(values[0], values[1], values[2], "")
    kept, replaced = tuple(keys.kept), tuple(keys.replaced)
    for prefer_new in (False, True):
        text = _merged_lines(base, mine, new, prefer_new=prefer_new)
        if _same(text, wanted):
            return Merge(text, kept, replaced, False)
    text = dump(wanted)
    return Merge(text, kept, replaced, True)


def changed_paths(old: str, new: str) -> frozenset[str]:
    """The paths of all keys whose values differ between two texts."""
    found: set[str] = set()
    _compare(parse(old, "old"), parse(new, "new"), "", found)
    return frozenset(found)


def _compare(old: Any, new: Any, path: str, found: set[str]) -> None:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {*old, *new}:
            where = f"{path}.{name}" if path else name
            _compare(old.get(name, _ABSENT), new.get(name, _ABSENT), where, found)
    elif not _equal(old, new):
        found.add(path)
        for side in (old, new):
            if isinstance(side, Mapping):
                _compare(side, {}, path, found)


@dataclass(slots=True)
class _Keys:
    """The merge of values: whose value each key gets, and what had to be decided."""

    asked: frozenset[str]
    kept: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)

    def merged(self, base: Any, mine: Any, new: Any, path: str) -> Any:
        """The value of one key, or `_ABSENT`."""
        if _equal(mine, new) or _equal(mine, base):
            return new
        if isinstance(mine, Mapping) and isinstance(new, Mapping):
            before = base if isinstance(base, Mapping) else {}
            whole = {}
            for name in [*mine, *(name for name in new if name not in mine)]:
                where = f"{path}.{name}" if path else name
                value = self.merged(
                    before.get(name, _ABSENT),
                    mine.get(name, _ABSENT),
                    new.get(name, _ABSENT),
                    where,
                )
                if value is not _ABSENT:
                    whole[name] = value
            return whole
        if path in self.asked and not _equal(base, new):
            self.replaced.append(path)
            return new
        self.kept.append(path)
        return mine


def _equal(one: Any, other: Any) -> bool:
    if one is _ABSENT or other is _ABSENT:
        return one is other
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _same(text: str, wanted: Any) -> bool:
    try:
        found = parse(text, "merged")
    except ConfigError:
        return False
    return not found.repeated and found == wanted


def _merged_lines(base: str, mine: str, new: str, *, prefer_new: bool) -> str:
    """Lines of both sides; where both changed the same ones, those of one side."""
    lines = [text.splitlines(keepends=True) for text in (base, mine, new)]
    ours, theirs = _changes(lines[0], lines[1]), _changes(lines[0], lines[2])
    merged: list[str] = []
    position = 0
    while ours or theirs:
        change, other = _next(ours, theirs)
        start, end, replacement = change
        if other is not None:  # both sides changed these lines
            start, end = min(start, other[0]), max(end, other[1])
            replacement = other[2] if prefer_new else change[2]
        if start < position:  # reaches into what was merged already; the keys will tell
            position = max(position, end)
            continue
        merged += lines[0][position:start]
        merged += replacement
        position = max(position, end)
    return "".join(merged + lines[0][position:])


def _next(ours: list[Any], theirs: list[Any]) -> tuple[Any, Any]:
    """Take the earliest change, with the one of the other side that touches the same lines."""
    if not theirs or (ours and ours[0][:2] < theirs[0][:2] and not _overlap(ours[0], theirs[0])):
        return ours.pop(0), None
    if not ours or not _overlap(ours[0], theirs[0]):
        return theirs.pop(0), None
    return ours.pop(0), theirs.pop(0)


def _overlap(one: Any, other: Any) -> bool:
    if one[0] == one[1] or other[0] == other[1]:  # an insertion disturbs no line
        return bool(one[0] == other[0] and one[1] == other[1] and one[2] == other[2])
    return bool(one[0] < other[1] and other[0] < one[1])


def _changes(old: list[str], new: list[str]) -> list[tuple[int, int, list[str]]]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [(a, b, new[c:d]) for tag, a, b, c, d in matcher.get_opcodes() if tag != "equal"]
