"""A `config.py` read as syntax: nothing of it is ever run.

Understood are plain values, names given before, f-strings and sums of those, lists and mappings,
`Class(keyword=value)` (which becomes a block with `type: Class`), and settings made afterwards
(`config.display_name = ...`). Everything else becomes an `Unread` that knows its line. Pure; the
result is the same shape as a YAML file's.
"""

from __future__ import annotations

import ast
import textwrap
from typing import Any

from cep.config.document import Lines
from cep.config.foreign.findings import Findings, Remark, Unread
from cep.errors import ConfigError

_LONGEST = 80  # characters of an expression in a message
_LARGEST = 256 * 1024  # characters of a program; thousands of keys
_MOST = 50_000  # values, one with two names counted twice
_BOUND = 10**15  # of what a sum or product may come to
_NO_RUN = "would have to be run to be known"
#: The name of the argument that these take without a name. Source: their published signatures.
_FIRST_ARGUMENT = {
    "SlurmProvider": "partition",
    "WrappedLauncher": "prepend",
    "address_by_interface": "ifname",
    "address_by_query": "timeout",
}
_CALLS_WITHOUT_MEANING = ("print", "logging", "set_stream_logger", "set_file_logger")


def read_python(text: str, origin: str) -> tuple[Lines, Findings]:
    """Return what `config = Config(...)` says, and what could not be read.

    Args:
        text: The program.
        origin: What to call it in messages.

    Raises:
        ConfigError: It is no Python, or no configuration can be found in it.
    """
    if len(text) > _LARGEST:
        raise ConfigError(f"The program {origin} has {len(text)} characters; {_LARGEST} are read.")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        line = getattr(exc, "lineno", None)
        where = "" if line is None else f", line {line}"
        raise ConfigError(
            f"{origin} is not valid Python{where}: {getattr(exc, 'msg', None) or exc}.",
            hint="Its syntax must be that of Python 3.",
        ) from exc
    reader = _Reader()
    try:
        for statement in tree.body:
            reader.statement(statement)
    except RecursionError as exc:
        raise ConfigError(f"{origin} is nested too deeply to be read.") from exc
    found = reader.names.get("config")
    if isinstance(found, Unread):
        raise ConfigError(
            f"{origin}, line {found.line}: `config` is {found.source}, which {found.why}.",
            hint="Write it as config = Config(...) with plain values, or make a config.yaml.",
        )
    if not isinstance(found, Lines):
        raise ConfigError(
            f"{origin} has no `config = Config(...)` at its top level, so there is nothing to read."
        )
    try:
        _measure(found, {})
    except (RecursionError, ValueError) as exc:
        raise ConfigError(f"{origin}: `config` holds itself, or more than {_MOST} values.") from exc
    configuration = Lines()
    for name, value in found.items():
        if name != "type":
            _put(configuration, name, value, found.line_of.get(name, 0))
    return configuration, reader.findings


class _Reader:
    """The values of names so far. Used by one thread for one program."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.real: dict[str, str] = {}  # what `import X as Y` calls Y
        self.findings = Findings()

    # --- statements -------------------------------------------------------------------------------

    def statement(self, node: ast.stmt) -> None:
        """Take over one statement of the top level."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                self.real[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.Assign):
            value = self.value(node.value)
            for target in node.targets:
                self._assign(target, value, node)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._assign(node.target, self.value(node.value), node)
        elif isinstance(node, ast.AugAssign):
            both = ast.BinOp(left=_as_read(node.target), op=node.op, right=node.value)
            self._assign(node.target, self.value(ast.copy_location(both, node)), node)
        elif isinstance(node, ast.Pass) or self._means_nothing(node):
            return
        else:
            self._pass_over(node)
            return
        for inner in ast.walk(node):
            if isinstance(inner, ast.NamedExpr):  # sets a name in passing
                name = inner.target.id
                self.names[name] = Unread(name, inner.lineno, _NO_RUN)

    def _means_nothing(self, node: ast.stmt) -> bool:
        if not isinstance(node, ast.Expr):
            return False
        if isinstance(node.value, ast.Constant):  # a docstring
            return True
        called = ast.unparse(node.value.func) if isinstance(node.value, ast.Call) else ""
        return any(part in _CALLS_WITHOUT_MEANING for part in called.split("."))

    def _pass_over(self, node: ast.stmt) -> None:
        """Whatever the statement could change is unread from here on."""
        source = _short(node)
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.findings.unread.append(Remark(source, node.lineno, "This statement is not run."))
        for name in _touched(node):
            why = f"depends on line {node.lineno} ({source}), which is not run"
            self.names[name] = Unread(name, node.lineno, why)

    def _assign(self, target: ast.expr, value: Any, node: ast.stmt) -> None:
        if isinstance(target, ast.Name):
            self.names[target.id] = value
            return
        if isinstance(target, ast.Tuple | ast.List) and isinstance(value, list):
            if len(value) == len(target.elts):
                for one, item in zip(target.elts, value, strict=True):
                    self._assign(one, item, node)
                return
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value)
            if isinstance(owner, Lines):
                _put(owner, target.attr, value, node.lineno)
                return
        elif isinstance(target, ast.Subscript):
            owner, key = self.value(target.value), self.value(target.slice)
            if isinstance(owner, Lines) and isinstance(key, str):
                _put(owner, key, value, node.lineno)
                return
        self._pass_over(node)

    # --- expressions ------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """The value of an expression: plain, a `Lines`, a list of such, or an `Unread`."""
        if isinstance(node, ast.Constant):
            plain = node.value is None or isinstance(node.value, str | bool | int | float)
            return node.value if plain else _unread(node)
        if isinstance(node, ast.Name):
            return self._named(node)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return self._list(node)
        if isinstance(node, ast.Dict):
            return self._mapping(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.JoinedStr):
            return self._joined(node)
        if isinstance(node, ast.BinOp):
            return self._sum(node)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self.value(node.operand)
            return -inner if _is_number(inner) else _unread(node)
        if isinstance(node, ast.Subscript):
            return self._item(node)
        if isinstance(node, ast.Attribute):
            owner = self.value(node.value)
            if isinstance(owner, Lines) and node.attr in owner:
                return owner[node.attr]
        return _unread(node)

    def _named(self, node: ast.Name) -> Any:
        if node.id not in self.names:
            return Unread(node.id, node.lineno, "is a name that the file does not give a value to")
        found = self.names[node.id]
        if isinstance(found, Unread):
            return Unread(f"{node.id} = {found.source}", found.line, found.why)
        return found

    def _list(self, node: ast.List | ast.Tuple | ast.Set) -> Any:
        items = [self.value(item) for item in node.elts]
        return next((item for item in items if isinstance(item, Unread)), items)

    def _mapping(self, node: ast.Dict) -> Any:
        block = Lines()
        for key_node, value_node in zip(node.keys, node.values, strict=True):
            if key_node is None:  # **other
                other = self.value(value_node)
                if not isinstance(other, Lines):
                    return _unread(node)
                for name, inner in other.items():
                    _put(block, name, inner, other.line_of.get(name, node.lineno))
                continue
            key = self.value(key_node)
            if not isinstance(key, str | int):
                return _unread(node)
            _put(block, str(key), self.value(value_node), key_node.lineno)
        return block

    def _call(self, node: ast.Call) -> Any:
        written = ast.unparse(node.func)
        name = self.real.get(written, written).rpartition(".")[2]
        if name == "dedent" and len(node.args) == 1:
            text = self.value(node.args[0])
            return textwrap.dedent(text) if isinstance(text, str) else _unread(node)
        is_class = name[:1].isupper() or name.startswith("address_by_") or name == "dict"
        if not is_class:
            return _unread(node)
        block = Lines()
        if name != "dict":
            _put(block, "type", name, node.lineno)
        for number, argument in enumerate(node.args):
            first = _FIRST_ARGUMENT.get(name) if number == 0 else None
            _put(block, first or f"argument {number + 1}", self.value(argument), argument.lineno)
        for keyword in node.keywords:
            self._keyword(block, keyword)
        return block

    def _keyword(self, block: Lines, keyword: ast.keyword) -> None:
        value, line = self.value(keyword.value), keyword.value.lineno
        if keyword.arg is not None:
            _put(block, keyword.arg, value, line)
        elif isinstance(value, Lines):
            for name, inner in value.items():
                _put(block, name, inner, value.line_of.get(name, line))
        else:
            _put(block, f"**{_short(keyword.value)}", _unread(keyword.value), line)

    def _joined(self, node: ast.JoinedStr) -> Any:
        parts = []
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                if part.conversion != -1 or part.format_spec is not None:
                    return _unread(node)
                value = self.value(part.value)
            else:
                value = self.value(part)
            if not isinstance(value, str | int | float):
                return _unread(node)
            parts.append(str(value))
        whole = sum(len(part) for part in parts)
        return "".join(parts) if whole <= _LARGEST else _unread(node)

    def _sum(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        if isinstance(node.op, ast.Add):
            texts = isinstance(left, str) and isinstance(right, str)
            lists = isinstance(left, list) and isinstance(right, list)
            # Doubling again and again makes a short program stand for a huge value.
            if (texts or lists) and len(left) + len(right) <= _LARGEST:
                return left + right
        if _is_number(left) and _is_number(right):
            if isinstance(node.op, ast.Add | ast.Sub):
                return _bounded(
                    left + right if isinstance(node.op, ast.Add) else left - right, node
                )
            if isinstance(node.op, ast.Mult):
                return _bounded(left * right, node)
        return _unread(node)

    def _item(self, node: ast.Subscript) -> Any:
        owner, key = self.value(node.value), self.value(node.slice)
        if isinstance(owner, Lines) and isinstance(key, str | int) and str(key) in owner:
            return owner[str(key)]
        if isinstance(owner, list) and isinstance(key, int) and -len(owner) <= key < len(owner):
            return owner[key]
        return _unread(node)


def _measure(value: Any, known: dict[int, int]) -> int:
    """Count what a value stands for; refuse what names make endless or too large."""
    if not isinstance(value, list | Lines):
        return 1
    before = known.get(id(value))
    if before is not None:
        if not before:
            raise ValueError("it holds itself")
        return before
    known[id(value)] = 0
    inner = value.values() if isinstance(value, Lines) else value
    size = 1 + sum(_measure(part, known) for part in inner)
    if size > _MOST:
        raise ValueError("too large")
    known[id(value)] = size
    return size


def _put(block: Lines, name: str, value: Any, line: int) -> None:
    block[name] = value
    block.line_of[name] = line


def _unread(node: ast.expr) -> Unread:
    return Unread(_short(node), node.lineno, _NO_RUN)


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _as_read(target: ast.expr) -> ast.expr:
    """The same place, to be read instead of written."""
    return ast.parse(ast.unparse(target), mode="eval").body


def _touched(node: ast.stmt) -> set[str]:
    """Names that a statement may give another value to, or whose value it may change."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}  # what stands inside is not run by the definition
    names = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name | ast.Attribute | ast.Subscript):
            if isinstance(inner.ctx, ast.Store | ast.Del):
                names.add(_base(inner))
        elif isinstance(inner, ast.Call):
            names |= {_base(inner.func)} if isinstance(inner.func, ast.Attribute) else set()
            names |= {_base(argument) for argument in inner.args}
            names |= {_base(keyword.value) for keyword in inner.keywords}
    return names - {""}


def _base(node: ast.expr) -> str:
    """The name that a chain of attributes and items begins with; empty for another expression."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _bounded(value: Any, node: ast.expr) -> Any:
    return value if abs(value) <= _BOUND else _unread(node)
