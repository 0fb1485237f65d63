"""The tables of docs/configuration.md, written from the tables of this room.

`python -m cep.config.reference FILE` replaces the part of the file between the two marks; a unit
test fails when the file is not what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cep.config import retired
from cep.config.components import FAMILIES
from cep.config.composites import Block, Key
from cep.config.tables import (
    ENGINE_COMMON,
    HTEX_FIELDS,
    HTEX_PASSED,
    PROCESSES,
    THREADS,
    TOP,
)

BEGIN = "<!-- written by cep.config.reference; change the tables in the code -->"
END = "<!-- end of what is written by cep.config.reference -->"


def tables() -> str:
    """Return all tables as Markdown."""
    parts = [
        "## Top level\n",
        _table(TOP),
        "## Every engine\n",
        _table(ENGINE_COMMON, under="engine."),
        "## `type: GlobusComputeEngine`\n",
        _table((*HTEX_FIELDS, *HTEX_PASSED), under="engine."),
        "## `type: ProcessPoolEngine`\n",
        _table(PROCESSES, under="engine."),
        "## `type: ThreadPoolEngine`\n",
        _table(THREADS, under="engine."),
    ]
    for family, heading in (
        ("provider", "Providers"),
        ("launcher", "Launchers"),
        ("address", "Addresses"),
        ("manager_selector", "Manager selectors"),
    ):
        parts.append(f"## {heading}\n")
        for name, keys in FAMILIES[family].items():
            parts += [f"### `{name}`\n", _table(keys) if keys else "No arguments.\n"]
    parts += ["## Keys of published versions\n", _retired()]
    return "\n".join(parts)


def updated(document: str) -> str:
    """Return the document with the part between the marks written anew."""
    head, _, rest = document.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{tables()}\n{END}{tail}"


def _table(keys: Iterable[Key], under: str = "") -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += _lines(keys, under)
    return "\n".join(lines) + "\n"


def _lines(keys: Iterable[Key], under: str) -> Iterator[str]:
    for key in keys:
        yield _line(key, under)
        if isinstance(key.kind, Block):
            yield from _lines(key.kind.keys, f"{under}{key.name}.")


def _line(key: Key, under: str) -> str:
    text = key.text + (" *(ours)*" if key.ours else "")
    default = "**required**" if key.required else _default(key.default)
    return f"| `{under}{key.name}` | {_cell(key.kind.name)} | {default} | {_cell(text)} |"


def _default(value: Any) -> str:
    if value is None or value in ((), [], ""):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "`[" + ", ".join(str(item) for item in value) + "]`"
    return f"`{_cell(str(value))}`"


def _retired() -> str:
    lines = ["| key | what becomes of it | instead |", "|---|---|---|"]
    named = [("", retired.TOP), ("engine.provider.", retired.PROVIDER)]
    for engine, keys in retired.ENGINES.items():
        named.append((f"{engine}: engine.", keys))
    for under, keys in named:
        for name, old in keys.items():
            lines.append(f"| `{under}{name}` | {_fate(old.refused)} | {_cell(old.advice)} |")
    for engine, renamed in retired.RENAMED.items():
        for name, new in renamed.items():
            lines.append(f"| `{engine}: engine.{name}` | taken as the new key | `{new}` |")
    for name, advice in retired.TYPES.items():
        lines.append(f"| `type: {name}` | refused | {_cell(advice)} |")
    return "\n".join(lines) + "\n"


def _fate(refused: bool | None) -> str:
    if refused is None:
        return "refused, unless it says false or nothing"
    return "refused" if refused else "ignored with a warning"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main(argv: Sequence[str]) -> int:
    """Write the tables into the named file."""
    (name,) = argv
    path = Path(name)
    path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
