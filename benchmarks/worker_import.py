"""How long a worker takes to import, against the published one.

Run with: `PUBLISHED_PYTHON=/path/to/python python benchmarks/worker_import.py [rounds]`, where that
interpreter has globus-compute-endpoint installed. Prints wall time (best and median), modules and
memory of each, and their ratio; ours includes what the first task needs. Exit code 1 when ours is
not under half of the published one.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

TELL = """
import resource, sys
print(len(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
EMPTY = ""
OURS = "from cep.worker import execute; execute.warm_up()"
PUBLISHED = "import globus_compute_endpoint.engines.helper"


def measure(python: str, program: str, rounds: int) -> tuple[float, float, int, int]:
    """Return best and median seconds, modules, and KiB of memory."""
    seconds = []
    told = "0 0"
    for _ in range(rounds):
        began = time.perf_counter()
        subprocess.run([python, "-c", program], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    told = subprocess.run(
        [python, "-c", program + TELL], check=True, capture_output=True, text=True
    ).stdout
    modules, memory = map(int, told.split()[-2:])
    return min(seconds), statistics.median(seconds), modules, memory


def main() -> int:
    """Measure side by side and print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    published = os.environ.get("PUBLISHED_PYTHON")
    cases = [("bare interpreter", sys.executable, EMPTY), ("cep worker", sys.executable, OURS)]
    if published:
        cases.append(("published worker", published, PUBLISHED))
    found = {}
    for name, python, program in cases:
        best, median, modules, memory = measure(python, program, rounds)
        found[name] = median
        print(
            f"{name:18} best {best * 1000:6.0f} ms  median {median * 1000:6.0f} ms  "
            f"{modules:5} modules  {memory / 1024:5.0f} MiB"
        )
    if not published:
        print("Set PUBLISHED_PYTHON to compare with the published worker.")
        return 0
    ratio = found["cep worker"] / found["published worker"]
    print(f"ratio {ratio:.2f} (median, interpreter start included)")
    return 0 if ratio < 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
