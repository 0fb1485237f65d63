"""The filters by which a value gets into a template's text, and the guard that one was used.

Pure text. Every filter returns `Placed`, and the template environment refuses to put out any other
text (`only_placed`), so a template that forgets the filter is an error and not a hole.
"""

from __future__ import annotations

import shlex
from typing import Any

import yaml


class Placed(str):
    """Text that a filter has made safe for the place it goes to."""

    __slots__ = ()


class Unplaced(TypeError):
    """A template put out a text without a filter."""


def as_yaml(value: Any) -> Placed:
    """A value as one line of YAML, quoted where it has to be."""
    if isinstance(value, str):
        value = str(value)  # a subclass would be written with a tag
        plain = "\n" not in value and value == value.strip()
        dumped = yaml.safe_dump(
            value, default_style=None if plain else '"', width=2**20, allow_unicode=True
        )
    else:
        dumped = yaml.safe_dump(value, width=2**20, allow_unicode=True, default_flow_style=True)
    return Placed(dumped.removesuffix("\n").removesuffix("\n...").strip())


def as_block(value: Any, indent: int) -> Placed:
    """A script as a block of YAML, readable line by line; as `as_yaml` where that cannot hold it.

    Args:
        value: The text.
        indent: Columns in front of each line.
    """
    text = str(value)
    body = text.rstrip("\n")
    if "\n" in text and body and body[0] not in " \t\n":
        ends = len(text) - len(body)
        chomp = {0: "-", 1: ""}.get(ends, "+")
        lines = text.split("\n")[: -1 if ends else None]
        block = "\n".join([f"|{chomp}", *((" " * indent + line).rstrip(" ") for line in lines)])
        if _means(block, text):
            return Placed(block)
    return as_yaml(text)


def quoted(value: Any) -> Placed:
    """A text as one word of a shell command."""
    return Placed(shlex.quote(str(value)))


def home_path(value: Any) -> Placed:
    """A path as one word of a shell command; a leading `~` is the home directory."""
    text = str(value)
    if text == "~" or text.startswith("~/"):
        return Placed('"$HOME"' + (shlex.quote(text[1:]) if text[1:] else ""))
    return quoted(text)


def as_script(value: Any) -> Placed:
    """A text that is a script by intent, as it is."""
    return Placed(value)


def only_placed(value: Any) -> Any:
    """Let through what a filter has placed, numbers and nothing; for jinja's `finalize`.

    Raises:
        Unplaced: It is another text, or a list or mapping.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Placed | int | float):
        return value
    raise Unplaced(
        f"{str(value)[:40]!r} is put out without a filter (yaml, block, quote, path, script)"
    )


def _means(block: str, text: str) -> bool:
    try:
        return bool(yaml.safe_load(f"x: {block}\n") == {"x": text})
    except yaml.YAMLError:
        return False
