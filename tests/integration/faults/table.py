"""The account of the fault tests: one row per fault, added up over its runs, printed as one table.

A run is one scenario: tasks are submitted, something breaks, everything recovers. Each scenario
enters what it saw with `enter`; the pytest run (or `make faults`) prints the table at its end.
The numbers are what the client and the test functions saw, never what the agent says of itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HEADINGS = (
    "fault",
    "runs",
    "tasks",
    "answered",
    "lost",
    "duplicated",
    "run twice",
    "errors",
    "bound",
    "repeats",
    "worst recovery",
)


@dataclass(slots=True)
class Row:
    """What was seen of one fault.

    Attributes:
        fault: Its name, as in docs/reliability.md.
        runs: How often it was caused.
        tasks: Tasks submitted around it.
        answered: Tasks that got an answer at the client, errors included.
        lost: Tasks without an answer, and error answers above `bound`.
        duplicated: Second answers that the client saw.
        run_twice: Tasks executed twice without permission.
        errors: Error answers that name the fault (`ENDPOINT_RESTARTED`, `WORKER_LOST`, ...).
        bound: The most error answers the design allows for these runs.
        repeats: Second copies on the result queue after a lost confirm; allowed, the client sees
            none of them.
        recovery_s: Longest time from the cause being gone to the next answer, in seconds; None
            where there is nothing to recover from.
    """

    fault: str
    runs: int = 1
    tasks: int = 0
    answered: int = 0
    lost: int = 0
    duplicated: int = 0
    run_twice: int = 0
    errors: int = 0
    bound: int = 0
    repeats: int = 0
    recovery_s: float | None = None

    def add(self, other: Row) -> None:
        """Add a further run of the same fault."""
        for name in (
            "runs",
            "tasks",
            "answered",
            "lost",
            "duplicated",
            "run_twice",
            "errors",
            "bound",
            "repeats",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        times = [time for time in (self.recovery_s, other.recovery_s) if time is not None]
        self.recovery_s = max(times, default=None)

    def cells(self) -> tuple[str, ...]:
        """The row as text, in the order of `HEADINGS`."""
        numbers = (
            self.runs,
            self.tasks,
            self.answered,
            self.lost,
            self.duplicated,
            self.run_twice,
            self.errors,
            self.bound,
            self.repeats,
        )
        recovery = "-" if self.recovery_s is None else f"{self.recovery_s:.1f} s"
        return (self.fault, *map(str, numbers), recovery)


_rows: dict[str, Row] = {}


def enter(row: Row) -> None:
    """Enter what one run saw; runs of the same fault are added up."""
    if row.fault in _rows:
        _rows[row.fault].add(row)
    else:
        _rows[row.fault] = row


def rows() -> list[Row]:
    """All rows so far, in the order of their first run."""
    return list(_rows.values())


def as_markdown(found: Iterable[Row]) -> list[str]:
    """The table's lines, aligned, in Markdown."""
    cells = [HEADINGS, *(row.cells() for row in found)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(HEADINGS))]

    def line(words: Iterable[str]) -> str:
        padded = [
            word.ljust(width) if at == 0 else word.rjust(width)
            for at, (word, width) in enumerate(zip(words, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (w - 1) if at == 0 else "-" * (w - 1) + ":" for at, w in enumerate(widths)]
    return [line(cells[0]), line(rule), *map(line, cells[1:])]
