"""The golden files of the profiles and presets: which there are, and what writes them.

`python -m tests.unit.profile_goldens` writes tests/unit/golden_profiles/ anew; look at the
difference before you keep it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cep.profiles import catalog, presets
from cep.profiles.catalog import Profile
from cep.profiles.reference import built_in
from cep.profiles.render import render
from cep.profiles.values import Values

FOLDER = Path(__file__).resolve().parent / "golden_profiles"
SEARCH = built_in()
#: What the required variables hold in the default files, where the example alone does not do.
COMPANIONS = {"container": {"container_uri": "docker://python:3.11-slim"}}
# Beside these, the full files hold every variable at once.
FULL = {
    "amqp_port": 5671,
    "launcher": "auto",
    "engine": "GlobusComputeEngine",
    "encrypted": False,
    "high_assurance": False,  # it insists on encryption
    "exclusive": False,
    "nodes_per_block": 2,
    "max_blocks": 5,
    "init_blocks": 2,
    "min_blocks": 1,
}


def least_values(profile: Profile) -> dict[str, Any]:
    """The required variables and what goes with them."""
    needed = {
        name: variable.example for name, variable in profile.variables.items() if variable.required
    }
    return {**needed, **COMPANIONS.get(profile.name, {})}


def full_values(profile: Profile) -> dict[str, Any]:
    """A value other than the default for every variable that can be given beside the others."""
    chosen: dict[str, Any] = {}
    excluded = {name for variable in profile.variables.values() for name in variable.excludes}
    for name, variable in profile.variables.items():
        if name in excluded:
            continue
        if name in FULL:
            chosen[name] = FULL[name]
        elif variable.example is not None:
            chosen[name] = variable.example
        elif variable.type == "flag":
            chosen[name] = not variable.default
        elif variable.type in ("integer", "number"):
            chosen[name] = variable.default + 1
    return chosen


def profile_text(profile: Profile, given: Mapping[str, Any], **service: Any) -> str:
    """The configuration for these values, and what it is to say of the service."""
    values = Values(profile)
    values.add(given)
    return render(profile, values.finish(), origin="x", **service)


def preset_text(name: str, given: dict[str, Any] | None = None) -> str:
    """The configuration of a preset, with placeholders for what was not given."""
    preset = presets.find(name, SEARCH)
    profile = catalog.find(preset.profile, SEARCH)
    values = Values(profile, required=preset.required)
    values.add(preset.values)
    values.add(given or {})
    return render(profile, values.finish(unset_allowed=True), origin="x")


def goldens() -> Iterator[tuple[str, str]]:
    """Every golden file: its name below the folder, and its text."""
    for name in catalog.names(SEARCH):
        profile = catalog.find(name, SEARCH)
        yield f"{name}.default.yaml", profile_text(profile, least_values(profile))
        yield f"{name}.full.yaml", profile_text(profile, full_values(profile))
    for name in presets.names(SEARCH):
        yield f"sites/{name}.yaml", preset_text(name)


def main() -> int:
    """Write all golden files, and remove those that are none any more."""
    wanted = dict(goldens())
    for path in FOLDER.rglob("*.yaml"):
        if str(path.relative_to(FOLDER)) not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
