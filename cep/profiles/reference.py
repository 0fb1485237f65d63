"""The tables of docs/profiles.md and docs/sites.md, written from the schemas and the presets.

`python -m cep.profiles.reference docs/profiles.md docs/sites.md` replaces the part of each file
between the two marks; a unit test fails when a file is not what this writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cep import paths
from cep.profiles import catalog, presets
from cep.profiles.search import BUILT_IN, SearchPath
from cep.profiles.variables import Variable

BEGIN = "<!-- written by cep.profiles.reference; change the schemas and presets -->"
END = "<!-- end of what is written by cep.profiles.reference -->"


def profile_tables() -> str:
    """One table of variables for each group that profiles share, and one for each profile."""
    search = built_in()
    found = [catalog.find(name, search) for name in catalog.names(search)]
    shared = _shared_groups(found)
    parts = ["## Profiles\n", "| profile | what it is for | groups of variables |\n|---|---|---|"]
    for profile in found:
        groups = dict.fromkeys(variable.group for variable in profile.variables.values())
        parts.append(f"| `{profile.name}` | {profile.summary} | {', '.join(groups)} |")
    parts.append("\n## Variables that profiles share\n")
    for group, variables in shared.items():
        parts += [f"### {group}\n", _table(variables)]
    for profile in found:
        own = [
            variable
            for variable in profile.variables.values()
            if variable not in shared.get(variable.group, ())
        ]
        parts += [f"## `{profile.name}`\n", profile.summary + "\n"]
        parts.append(_table(own) if own else "No variables of its own.\n")
    return "\n".join(parts)


def site_tables() -> str:
    """One line for each preset, and one section with its values."""
    search = built_in()
    found = [presets.find(name, search) for name in presets.names(search)]
    parts = [
        "| preset | site | profile | yours to give | facts of | trust |",
        "|---|---|---|---|---|---|",
    ]
    for preset in found:
        required = ", ".join(f"`{name}`" for name in preset.required)
        parts.append(
            f"| `{preset.name}` | {_cell(preset.site)} | `{preset.profile}` | {required} | "
            f"{preset.checked} | {preset.trust} |"
        )
    for preset in found:
        parts += [f"\n## `{preset.name}`\n", f"{preset.site}. Source: {preset.source}."]
        if preset.notes:
            parts.append(preset.notes)
        parts += ["", "| variable | value |", "|---|---|"]
        parts += [f"| `{name}` | {_value(value)} |" for name, value in preset.values.items()]
    return "\n".join(parts) + "\n"


def updated(document: str, tables: str) -> str:
    """Return the document with the part between the marks written anew."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables}\n{END}{tail}"


def built_in() -> SearchPath:
    """The search path with what is shipped only."""
    return SearchPath(((BUILT_IN, paths.templates_dir() / "configs"),))


def _shared_groups(found: Sequence[catalog.Profile]) -> dict[str, list[Variable]]:
    """By group, the variables that several profiles have in exactly the same form."""
    seen: list[Variable] = []
    shared: dict[str, list[Variable]] = {}
    for profile in found:
        for variable in profile.variables.values():
            if variable not in seen:
                seen.append(variable)
            elif variable not in shared.setdefault(variable.group, []):
                shared[variable.group].append(variable)
    return shared


def _table(variables: Sequence[Variable]) -> str:
    lines = ["| variable | value | default | meaning | example |", "|---|---|---|---|---|"]
    lines += [_line(variable) for variable in variables]
    return "\n".join(lines) + "\n"


def _line(variable: Variable) -> str:
    default = "" if variable.default is None else _value(variable.default)
    if variable.required:
        default = "**required**"
    elif variable.required_when is not None:
        conditions = [
            f"`{name}` is {' or '.join(f'`{_plain(option)}`' for option in options)}"
            for name, options in variable.required_when.items()
        ]
        default = f"required when {' and '.join(conditions)}"
    example = "" if variable.example is None else _value(variable.example)
    text = variable.description
    if variable.excludes:
        text += f" Not together with {', '.join(f'`{name}`' for name in variable.excludes)}."
    return (
        f"| `{variable.name}` | {_cell(variable.wanted)} | {default} | {_cell(text)} | {example} |"
    )


def _value(value: Any) -> str:
    return f"`{_cell(_plain(value))}`"


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value.rstrip("\n").replace("\n", "\\n")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ",".join(value)
    return json.dumps(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(argv: Sequence[str]) -> int:
    """Write the tables into the named files: profiles first, sites second."""
    for name, tables in zip(argv, (profile_tables(), site_tables()), strict=True):
        path = Path(name)
        path.write_text(updated(path.read_text(encoding="utf-8"), tables), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
