"""From what people, files, presets and earlier runs gave to checked values: all trouble at once.

No effects but reading a `--vars` file. One `Values` is filled source by source, a later one wins,
and `finish` either returns everything or raises one error with every missing and wrong variable.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cep.config.document import parse
from cep.config.unset import placeholder
from cep.errors import ConfigError, DataError, InputMissing, UsageError
from cep.profiles.catalog import Profile
from cep.profiles.variables import Detected, Variable, WrongVariable, show
from cep.safety.files import check_trusted


@dataclass(slots=True)
class Values:
    """The values given so far, and what is wrong with some of them.

    Attributes:
        profile: Whose variables they are.
        detected: What was found on this host, by variable; told beside a problem, and proposed
            where a person is asked. Never taken silently.
        given: Clean values, by name; a None says "the default after all".
        problems: A sentence for each wrong one, by name; a right value given later heals it.
        required: Variables that are needed beyond those of the profile (a preset's).
    """

    profile: Profile
    detected: Mapping[str, Detected] = field(default_factory=dict)
    given: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def add_words(self, words: Iterable[str]) -> None:
        """Take over `--set NAME=VALUE` words."""
        for word in words:
            name, equals, text = word.partition("=")
            if not equals or not name:
                self.problems[word] = f"--set takes NAME=VALUE, not {show(word)}."
            else:
                self._add(name, text, typed=True)

    def add_file(self, path: Path) -> None:
        """Take over a `--vars` file: one mapping of YAML or JSON.

        Raises:
            InputMissing: It cannot be read.
            ConfigError: Others can change it.
            DataError: It is no mapping.
        """
        if path.is_file():  # not a pipe or a terminal
            # Whose file it is, is the user's choice: a colleague's is as good as one's own.
            check_trusted(path, ConfigError, "The variables file", any_owner=True)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise InputMissing(f"The variables file {path} cannot be read: {exc}.") from exc
        try:
            found = parse(text, str(path))
        except ConfigError as exc:
            raise DataError(exc.message.replace("The configuration", "The variables file")) from exc
        for name, line in found.repeated:
            self.problems[f"{path}:{line}"] = f"{name} is given twice in {path}, line {line}."
        self.add(found)

    def add(self, values: Mapping[str, Any]) -> None:
        """Take over values by name."""
        for name, value in values.items():
            self._add(name, value, typed=False)

    def _add(self, name: str, value: Any, *, typed: bool) -> None:
        variable = self.profile.variables.get(name)
        if variable is None:
            self.problems[name] = _unknown(self.profile, name)
            return
        self.problems.pop(name, None)
        try:
            self.given[name] = variable.read_word(value) if typed else variable.read(value)
        except WrongVariable as exc:
            self.given.pop(name, None)
            self.problems[name] = (
                f"{name} is {show(value)}, but it must be {exc}. {self._about(variable)}"
            )

    def whole(self) -> dict[str, Any]:
        """Every variable's value: the given one or the default."""
        values = {name: variable.default for name, variable in self.profile.variables.items()}
        values.update({name: value for name, value in self.given.items() if value is not None})
        return values

    def missing(self) -> list[Variable]:
        """The variables that have to be given and were not."""
        values = self.whole()
        return [
            variable
            for name, variable in self.profile.variables.items()
            if values[name] in (None, [])
            and (name in self.required or variable.must_be_given(values))
            and name not in self.problems
        ]

    def finish(self, *, unset_allowed: bool = False) -> dict[str, Any]:
        """Return the value of every variable.

        Args:
            unset_allowed: Missing ones that the preset requires get a placeholder, with which
                no endpoint starts (`cep.config.unset`).

        Raises:
            UsageError: Some are missing or wrong; the message tells each.
        """
        values = self.whole()
        problems = list(self.problems.values())
        for variable in self.missing():
            if unset_allowed and variable.name in self.required:
                values[variable.name] = placeholder(variable.name)
            else:
                problems.append(f"{variable.name} is missing: {self._about(variable)}")
        problems += self._contradictions(values)
        if problems:
            raise UsageError(_sentence(self.profile.name, problems), hint=_hint(self.profile.name))
        return values

    def _contradictions(self, values: Mapping[str, Any]) -> list[str]:
        found = []
        for name, variable in self.profile.variables.items():
            if values[name] is None:
                continue
            for other in variable.excludes:
                if values.get(other) is not None:
                    found.append(f"{name} and {other} exclude each other; give one of them.")
            for rule in variable.rules:
                if rule.holds(values) and not _fits(rule.pattern, values[name]):
                    beside = " and ".join(f"{key} {_as_word(values.get(key))}" for key in rule.when)
                    found.append(
                        f"{name} is {show(values[name])}, but with {beside} it must be "
                        f"{rule.says}. {self._about(variable)}"
                    )
        return found

    def _about(self, variable: Variable) -> str:
        words = [variable.description]
        if variable.example is not None:
            words.append(f"Example: {_as_word(variable.example)}.")
        proposal = self.detected.get(variable.name)
        if proposal is not None:
            words.append(f"Found here: {_as_word(proposal.value)} ({proposal.reason}).")
        return " ".join(words)


def _fits(pattern: str, value: Any) -> bool:
    import re

    return re.fullmatch(pattern, str(value)) is not None


def _as_word(value: Any) -> str:
    if value is None:
        return "not given"
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _unknown(profile: Profile, name: str) -> str:
    close = difflib.get_close_matches(name, profile.variables, n=1)
    hint = f"Did you mean {close[0]}?" if close else f"It has {', '.join(profile.variables)}."
    return f"{show(name)} is no variable of the profile {profile.name}. {hint}"


def _sentence(profile: str, problems: list[str]) -> str:
    count = "one variable is" if len(problems) == 1 else f"{len(problems)} variables are"
    listed = "\n".join(f"  {problem}" for problem in problems)
    return f"The profile {profile} cannot be used yet: {count} missing or wrong:\n{listed}"


def _hint(profile: str) -> str:
    return (
        "Pass --set NAME=VALUE, or put them in a file for --vars FILE. "
        f"All of them: cep profiles show {profile}"
    )
