"""YAML text -> plain values that remember their lines. Constructs nothing but plain data.

Differences from PyYAML's safe loader, each because a site's file would otherwise mean something
its author did not write: a key given twice is an error, `10:00:00` is text and not a number in
base 60, dates stay text, and numbers remember how they were written (account `007`).
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from cep.config.kinds import FloatText, IntText
from cep.errors import ConfigError

LARGEST = 256 * 1024  # characters of a configuration; thousands of keys
_DEEPEST = 64  # levels of [ and {; PyYAML's time grows with their square
_MOST_NODES = 50_000  # keys and values, an alias counted as often as it is used
_INT_TAG = "tag:yaml.org,2002:int"
_FLOAT_TAG = "tag:yaml.org,2002:float"
_DATE_TAG = "tag:yaml.org,2002:timestamp"
_WITHOUT_BASE_60 = {
    _INT_TAG: re.compile(
        r"^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$"
    ),
    _FLOAT_TAG: re.compile(
        r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
}


class Lines(dict[str, Any]):
    """A mapping whose keys remember the line they stand on (1-based)."""

    def __init__(self) -> None:
        super().__init__()
        self.line_of: dict[str, int] = {}
        self.repeated: list[tuple[str, int]] = []


class _Loader(yaml.SafeLoader):
    """The safe loader with the differences that the module's docstring lists."""

    def fetch_flow_collection_start(self, TokenClass: type[yaml.Token]) -> None:
        """As PyYAML's, to a moderate depth."""
        if self.flow_level >= _DEEPEST:
            raise yaml.scanner.ScannerError(
                problem=f"it is nested more than {_DEEPEST} levels deep",
                problem_mark=self.get_mark(),
            )
        super().fetch_flow_collection_start(TokenClass)

    def read_int(self, node: yaml.ScalarNode) -> IntText:
        """A whole number with its characters."""
        return IntText.read(self.construct_yaml_int(node), node.value)

    def read_float(self, node: yaml.ScalarNode) -> FloatText:
        """A decimal number with its characters."""
        return FloatText.read(
            float(node.value.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
            node.value,
        )

    def read_map(self, node: yaml.MappingNode) -> Lines:
        """A mapping with the lines of its keys; merge keys (`<<`) are resolved."""
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        result = Lines()
        seen: set[Hashable] = set()
        for key_node in own:
            key = self._read_key(key_node)
            if key in seen:
                result.repeated.append((key, key_node.start_mark.line + 1))
            seen.add(key)
        self.flatten_mapping(node)
        for key_node, value_node in node.value:
            key = self._read_key(key_node)
            result.line_of[key] = key_node.start_mark.line + 1
            result[key] = self.construct_object(value_node, deep=True)
        return result

    def _read_key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                problem="a key must be a plain value, not a list or a block",
                problem_mark=node.start_mark,
            )
        return str(self.construct_object(node))


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, _WITHOUT_BASE_60.get(tag, pattern)) for tag, pattern in resolvers if tag != _DATE_TAG
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(_INT_TAG, _Loader.read_int)
_Loader.add_constructor(_FLOAT_TAG, _Loader.read_float)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.read_map)


def parse(text: str, origin: str) -> Lines:
    """Return the document's top mapping.

    Args:
        text: The YAML text.
        origin: Where it came from, for messages.

    Raises:
        ConfigError: It is not YAML, more than one document, not a mapping, or too large.
    """
    if len(text) > LARGEST:
        raise ConfigError(
            f"The configuration {origin} has {len(text)} characters; at most {LARGEST} are read."
        )
    try:
        value = _read(text)
    except (
        yaml.YAMLError,
        ValueError,
        RecursionError,
        # What PyYAML's own constructors raise for `!!int ""`, `!!bool x`, `!!timestamp x`, ...
        LookupError,
        TypeError,
        AttributeError,
    ) as exc:
        mark = getattr(exc, "problem_mark", None)
        what = getattr(exc, "problem", None) or str(exc).splitlines()[0]
        where = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"The configuration {origin} is not valid YAML{where}: {what}.") from exc
    if value is None:
        value = Lines()
    if not isinstance(value, Lines):
        raise ConfigError(
            f"The configuration {origin} must be keys with values, but it is {_describe(value)}."
        )
    return value


def _read(text: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[yaml.Node, int]) -> int:
    """Count what a node stands for; refuse what aliases make endless or too large.

    Whoever loads the text after us (for the registration, say) may write every alias out.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    found = known.get(node)
    if found is not None:
        if not found:
            raise yaml.composer.ComposerError(
                problem="a value must not hold itself", problem_mark=node.start_mark
            )
        return found
    known[node] = 0
    inner = (
        (part for pair in node.value for part in pair)
        if isinstance(node, yaml.MappingNode)
        else node.value
    )
    size = 1 + sum(_measure(part, known) for part in inner)
    if size > _MOST_NODES:
        raise yaml.composer.ComposerError(
            problem=f"it stands for more than {_MOST_NODES} values", problem_mark=node.start_mark
        )
    known[node] = size
    return size


def _describe(value: object) -> str:
    if isinstance(value, str):
        return f"only the value {value[:60]!r}"
    return "a list" if isinstance(value, list) else "only one value"
