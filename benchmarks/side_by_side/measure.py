"""What processes use: CPU time, memory, and how long the disk takes to be sure.

The processes of an endpoint are found by a mark in their environment, which is the endpoint's
directory: workers and managers leave the process tree, but they inherit that.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

import psutil

MARK = "CEP_BENCH_DIRECTORY"
NANOSECONDS = 1e9


def marked(directory: Path) -> list[psutil.Process]:
    """The processes that were started for this directory, however deep and whoever's children."""
    wanted = f"{MARK}={directory}".encode()
    found = []
    for process in psutil.process_iter():
        try:
            variables = Path(f"/proc/{process.pid}/environ").read_bytes()
            # Some programs write their title over their environment: then the command line tells.
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if process.pid == os.getpid():
            continue
        if wanted in variables.split(b"\0") or f"{directory}/".encode() in line:
            found.append(process)
    return found


def cpu_s(directory: Path) -> dict[int, float]:
    """CPU seconds, user and system, of each process of this directory; by the nanosecond."""
    used = {}
    for process in marked(directory):
        total = 0
        try:
            # The scheduler's own count of each thread (proc(5)): ticks of 10 ms are too coarse.
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                total += int((thread / "schedstat").read_text().split()[0])
        except OSError:
            continue
        used[process.pid] = total / NANOSECONDS
    return used


def cpu_between(before: dict[int, float], after: dict[int, float]) -> float:
    """CPU seconds used between two pictures; what ended in between is not counted."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def pss_mib(directory: Path) -> float:
    """Memory of all processes of this directory: the sum of their proportional set sizes."""
    total_kib = 0
    for process in marked(directory):
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total_kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total_kib / 1024


def end(directory: Path, grace_s: float) -> None:
    """SIGTERM, and SIGKILL after a while, to every process of this directory."""
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        processes = marked(directory)
        for process in processes:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=wait_s)
    # Whatever the last round of the first signal was just starting.
    for process in marked(directory):
        process.kill()


def fsync_ms(directory: Path, rounds: int = 200) -> tuple[float, float]:
    """Median and 99th percentile of appending 4 KiB and having it on the disk, in ms."""
    path = directory / "fsync-probe"
    times = []
    with path.open("wb", buffering=0) as file:
        for _ in range(rounds):
            began = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return statistics.median(times), percentile(times, 99)


def percentile(values: list[float], percent: float) -> float:
    """The value that so many percent of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(percent / 100 * len(ordered) + 0.5) - 1))]
