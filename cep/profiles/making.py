"""What `configure` writes: from a wish and an endpoint's record to the text and the new record.

No effects; writing is `cep.profiles.endpoint`'s business. One thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cep.config.document import parse
from cep.config.load import load_text
from cep.config.written import dump
from cep.errors import ConfigError, UsageError
from cep.profiles import catalog, presets
from cep.profiles.catalog import Profile
from cep.profiles.endpoint import Record, edited_by_hand
from cep.profiles.merge import Merge, changed_paths, merge
from cep.profiles.presets import Preset
from cep.profiles.render import render
from cep.profiles.search import SearchPath
from cep.profiles.values import Values
from cep.profiles.variables import Detected

DEFAULT_PROFILE = "local"
_ABSENT: Any = object()
_WHO = "endpoint"  # the group of variables that do not hang on the kind of site


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for.

    Attributes:
        profile: Name of a profile; None for the one used before, or `local`.
        site: Name of a preset; None for the one used before, if any.
        files: `--vars` files; later ones win.
        assignments: `NAME=VALUE` words; they win over the files.
        named: Values of options that are variables of every profile.
        service_url: The service's address to write; None for none.
        service_is_hub: The service says its AMQP port itself.
        ca_file: The file of authorities to write; None for none.
        asked: Which of `service_url` and `ca_file` an option names: they win over what the owner
            wrote into the file. What the shell's variables say does not.
        detected: What was found on this host.
    """

    profile: str | None = None
    site: str | None = None
    files: tuple[Path, ...] = ()
    assignments: tuple[str, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)
    service_url: str | None = None
    service_is_hub: bool = False
    ca_file: str | None = None
    asked: frozenset[str] = frozenset()
    detected: Mapping[str, Detected] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Made:
    """A configuration that is ready to be written.

    Attributes:
        text: The text, freshly rendered.
        record: How it was made.
        before: The text that the endpoint's earlier choices would give today; what differs from
            `text` was asked for by this wish.
        required: Variables that only the user knows, whose placeholder may stand in the text.
    """

    text: str
    record: Record
    before: str
    required: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A wish whose profile and preset have been found."""

    wish: Wish
    profile: Profile
    preset: Preset | None
    origin: str

    def values(self, given: Mapping[str, Any]) -> Values:
        """Values that begin with these."""
        required = self.preset.required if self.preset else ()
        values = Values(self.profile, self.wish.detected, required=required)
        values.add(given)
        return values

    def text(self, values: Values, **instead: str | None) -> str:
        """The configuration; some of what the wish says of the service may be given instead."""
        service = {"service_url": self.wish.service_url, "ca_file": self.wish.ca_file, **instead}
        return render(
            self.profile,
            values.finish(unset_allowed=True),
            service_url=service["service_url"],
            service_is_hub=self.wish.service_is_hub,
            ca_file=service["ca_file"],
            origin=self.origin,
        )

    def same_as(self, earlier: Record) -> bool:
        """Whether the earlier choice was for the same profile and preset."""
        site = self.preset.name if self.preset else None
        return (earlier.profile, earlier.site) == (self.profile.name, site)

    def carried_over(self, earlier: Record) -> Mapping[str, Any]:
        """What was chosen before and holds on: everything, or who the endpoint is.

        A site may have taken a variable out of its schema since.
        """
        known = self.profile.variables
        return {
            name: value
            for name, value in earlier.values.items()
            if name in known and (self.same_as(earlier) or known[name].group == _WHO)
        }

    def before(self, chosen: Mapping[str, Any], earlier: Record) -> str | None:
        """What the earlier choices alone would give today; None when they give nothing."""
        values = self.values(self.preset.values if self.preset else {})
        values.add(chosen)
        try:
            return self.text(values, **{name: getattr(earlier, name) for name in self.wish.asked})
        except (UsageError, ConfigError):
            return None


def make(
    wish: Wish,
    earlier: Record,
    search: SearchPath,
    *,
    origin: str,
    ask: Callable[[Values], None] = lambda _values: None,
) -> Made:
    """Render what the wish asks for, going on from an earlier choice.

    Args:
        wish: What is asked for.
        earlier: The endpoint's record; an empty one for a new endpoint.
        search: Where profiles and presets are looked for.
        origin: What to call the file in messages.
        ask: May ask a person for missing values; called before the last check.

    Raises:
        UsageError: There is no such profile or preset, or values are missing or wrong.
        ConfigError: The values do not make a valid configuration.
    """
    preset = _preset(wish, earlier, search)
    name = preset.profile if preset else wish.profile or earlier.profile or DEFAULT_PROFILE
    recipe = _Recipe(wish, catalog.find(name, search), preset, origin)
    same = recipe.same_as(earlier)
    chosen = recipe.carried_over(earlier)
    own = recipe.values({})
    for values in (own, whole := recipe.values(preset.values if preset else {})):
        values.add(chosen)
        values.add(wish.named)
        for file in wish.files:
            values.add_file(file)
        values.add_words(wish.assignments)
    known = set(whole.given)
    ask(whole)
    answers = {name: value for name, value in whole.given.items() if name not in known}
    text = recipe.text(whole)
    record = Record.of(
        text,
        profile=recipe.profile.name,
        values={**own.given, **answers},
        service_url=wish.service_url,
        ca_file=wish.ca_file,
        site=preset.name if preset else None,
    )
    # Another profile or preset is asked for whole.
    before = recipe.before(chosen, earlier) if same else earlier.written
    return Made(text, record, before or text, whole.required)


def updated(old: str, earlier: Record, made: Made, origin: str) -> Merge:
    """Merge a fresh configuration into a file that its owner may have edited.

    A file whose record does not say what was written cannot be merged; it is replaced.

    Raises:
        ConfigError: The merged file would be wrong; nothing was written.
    """
    if not earlier.written or not edited_by_hand(old, earlier):
        return Merge(made.text, (), (), False)
    asked = changed_paths(made.before, made.text)
    merged = merge(earlier.written, old, made.text, asked)
    try:
        load_text(merged.text, origin, unset_allowed=True)
    except ConfigError as exc:
        raise ConfigError(
            f"Your own changes do not go together with the update. {exc.message}",
            hint="Change them in the file first, or give the whole file with --endpoint-config.",
        ) from exc
    return merged


def declared(old: str, earlier: Record, made: Made, origin: str) -> Merge:
    """As `updated`, for a wish that holds: what its owner changed of it is set back.

    What the owner added stays.

    Raises:
        ConfigError: The merged file would be wrong; nothing was written.
    """
    merged = updated(old, earlier, made, origin)
    found, wanted = parse(merged.text, origin), parse(made.text, origin)
    drifted: list[str] = []
    restored = _restored(found, wanted, "", drifted)
    if not drifted:
        return merged
    text = dump(restored)
    try:
        load_text(text, origin)
    except ConfigError as exc:
        raise ConfigError(
            f"What you added to {origin} does not go together with what is wanted. {exc.message}",
            hint="Change it in the file first.",
        ) from exc
    kept = tuple(path for path in merged.kept if path not in drifted)
    return Merge(text, kept, (*merged.replaced, *drifted), True)


def whole_file(text: str, origin: str, keys: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A configuration that is taken as it is, but for some keys; and what to tell of that.

    Args:
        text: The file, which was found to be valid.
        origin: What to call the result in messages.
        keys: Top keys to set.

    Raises:
        ConfigError: The result would be wrong.
    """
    if not keys:
        return text, ()
    text = dump({**parse(text, origin), **keys})
    load_text(text, origin)
    return text, ("The options were written into the copy; comments of the file are not in it.",)


def _restored(mine: Any, wanted: Any, path: str, drifted: list[str]) -> Any:
    """Mine with every key of the wanted values; the paths that differed are collected."""
    if isinstance(mine, Mapping) and isinstance(wanted, Mapping):
        whole = dict(mine)
        for name, value in wanted.items():
            where = f"{path}.{name}" if path else name
            whole[name] = _restored(mine.get(name, _ABSENT), value, where, drifted)
        return whole
    if mine is _ABSENT or mine != wanted or isinstance(mine, bool) != isinstance(wanted, bool):
        drifted.append(path)
    return wanted


def _preset(wish: Wish, earlier: Record, search: SearchPath) -> Preset | None:
    if wish.site is None:
        same = wish.profile in (None, earlier.profile)
        return presets.find(earlier.site, search) if earlier.site is not None and same else None
    preset = presets.find(wish.site, search)
    if wish.profile not in (None, preset.profile):
        raise UsageError(
            f"The preset {preset.name} is for the profile {preset.profile}, not {wish.profile}.",
            hint="--site alone is enough; it brings its profile along.",
        )
    return preset
