"""Tables drawn with `+ - | =`, as the published guide shows them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def draw(heading: Sequence[str], rows: Sequence[Sequence[str]], least: Sequence[int] = ()) -> str:
    """Return the table as text, without a newline at its end.

    Args:
        heading: One heading for each column, drawn in the middle as published.
        rows: The cells of each row, drawn at the left.
        least: The least width of each column, so that the frame stays the same between calls.
    """
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    for column, width in enumerate(least):
        widths[column] = max(widths[column], width)
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule, _row(map(_centred, heading, widths)), rule.replace("-", "=")]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines += [_row(cells), rule]
    if not rows:
        lines.append(rule)
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " for cell in cells) + "|"


def _centred(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return (" " * left + text).ljust(width)
