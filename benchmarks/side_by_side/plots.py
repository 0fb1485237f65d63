"""The pictures of a run, from its JSON file: throughput, latency, and the three series.

    python -m benchmarks.side_by_side.plots RESULT.json DIRECTORY

Needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.side_by_side.endpoints import ENGINES
from benchmarks.side_by_side.table import COLUMNS, ECHO, values

COLOURS = {"cep": "#1b6ca8", "2.19": "#d98324", "4.19": "#a23b3b", ECHO: "#777777"}
STYLES = {"threads": "-", "processes": "--", "gce": ":"}


def draw(result: dict[str, Any], directory: Path) -> list[Path]:
    """Write the pictures that the result has figures for; return their files."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"figure.figsize": (7, 4), "svg.hashsalt": "cep", "font.size": 9})
    directory.mkdir(parents=True, exist_ok=True)
    made = [_throughput(result, directory), _latency(result, directory)]
    labels = {
        "queue_length": ("tasks waiting at the start", "tasks/s"),
        "payload": ("payload, bytes", "MB/s each way"),
        "workers": ("workers", "tasks of 50 ms per second"),
    }
    for key, (x_label, y_label) in labels.items():
        if result.get("series", {}).get(key):
            made.append(_series(result["series"][key], key, x_label, y_label, directory))
    return made


def _save(figure: Any, directory: Path, name: str) -> Path:
    from matplotlib import pyplot

    path = directory / f"bench-{name}.svg"
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path


def _throughput(result: dict[str, Any], directory: Path) -> Path:
    from matplotlib import pyplot

    figures = result["figures"]
    figure, axes = pyplot.subplots()
    for offset, column in enumerate(COLUMNS):
        for place, engine in enumerate(ENGINES):
            found = values(figures, f"{column} {engine}", "burst_per_s")
            if found:
                middle = statistics.median(found)
                label = column if engine == ENGINES[0] else None
                axes.bar(
                    place + (offset - 1) * 0.27,
                    middle,
                    0.25,
                    yerr=[[middle - min(found)], [max(found) - middle]],
                    color=COLOURS[column],
                    label=label,
                )
    for place, engine in enumerate(ENGINES):
        echo = values(figures, f"{ECHO} {engine}", "burst_per_s")
        if echo:
            axes.plot(
                [place - 0.42, place + 0.42],
                [statistics.median(echo)] * 2,
                color=COLOURS[ECHO],
                linestyle="--",
                label=ECHO if engine == ENGINES[0] else None,
            )
    axes.set_xticks(range(len(ENGINES)), ENGINES)
    axes.set_ylabel("tasks/s (burst of no-ops)")
    axes.legend()
    return _save(figure, directory, "throughput")


def _latency(result: dict[str, Any], directory: Path) -> Path:
    """The share of single tasks that were answered within a time."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for column in COLUMNS:
        for engine in ENGINES:
            found = sorted(values(result["figures"], f"{column} {engine}", "single_ms"))
            shares = [(number + 1) / len(found) for number in range(len(found))]
            name = f"{column} {engine}"
            axes.step(
                found, shares, where="post", color=COLOURS[column], linestyle=STYLES[engine],
                label=name,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("one task at a time, ms")
    axes.set_ylabel("share answered")
    axes.legend()
    return _save(figure, directory, "latency")


def _series(
    found: dict[str, dict[str, float]], key: str, x_label: str, y_label: str, directory: Path
) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots()
    for name, points in found.items():
        column, _, engine = name.partition(" ")
        ordered = sorted(points, key=int)
        axes.plot(
            [int(point) for point in ordered],
            [points[point] for point in ordered],
            color=COLOURS[column],
            linestyle=STYLES.get(engine, "-"),
            marker="o",
            label=name,
        )
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend()
    return _save(figure, directory, key.replace("_", "-"))


if __name__ == "__main__":
    for path in draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])):
        print(path)
