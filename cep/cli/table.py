"""Tables drawn with `+ - | =`, as the published guide shows them. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def draw(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as text, without a newline at its end."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule, _row(heading, widths), rule.replace("-", "=")]
    for row in rows:
        lines += [_row(row, widths), rule]
    if not rows:
        lines.append(rule)
    return "\n".join(lines)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (f" {cell.ljust(width)} " for cell, width in zip(cells, widths, strict=True))
    return "|" + "|".join(padded) + "|"
