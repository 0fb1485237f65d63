"""Writes the collection's README.md from what the roles, modules and playbooks say of themselves.

`python ansible/readme.py` writes it; a unit test fails when it is not what this would write.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROLES = ("cep", "cep_hub")
_HEAD = """\
# The collection cep.cep

Compute endpoints compatible with Globus Compute on a site's hosts: installed, configured, run as
services of systemd, upgraded and removed; and the self-hosted service (the hub) for them. How to
begin: `docs/ansible.md` of the project. This file is made from `meta/argument_specs.yml` and the
modules' documentation by `python ansible/readme.py`.

```
ansible-galaxy collection install --offline cep-cep-VERSION.tar.gz
```
"""


def text() -> str:
    """The whole file."""
    parts = [_HEAD]
    for role in ROLES:
        spec = yaml.safe_load((HERE / "roles" / role / "meta/argument_specs.yml").read_text())
        main = spec["argument_specs"]["main"]
        parts += [f"## Role `cep.cep.{role}`\n", f"{_words(main['description'])}\n"]
        parts += ["\n".join(_table(main["options"])) + "\n"]
        for name, option in main["options"].items():
            if "options" in option:
                parts += [f"### `{name}`\n", "\n".join(_table(option["options"])) + "\n"]
    parts.append("## Playbooks\n")
    parts.append("\n".join(_playbooks()) + "\n")
    parts.append("## Modules\n")
    parts.append("\n".join(_modules()) + "\n")
    return "\n".join(parts)


def _table(options: dict[str, Any]) -> Iterator[str]:
    yield "| variable | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, option in options.items():
        kind = option["type"] + (f" of {option['elements']}" if "elements" in option else "")
        if "choices" in option:
            kind += ": " + ", ".join(f"`{choice}`" for choice in option["choices"])
        default = "required" if option.get("required") else _value(option.get("default"))
        yield f"| `{name}` | {kind} | {default} | {_words(option['description'])} |"


def _value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "empty"


def _words(description: str | list[str]) -> str:
    joined = description if isinstance(description, str) else " ".join(description)
    joined = re.sub(r"[COVI]\(([^)]*)\)", r"`\1`", joined)
    return " ".join(joined.split()).replace("|", "\\|")


def _playbooks() -> Iterator[str]:
    """Each playbook with the comment at its head."""
    yield "| playbook | what it does |"
    yield "|---|---|"
    for path in sorted((HERE / "playbooks").glob("*.yml")):
        lines = []
        for line in path.read_text().splitlines()[1:]:
            if not line.startswith("# "):
                break
            lines.append(line[2:])
        yield f"| `cep.cep.{path.stem}` | {' '.join(lines)} |"


def _modules() -> Iterator[str]:
    yield "| module | what it does |"
    yield "|---|---|"
    for path in sorted((HERE / "plugins/modules").glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DOCUMENTATION":
                about = yaml.safe_load(ast.literal_eval(node.value))
                words = f"{about['short_description']}. {_words(about['description'])}"
                yield f"| `cep.cep.{path.stem}` | {words} |"


if __name__ == "__main__":
    (HERE / "README.md").write_text(text(), encoding="utf-8")
