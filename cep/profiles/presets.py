"""Presets: what is known of a site, as values for a profile, with source and date. Values only.

A preset is `sites/NAME.yaml` on the search path: `site`, `profile`, `source`, `checked` (the month
of the facts), `tried` (by whom, or false), `notes`, `values`, and `required`: the variables that
only the user knows, such as the account. Reads files only.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from cep.errors import UsageError
from cep.profiles import catalog
from cep.profiles.catalog import WRONG_FILE, Profile, damaged
from cep.profiles.search import SearchPath
from cep.profiles.values import Values

_FOLDER = "sites"
_SUFFIX = ".yaml"
_KEYS = frozenset({"site", "profile", "source", "checked", "tried", "notes", "values", "required"})


@dataclass(frozen=True, slots=True)
class Preset:
    """What is known of one site.

    Attributes:
        name: As in `--site NAME`.
        site: The site's full name.
        profile: The profile it gives values for.
        source: Where the facts come from.
        checked: When they were read there, as YYYY-MM.
        tried: Who has tried it; empty when nobody of this project has.
        notes: What to know beyond the values.
        values: By variable.
        required: Variables that only the user knows.
        origin: `built in`, or the folder it was found in.
    """

    name: str
    site: str
    profile: str
    source: str
    checked: str
    tried: str
    notes: str
    values: Mapping[str, Any]
    required: tuple[str, ...]
    origin: str

    @property
    def trust(self) -> str:
        """Whether somebody has tried it, in words."""
        return f"tried: {self.tried}" if self.tried else "not tried by us"

    def as_json(self) -> dict[str, Any]:
        """The preset as `profiles list --json` and `profiles show --json` tell it."""
        return {
            "name": self.name,
            "site": self.site,
            "profile": self.profile,
            "source": self.source,
            "checked": self.checked,
            "tried": self.tried or None,
            "notes": self.notes,
            "values": dict(self.values),
            "required": list(self.required),
            "origin": self.origin,
        }


def names(search: SearchPath | None = None) -> list[str]:
    """The names of all presets."""
    return (search or SearchPath.of()).names(_SUFFIX, _FOLDER)


def find(name: str, search: SearchPath | None = None) -> Preset:
    """Return a preset.

    Raises:
        UsageError: There is none of this name.
        SoftwareError: A shipped one is damaged.
        ConfigError: One of this site or account is wrong, or others can change it.
    """
    search = search or SearchPath.of()
    known = names(search)
    found = search.find(f"{_FOLDER}/{name}{_SUFFIX}") if name in known else None
    if found is None:
        close = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"There is no preset {name!r}. The presets are: {', '.join(known)}.",
            hint=f"Did you mean {close[0]}?" if close else None,
        )
    try:
        entry = yaml.safe_load(found.path.read_text(encoding="utf-8"))
        unknown = sorted(set(entry) - _KEYS)
        if unknown:
            raise ValueError(f"the key {unknown[0]} is unknown")
        preset = Preset(
            name=name,
            site=str(entry["site"]),
            profile=str(entry["profile"]),
            source=str(entry["source"]),
            checked=str(entry["checked"]),
            tried=str(entry.get("tried") or ""),
            notes=str(entry.get("notes") or ""),
            values=dict(entry["values"]),
            required=tuple(entry.get("required") or ()),
            origin=found.origin,
        )
        _check(preset, catalog.find(preset.profile, search))
    except (*WRONG_FILE, UsageError) as exc:
        raise damaged(found, exc) from exc
    return preset


def _check(preset: Preset, profile: Profile) -> None:
    unknown = [name for name in preset.required if name not in profile.variables]
    if unknown:
        raise ValueError(f"the profile {profile.name} has no variable {unknown[0]}")
    values = Values(profile, required=preset.required)
    values.add(preset.values)
    values.finish(unset_allowed=True)
