"""The walk over one configuration file along the tables: checks every value, collects all problems.

One `Walk` per file, used by one thread and thrown away; it has no effects of its own.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cep.config import retired
from cep.config.components import FAMILIES
from cep.config.composites import Block, Component, Key
from cep.config.document import Lines
from cep.config.kinds import WrongValue
from cep.config.settings import ComponentSettings
from cep.config.tables import ENGINES, JOB_STATUS, TOP
from cep.config.unset import refusal, unset_name
from cep.errors import ConfigError

Known: TypeAlias = Mapping[str, Key]
Spot: TypeAlias = tuple[str, int | None]  # path to the key and its line

_SHOWN = 60  # characters of a value in a message
# Bounded in depth and length: aliases can make a short file stand for a huge value.
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _SHOWN + 2
_BRIEF.maxlevel, _BRIEF.maxlist, _BRIEF.maxdict = 2, 4, 4


@dataclass(slots=True)
class Walk:
    """One pass over one file: the problems and warnings so far.

    Attributes:
        origin: What to call the file.
        unset_allowed: Values that the user still has to write are no problem.
    """

    origin: str
    unset_allowed: bool = False
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def problem(self, where: str, line: int | None, what: str) -> None:
        """Note one thing that is wrong: where, on which line, and what."""
        at = "" if line is None else f"line {line}: "
        self.problems.append(f"{at}{where}: {what}")

    def finish(self) -> None:
        """Raise ConfigError with all problems, if there are any."""
        if not self.problems:
            return
        count = len(self.problems)
        places = "one place" if count == 1 else f"{count} places"
        listed = "\n".join(f"  {problem}" for problem in self.problems)
        raise ConfigError(f"The configuration {self.origin} is wrong in {places}:\n{listed}")

    def block(
        self,
        block: Lines,
        keys: Sequence[Key],
        path: str,
        owner: str,
        old: dict[str, retired.Retired] | None = None,
    ) -> dict[str, Any]:
        """Check one mapping; return the clean values of the keys that are set and right."""
        known = {key.name: key for key in keys}
        clean: dict[str, Any] = {}
        for name, again in block.repeated:
            self.problem(path + name, again, "is given twice; remove one of them")
        for name, value in block.items():
            line = block.line_of.get(name)
            where = path + name
            if name in known:
                if value is None:
                    continue
                cleaned = self.value(known[name], value, where, line)
                if cleaned is not WRONG:
                    clean[name] = cleaned
            elif old is not None and name in old:
                self.old_key(old[name], value, where, line)
            else:
                self.unknown(name, show(value), (where, line), owner, known)
        for key in keys:
            if key.required and key.name not in block and key.name not in clean:
                self.problem(path + key.name, None, _missing(key, owner))
        return clean

    def value(self, key: Key, value: Any, where: str, line: int | None) -> Any:
        """Return the clean value of one key, or WRONG after noting the problem."""
        kind = key.kind
        unset = unset_name(value)
        if unset is not None and not self.unset_allowed:
            self.problem(where, line, refusal(value))
            return WRONG
        if isinstance(value, Lines) and isinstance(kind, Component):
            return self.component(kind.family, value, where, line)
        if isinstance(value, Lines) and isinstance(kind, Block):
            # The engine's keys depend on its type, so it is checked by _engine.
            return self.block(value, kind.keys, where + ".", where) if kind.keys else value
        try:
            return kind.clean(value)
        except WrongValue as exc:
            if unset is not None:  # allowed, and of a kind that no text fits
                return WRONG
            self.problem(where + exc.within, line, f"{exc.reason}, not {show(value)}")
            return WRONG

    def component(self, family: str, block: Lines, where: str, line: int | None) -> Any:
        """Return a provider, launcher or address probe as ComponentSettings, or WRONG."""
        table = FAMILIES[family]
        chosen = self.type_of(block, table, where, line, family)
        if chosen is None:
            return WRONG
        old = _old_provider_keys(block) if family == "provider" else None
        rest = without(block, "type")
        before = len(self.problems)
        arguments = self.block(rest, table[chosen], where + ".", chosen, old)
        if len(self.problems) > before:
            return WRONG
        if family == "provider":
            self.check_scaling(arguments, table[chosen], where, line)
        return ComponentSettings(chosen, arguments)

    def type_of(
        self, block: Lines, table: dict[str, Any], where: str, line: int | None, family: str
    ) -> str | None:
        """Return the block's `type` when it is one of the table's names."""
        chosen = block.get("type")
        at = block.line_of.get("type", line)
        if chosen is None:
            self.problem(f"{where}.type", line, f"is missing; it is one of {', '.join(table)}")
            return None
        if isinstance(chosen, str) and chosen in retired.TYPES:
            self.problem(f"{where}.type", at, f"{chosen} is refused. {retired.TYPES[chosen]}")
            return None
        if not isinstance(chosen, str) or chosen not in table:
            near = nearest(chosen, table) if isinstance(chosen, str) else None
            hint = f"did you mean {near}?" if near else f"it is one of {', '.join(table)}"
            self.problem(f"{where}.type", at, f"{show(chosen)} is not {an(family)}; {hint}")
            return None
        return chosen

    def check_scaling(
        self, given: dict[str, Any], keys: Sequence[Key], where: str, line: int | None
    ) -> None:
        """Note block numbers that contradict each other."""
        defaults = {key.name: key.default for key in keys}
        low = given.get("min_blocks", defaults["min_blocks"])
        high = given.get("max_blocks", defaults["max_blocks"])
        if low > high:
            self.problem(
                f"{where}.min_blocks", line, f"{low} is more than max_blocks, which is {high}"
            )

    def old_key(self, old: retired.Retired, value: Any, where: str, line: int | None) -> None:
        """Warn about an old key, or note that its value is refused."""
        if value is None:
            return
        if old.refuses(value):
            self.problem(where, line, f"{show(value)} is refused. {old.advice}")
        else:
            self.warnings.append(f"{self.origin}: {where} is ignored. {old.advice}")

    def unknown(self, name: str, shown: str, spot: Spot, owner: str, known: Known) -> None:
        """Note a key that no version knew, with the key that was probably meant."""
        near = nearest(name, known)
        elsewhere = _homes(name)
        if elsewhere and near is None:
            hint = f"it belongs to {elsewhere}"
        elif near is not None:
            hint = f"did you mean {near}?"
        else:
            hint = f"{owner} has {', '.join(known)}" if known else f"{owner} takes no keys"
        self.problem(*spot, f"is not a key of {owner} (value {shown}); {hint}")


WRONG = object()  # what a value becomes that was reported as a problem


def show(value: Any) -> str:
    """A value for a message: short, on one line, however large the value is."""
    if isinstance(value, Lines):
        return "a block"
    if hasattr(value, "written"):
        text = str(value.written)
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = _BRIEF.repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that the given one was probably meant to be."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return close[0] if close else None


def an(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def without(block: Lines, *names: str) -> Lines:
    """The same mapping less some keys."""
    rest = Lines()
    rest.repeated = list(block.repeated)
    for key, value in block.items():
        if key not in names:
            rest[key] = value
            rest.line_of[key] = block.line_of.get(key, 0)
    return rest


def _missing(key: Key, owner: str) -> str:
    if key.name == "engine":
        return (
            "is missing. An endpoint needs an engine, e.g. `engine: {type: GlobusComputeEngine}`; "
            "the published 4.x endpoint keeps it in user_config_template.yaml.j2, which is not "
            "read here"
        )
    return f"is missing; {owner} needs it"


def _homes(name: str) -> str | None:
    """Where a key that is at the wrong place belongs."""
    homes = [engine for engine, keys in ENGINES.items() if any(k.name == name for k in keys)]
    if homes:
        return "engine of type " + " or ".join(homes)
    for family, table in FAMILIES.items():
        homes = [n for n, keys in table.items() if any(k.name == name for k in keys)]
        if homes:
            home = homes[0] if len(homes) < 4 else f"the {family} block"
            return home if len(homes) == 1 else f"the {family} block"
    if any(key.name == name for key in JOB_STATUS):
        return "engine.job_status_kwargs"
    if any(key.name == name for key in TOP):
        return "the top level"
    return None


def _old_provider_keys(block: Lines) -> dict[str, retired.Retired]:
    channel = block.get("channel")
    kind = channel.get("type") if isinstance(channel, Lines) else channel
    if kind in (None, "LocalChannel"):
        return retired.PROVIDER
    refused = retired.Retired(retired.PROVIDER["channel"].advice, refused=True)
    return {**retired.PROVIDER, "channel": refused}
