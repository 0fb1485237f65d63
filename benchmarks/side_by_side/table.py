"""From figures to a table: medians, spread, and ratios within one run. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.side_by_side.endpoints import ENGINES
from benchmarks.side_by_side.measure import percentile

OURS, OLDER, NEWER = "cep", "2.19", "4.19"
COLUMNS = (OURS, OLDER, NEWER)
ECHO = "echo"


@dataclass(frozen=True)
class Row:
    """One figure of all endpoints.

    Attributes:
        key: Of the figure.
        title: For people, with the unit.
        higher: Whether more is better.
        digits: After the point.
        goals: By engine: (at least or at most, against what, number). "echo" and "published" are
            ratios, to the echo and to the better published one; "value" is the figure itself.
        of: Makes one number of a list of values; default the median.
    """

    key: str
    title: str
    higher: bool
    digits: int = 0
    goals: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    of: Callable[[list[float]], float] = statistics.median


def _p99(values: list[float]) -> float:
    return percentile(values, 99)


ROWS = (
    Row(
        "burst_per_s",
        "burst of no-ops, tasks/s",
        True,
        goals={
            "threads": [("published", 2.5), ("echo", 0.85)],
            "processes": [("published", 2.2), ("echo", 0.75)],
            "gce": [("published", 3.5), ("echo", 0.55)],
        },
    ),
    Row(
        "cpu_s_per_1000",
        "CPU of all processes per 1,000 tasks of the burst, s",
        False,
        3,
        {"threads": [("value", 0.18)], "processes": [("value", 0.22)], "gce": [("value", 0.40)]},
    ),
    Row(
        "backlog_per_s",
        "backlog, tasks/s between the 10 % and the 90 % answer",
        True,
        goals={"threads": [("echo", 0.5)], "processes": [("echo", 0.45)], "gce": [("echo", 0.4)]},
    ),
    Row(
        "backlog_cpu_s_per_1000",
        "CPU of all processes per 1,000 of the backlog, its start included, s",
        False,
        3,
    ),
    Row(
        "single_ms",
        "one task at a time, median ms",
        False,
        1,
        {"threads": [("value", 3)], "processes": [("value", 3)], "gce": [("value", 5)]},
    ),
    Row(
        "single_ms",
        "one task at a time, 99th percentile ms",
        False,
        1,
        {"threads": [("value", 8)], "processes": [("value", 8)], "gce": [("value", 12)]},
        _p99,
    ),
    Row(
        "large_mb_per_s",
        "payloads of 1 MB, MB/s each way",
        True,
        1,
        {
            "threads": [("echo", 0.6), ("published", 1.7)],
            "processes": [("echo", 0.6), ("published", 1.7)],
            "gce": [("echo", 0.6), ("published", 2.5)],
        },
    ),
    Row(
        "start_accepted_s",
        "start to first task accepted, s",
        False,
        2,
        {"threads": [("value", 0.6)], "gce": [("value", 0.8)]},
    ),
    Row("start_result_s", "start to first result, s", False, 2, {"gce": [("value", 1.6)]}),
    Row(
        "idle_cpu_s",
        "CPU of all processes in 60 s idle, s",
        False,
        2,
        {"threads": [("value", 0.03)], "processes": [("value", 0.03)], "gce": [("value", 0.2)]},
    ),
    Row(
        "pss_mib",
        "memory of all processes idle after 100 tasks (PSS), MiB",
        False,
        goals={"threads": [("value", 48)], "processes": [("value", 80)], "gce": [("value", 170)]},
    ),
    Row("naps_of_ideal", "tasks of 50 ms, share of the ideal", True, 3, {"gce": [("value", 0.97)]}),
)


def values(figures: dict[str, list[dict[str, Any]]], name: str, key: str) -> list[float]:
    """All values of one figure of one endpoint, over the rounds."""
    found: list[float] = []
    for one in figures.get(name, []):
        value = one.get(key)
        if value is not None:
            found += value if isinstance(value, list) else [value]
    return found


def _cell(found: list[float], row: Row) -> str:
    if not found:
        return "-"
    text = f"{row.of(found):,.{row.digits}f}"
    if row.of is not statistics.median or len(found) < 2:
        return text
    return f"{text} ({min(found):,.{row.digits}f}-{max(found):,.{row.digits}f})"


def main_table(figures: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Markdown lines: each figure and engine, ours and the published ones, ratios and goals."""
    lines = [
        "| figure | engine | cep | published 2.19 | published 4.19 | cep to the better published "
        "| echo | cep to echo | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        for engine in ENGINES:
            echo = values(figures, f"{ECHO} {engine}", row.key)  # of the same minutes
            found = {column: values(figures, f"{column} {engine}", row.key) for column in COLUMNS}
            if not found[OURS]:
                continue
            best = _best([found[OLDER], found[NEWER]], row)
            ours = row.of(found[OURS])
            # Always so that more than 1 means: ours is the better one.
            ratio = (
                None if best is None else _ratio(*((ours, best) if row.higher else (best, ours)))
            )
            to_echo = ours / row.of(echo) if echo and row.higher else None
            cells = [
                row.title,
                engine,
                *(_cell(found[column], row) for column in COLUMNS),
                "-" if ratio is None or math.isnan(ratio) else f"{ratio:.2f} x",
                _cell(echo, row) if row.higher or row.key in ("single_ms",) else "-",
                "-" if to_echo is None else f"{to_echo:.2f}",
                _judged(row, engine, ours, ratio, to_echo),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _ratio(one: float, other: float) -> float:
    """Their ratio; not a number when there is nothing to divide by."""
    return one / other if other else float("nan")


def _best(others: Sequence[list[float]], row: Row) -> float | None:
    present = [row.of(found) for found in others if found]
    if not present:
        return None
    return max(present) if row.higher else min(present)


def _judged(row: Row, engine: str, ours: float, ratio: float | None, to_echo: float | None) -> str:
    told = []
    for against, goal in row.goals.get(engine, []):
        if against == "value":
            kept = ours >= goal if row.higher else ours <= goal
            text = f"{'>=' if row.higher else '<='} {goal:g}"
        else:
            reached = ratio if against == "published" else to_echo
            text = f">= {goal:g} x {'published' if against == 'published' else 'echo'}"
            if reached is None:
                continue
            kept = reached >= goal
        told.append(f"{text}: {'met' if kept else 'MISSED'}")
    return "; ".join(told) or "-"


def peer_table(figures: dict[str, list[dict[str, Any]]], peers: Mapping[str, str]) -> list[str]:
    """Markdown lines: what a user might pick instead, beside our engines.

    Args:
        figures: Of all.
        peers: Name to the engine of ours beside which it stands.
    """
    rows = rate, single = ROWS[0], ROWS[4]
    lines = [
        "| | burst of no-ops, tasks/s | one at a time, median ms | who is ahead |",
        "|---|---|---|---|",
    ]
    ours = [f"{way} {engine}" for engine in ENGINES for way in (OURS, "cep+audit", "before")]
    echoes = [f"{ECHO} {engine}" for engine in ENGINES]
    for name in (*ours, *peers, *echoes):
        if figures.get(name):
            cells = [_cell(values(figures, name, row.key), row) for row in rows]
            mine = f"{OURS} {peers[name]}" if name in peers else ""
            told = [
                f"{what}: {_ahead(figures, name, mine, row)}"
                for what, row in (("burst", rate), ("one at a time", single))
                if values(figures, name, row.key) and values(figures, mine, row.key)
            ]
            lines.append(f"| {name} | {' | '.join(cells)} | {'; '.join(told) or '-'} |")
    return lines


def _ahead(figures: dict[str, list[dict[str, Any]]], peer: str, mine: str, row: Row) -> str:
    """Which of the two has the better figure, and by how much."""
    theirs, ours = (row.of(values(figures, name, row.key)) for name in (peer, mine))
    factor = _ratio(ours, theirs) if row.higher else _ratio(theirs, ours)
    return f"{mine}, {factor:.1f} x" if factor >= 1 else f"**{peer}**, {_ratio(1, factor):.1f} x"


def before_table(figures: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Markdown lines: this checkout and another one; empty when there was no other."""
    lines = []
    for row in ROWS:
        for engine in ENGINES:
            now, before = (values(figures, f"{w} {engine}", row.key) for w in (OURS, "before"))
            if now and before:
                ratio = _ratio(row.of(now), row.of(before))
                cells = [row.title, engine, _cell(before, row), _cell(now, row), f"{ratio:.2f}"]
                lines.append(f"| {' | '.join(cells)} |")
    head = ["| figure | engine | before | now | now / before |", "|---|---|---|---|---|"]
    return head + lines if lines else []


def alone_table(rows: dict[str, dict[str, float]]) -> list[str]:
    """Markdown lines: what needs no broker."""
    titles = {
        "worker_us": ("worker's wrapper around a no-op, CPU us", 1),
        "version_s": ("`version`, s", 3),
        "list_s": ("`list`, s", 3),
        "help_s": ("`--help`, s", 3),
    }
    lines = ["| | cep | published 2.19 | published 4.19 |", "|---|---|---|---|"]
    for key, (title, digits) in titles.items():
        found = rows.get(key, {})
        cells = [f"{found[c]:.{digits}f}" if c in found else "-" for c in COLUMNS]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def series_table(series: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Markdown lines of each series: endpoints over lengths, sizes or workers."""
    titles = {
        "queue_length": "tasks/s of a backlog, by its length",
        "queue_memory": "memory of all processes after that backlog (PSS), MiB",
        "payload": "MB/s each way, by the payload's size in bytes",
        "workers": "tasks of 50 ms per second, by the number of workers",
    }
    lines: list[str] = []
    for key, title in titles.items():
        found = series.get(key, {})
        if not found:
            continue
        points = sorted({point for one in found.values() for point in one}, key=int)
        lines += ["", f"| {title} | {' | '.join(f'{int(p):,}' for p in points)} |"]
        lines.append("|---" * (len(points) + 1) + "|")
        for name, one in found.items():
            cells = [f"{one[p]:,.1f}" if p in one else "-" for p in points]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
