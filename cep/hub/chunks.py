"""Long lists of ids, in pieces that one statement takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

CHUNK = 500  # values in one IN list; SQLite's own bound is far above


def in_chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids in their order, at most `CHUNK` at a time."""
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
