"""How long a command that only talks takes: `cep version`, beside the bare interpreter.

Usage: .venv/bin/python benchmarks/cli_version.py [RUNS]. Prints the median and the best wall time
of RUNS runs (default 20) of each. The promise is a median under 0.15 s for `cep version` on a
machine of its own (the published endpoint 4.19 takes 0.9 s); the exit status tells whether it is
kept.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PROMISE_S = 0.15
DEFAULT_RUNS = 20


def measure(argv: Sequence[str], runs: int) -> list[float]:
    """Wall times of a command in seconds, sorted; one run before does not count."""
    times = []
    for _ in range(runs + 1):
        begun = time.perf_counter()
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - begun)
    return sorted(times[1:])


def main() -> int:
    """Measure, print, judge."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_RUNS
    cep = str(Path(sys.executable).parent / "cep")
    median = 0.0
    for told, argv in {
        "python -c pass": [sys.executable, "-c", "pass"],
        "cep version": [cep, "version"],
    }.items():
        times = measure(argv, runs)
        median = statistics.median(times)
        print(f"{told:15} median {median:.3f} s, best {times[0]:.3f} s, of {runs} runs")
    print(f"promise: cep version under {PROMISE_S} s: {'kept' if median < PROMISE_S else 'BROKEN'}")
    return 0 if median < PROMISE_S else 1


if __name__ == "__main__":
    sys.exit(main())
