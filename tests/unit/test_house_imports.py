"""The directions of imports between the rooms, and the rules for single libraries.

Read from the source with `ast`, so nothing is imported. Imports inside functions count as well as
those at the top; only those under `if TYPE_CHECKING:` do not, since they never run. Each rule is
tried on a sample that breaks it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "cep"

# Which rooms a room may import, besides itself and FOR_ALL. docs/architecture.md draws it.
ALLOWED: dict[str, frozenset[str]] = {
    "__main__": frozenset({"cli"}),
    "cli": frozenset({"apply", "agent", "hub", "doctor", "boot", "profiles", "service", "config"}),
    "apply": frozenset({"agent", "boot", "profiles", "service", "config"}),
    "agent": frozenset({"engines", "journal", "amqp", "service", "wire", "config"}),
    "hub": frozenset({"amqp", "wire", "config"}),
    "engines": frozenset({"worker", "config"}),
    "doctor": frozenset({"profiles", "service", "config"}),
    "worker": frozenset({"wire"}),
    "profiles": frozenset({"config"}),
    "boot": frozenset(),
    "journal": frozenset(),
    "amqp": frozenset(),
    "service": frozenset(),
    "wire": frozenset(),
    "config": frozenset(),
    "safety": frozenset(),
}
FOR_ALL = frozenset({"allocator", "cycles", "model", "errors", "paths", "safety", ""})
# Single modules beyond that, each with its reason.
BEYOND = {
    # The codes of error results; the message itself is the worker's and the agent's business.
    ("engines", "cep.wire.result"),
}
# A library that only one room may know.
ONLY_IN = {"pika": "amqp", "parsl": "engines", "click": "cli"}


@dataclass(frozen=True)
class Import:
    """One import statement: the module it names, where it stands, and how deep."""

    target: str
    line: int
    inside_function: bool


def imports_of(source: str, module: str, *, is_package: bool = False) -> Iterator[Import]:
    """Yield every import that can run, with relative ones made absolute."""
    yield from _walk(ast.parse(source), module.split("."), is_package, inside=False)


def _walk(node: ast.AST, parts: list[str], is_package: bool, *, inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _walk(ast.Module([other], []), parts, is_package, inside=inside)
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, inside)
        elif isinstance(child, ast.ImportFrom):
            yield from _from(child, parts, is_package, inside)
        elif isinstance(child, ast.Call):
            dynamic = _dynamic(child)
            if dynamic:
                yield Import(dynamic, child.lineno, inside)
        deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _walk(child, parts, is_package, inside=deeper)


def _from(
    node: ast.ImportFrom, parts: list[str], is_package: bool, inside: bool
) -> Iterator[Import]:
    if node.level:
        keep = len(parts) - node.level + (1 if is_package else 0)
        base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
    else:
        base = node.module or ""
    # `from cep import hub` names a room only in its list of names.
    for alias in node.names:
        names_room = base == "cep" and alias.name in ALLOWED
        yield Import(f"cep.{alias.name}" if names_room else base, node.lineno, inside)


def _dynamic(call: ast.Call) -> str | None:
    """The module named in `import_module("x")` or `__import__("x")`, when it is a constant."""
    name = ast.unparse(call.func).rpartition(".")[2]
    if name in ("import_module", "__import__") and call.args:
        first = call.args[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            return first.value
    return None


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Return a sentence for each import in a module's source that breaks a rule."""
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else ""
    found = []
    for item in imports_of(source, module, is_package=is_package):
        reason = _judge(item, room)
        if reason:
            found.append(f"{module}:{item.line} imports {item.target}: {reason}")
    return found


def _judge(item: Import, room: str) -> str | None:
    top, _, rest = item.target.partition(".")
    if top in ONLY_IN and room != ONLY_IN[top]:
        return f"{top} belongs to cep/{ONLY_IN[top]} alone"
    if top != "cep":
        return None
    other = rest.partition(".")[0]
    if other in FOR_ALL or other == room or (room, item.target) in BEYOND:
        return None
    if room not in ALLOWED:
        return f"cep.{room or '__init__'} is used by all rooms, so it may use none"
    if other not in ALLOWED[room]:
        return f"cep/{room} may use {', '.join(sorted(ALLOWED[room])) or 'no other room'}"
    if room == "cli" and not item.inside_function:
        return "cep/cli imports other rooms inside command bodies only"
    return None


def sources() -> list[tuple[str, Path]]:
    """Every module of the package: (dotted name, file)."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ["cep", *path.relative_to(PACKAGE).with_suffix("").parts]
        found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


def test_every_import_goes_in_an_allowed_direction() -> None:
    found = [
        text
        for module, path in sources()
        for text in violations(path.read_text(), module, is_package=path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_every_room_has_a_rule() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms - ALLOWED.keys() == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cep.hub.app", "from cep.agent import agent"),
        ("cep.hub.app", "from cep import agent"),
        ("cep.hub.app", "from ..engines import base"),
        ("cep.hub.rest.tasks", "from ...journal import journal"),
        ("cep.agent.links", "import pika"),
        ("cep.agent.links", "def late():\n    import pika.adapters"),
        ("cep.agent.agent", "def late():\n    from parsl.executors import HighThroughputExecutor"),
        ("cep.config.load", "import click"),
        ("cep.worker.execute", "class A:\n    def m(self):\n        import cep.config.settings"),
        ("cep.journal.journal", "from cep.wire import result"),
        ("cep.engines.pool", "from cep.wire.task import unpack_task"),
        ("cep.model", "from cep.wire import task"),
        ("cep.safety.audit", "from cep.wire import task"),
        ("cep.apply.plan", "from cep.cli import naming"),
        ("cep.apply.plan", "import click"),
        ("cep.agent.agent", "from cep.apply import plan"),
        ("cep.cli.lifecycle", "from cep.agent import launch"),
        ("cep.cli.lifecycle", "def start():\n    from cep.engines import build"),
        ("cep.agent.agent", "import importlib\nimportlib.import_module('cep.hub.app')"),
        ("cep.agent.agent", "try:\n    import cep.profiles.render\nexcept ImportError:\n    pass"),
        ("cep.agent.agent", "if TYPE_CHECKING:\n    pass\nelse:\n    import cep.cli.main"),
    ],
)
def test_a_wrong_import_is_caught(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cep.agent.agent", "from cep.engines import build\nfrom cep.wire.task import unpack_task"),
        ("cep.agent.agent", "if TYPE_CHECKING:\n    from cep.cli import main"),
        ("cep.amqp.link", "import pika"),
        ("cep.cli.lifecycle", "import click\ndef start():\n    from cep.agent import launch"),
        ("cep.engines.htex", "def late():\n    import parsl"),
        ("cep.hub.app", "from cep.errors import CepError\nfrom .store import Store"),
        ("cep.cli.listing", "from cep.safety.text import printable"),
    ],
)
def test_a_right_import_is_let_through(module: str, source: str) -> None:
    assert violations(source, module) == []
