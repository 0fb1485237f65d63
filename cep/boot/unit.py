"""A unit file's text: what it has to know, and its rendering. No effects.

The template is `templates/systemd/endpoint.service.j2`; docs/service.md explains it line by line.
Every value passes a filter that makes it one harmless word of systemd's syntax.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cep import paths
from cep.errors import SoftwareError, UsageError

HARDENING = ("compat", "standard", "strict")
#: The first version that knows LoadCredential=; systemd.exec(5).
CREDENTIALS_SINCE = 247
#: What a host is taken to have when it has no systemd to ask: Debian 12, and RHEL 9.
USUAL_VERSION = 252
PREFIX = "globus-compute-endpoint-"  # as the published endpoint names its units
_UNIT_NAME = re.compile(r"[A-Za-z0-9:_.][A-Za-z0-9:_.-]{0,200}")
_MARK = "# cep: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The line of a unit file by which it is known as ours.

    Attributes:
        endpoint: The endpoint's name.
        directory: The endpoint's directory.
        user: Who the service runs as.
        lingers: We let that account's services run without a login.
        credentials: Files with credentials that were written for it.
    """

    endpoint: str
    directory: str
    user: str
    lingers: bool = False
    credentials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPlan:
    """Everything a unit file depends on.

    Attributes:
        mark: Whose it is.
        unit: File name, ending in `.service`.
        user: For the user's own service manager.
        version: Of the systemd that will read it.
        program: The absolute path of `cep`, or how else to call it.
        run_as: Account name; its primary group's name.
        group: See `run_as`.
        home: The account's home directory.
        base: The user directory, which holds all endpoints.
        needed: Directories that must be mounted and are written.
        search_path: `PATH` of the service.
        hardening: One of `HARDENING`.
        host: The only host it may start on (user units), or None.
        credentials: Name and file of each credential to load.
        environment_file: A file with credentials as variables, for systemd that loads none.
        limits: `memory_max`, `cpu_quota`, `tasks_max`, as systemd writes them.
    """

    mark: Mark
    unit: str
    user: bool
    version: int
    program: Sequence[str]
    run_as: str
    group: str
    home: Path
    base: Path
    needed: Sequence[Path]
    search_path: str
    hardening: str = "compat"
    host: str | None = None
    credentials: Sequence[tuple[str, str]] = ()
    environment_file: str | None = None
    limits: Mapping[str, str | None] = field(default_factory=dict)


def unit_name(endpoint: str, chosen: str | None = None) -> str:
    """The unit's file name.

    Args:
        endpoint: The endpoint's name.
        chosen: A name that somebody wants instead, with or without `.service`.

    Raises:
        UsageError: It can be no unit's name.
    """
    name = PREFIX + endpoint if chosen is None else chosen.removesuffix(".service")
    if _UNIT_NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} can be no unit's name: it takes letters, digits, ':', '_', '.' and '-'.",
            hint="Choose one with --unit-name.",
        )
    return f"{name}.service"


def render(plan: UnitPlan) -> str:
    """Return the unit file's text.

    Raises:
        UsageError: A value cannot be written in a unit file.
        SoftwareError: The template is damaged.
    """
    # Whoever only looks for a unit does without it.
    from jinja2 import StrictUndefined, TemplateError
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # each value goes through one of the filters
    )
    environment.filters.update(text=_text, word=_word, argument=_argument)
    path = paths.templates_dir() / "systemd" / "endpoint.service.j2"
    values: dict[str, Any] = {name: getattr(plan, name) for name in plan.__slots__}
    values |= {name: plan.limits.get(name) for name in ("memory_max", "cpu_quota", "tasks_max")}
    values |= {
        "mark": json.dumps(asdict(plan.mark)),
        "endpoint": plan.mark.endpoint,
        "directories": sorted({str(one) for one in (plan.home, *plan.needed)}),
        "writable": sorted({str(one) for one in (plan.home, plan.base, *plan.needed)}),
    }
    try:
        return environment.from_string(path.read_text(encoding="utf-8")).render(values)
    except (OSError, TemplateError) as exc:
        raise SoftwareError(f"The template {path} is damaged: {exc}.") from exc


def read_mark(text: str) -> Mark | None:
    """Return the mark of a unit file that we wrote, or None when it is another's."""
    for line in text.splitlines()[:5]:
        if line.startswith(_MARK):
            try:
                found = json.loads(line.removeprefix(_MARK))
                return Mark(**{**found, "credentials": tuple(found["credentials"])})
            except (ValueError, TypeError, KeyError, RecursionError):
                return None
    return None


def is_published(text: str) -> bool:
    """Whether the published endpoint wrote this unit file."""
    return re.search(r"^ExecStart=.*globus-compute-endpoint\b.*\bstart\b", text, re.M) is not None


def _text(value: object) -> str:
    """One line, in which nothing stands for something else."""
    text = str(value)
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise UsageError(f"{text!r} has a control character; a unit file cannot hold it.")
    if text.endswith("\\"):
        raise UsageError(f"{text!r} ends with a backslash; a unit file cannot hold it.")
    return text.replace("%", "%%")


def _word(value: object) -> str:
    """One word of a list of words."""
    text = _text(value)
    if not re.search(r"[\s\"'\\]", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _argument(value: object) -> str:
    """One word of a command line, where a dollar would begin a variable."""
    return _word(value).replace("$", "$$")
