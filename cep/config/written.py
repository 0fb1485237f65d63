"""Values -> the text of a YAML file as people write one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from cep.config.kinds import FloatText, IntText


def dump(values: Mapping[str, Any]) -> str:
    """The file of these values: in their order, texts of several lines as blocks."""
    return yaml.dump(
        _plain(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, which people can edit."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_number(dumper: yaml.SafeDumper, number: IntText | FloatText) -> yaml.ScalarNode:
    """A number as it was written: an account `007` is not 7."""
    kind = "int" if isinstance(number, IntText) else "float"
    return dumper.represent_scalar(f"tag:yaml.org,2002:{kind}", number.written)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(IntText, _represent_number)
_Dumper.add_representer(FloatText, _represent_number)
