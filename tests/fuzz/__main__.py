"""Run the fuzz targets one after another, each in a process of its own, and print what came of it.

Usage: python -m tests.fuzz [--seconds N] [--target NAME]... [--seed N] [--keep N]

`--seconds` is for all targets together. Ends with 1 when any input crashed a target, hung it or
took too much memory; that input then lies in `.cache/fuzz/TARGET/`. `--keep N` adds N inputs that
reached new code, of each target, to the corpus.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.target import CORPUS, INPUT_LIMIT_S, MEMORY_LIMIT_MB, kept, name_of
from tests.fuzz.targets import WHERE

WORK = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"
LARGEST_KEPT = 2048  # bytes of one input that goes into the corpus
_START_S = 60  # beyond the fuzzing itself: imports, seeds, the end


@dataclass(frozen=True)
class Report:
    """What came of one target."""

    target: str
    engine: str
    tried: int
    peak_mb: int
    failure: str


def main() -> int:
    """Fuzz, print the table, return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--target", action="append", choices=sorted(WHERE))
    parser.add_argument("--seed", type=int, default=random.randrange(1, 2**31))
    parser.add_argument("--keep", type=int, default=0)
    asked = parser.parse_args()
    names = asked.target or list(WHERE)
    each_s = max(1, asked.seconds // len(names))
    print(
        f"{len(names)} targets, {each_s} s each, seed {asked.seed}; per input at most "
        f"{INPUT_LIMIT_S} s, per target at most {MEMORY_LIMIT_MB} MB",
        flush=True,
    )
    reports = []
    for name in names:
        reports.append(fuzz(name, each_s, asked.seed))
        if asked.keep:
            keep(name, asked.keep)
        print(_row(reports[-1]), flush=True)
    failed = [one for one in reports if one.failure]
    print(
        f"{sum(one.tried for one in reports)} inputs tried, "
        f"{len(failed)} of {len(reports)} targets failed"
    )
    return 1 if failed else 0


def fuzz(name: str, seconds: int, seed: int) -> Report:
    """Run one target."""
    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="cep-fuzz-", dir=shared if os.access(shared, os.W_OK) else None
    ) as scratch:
        command = [sys.executable, "-m", "tests.fuzz.child", name, str(seconds), str(seed), work]
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": scratch},
                timeout=seconds + _START_S,
                check=False,
            )
            output, status = done.stdout, str(done.returncode)
        except subprocess.TimeoutExpired as exc:
            output, status = exc.stdout or b"", "still running after its time"
    text = output.decode("utf-8", "replace")
    (work / "log").write_text(text, encoding="utf-8")
    failure = "" if status == "0" else f"status {status}, see {work / 'log'}"
    return Report(
        target=name,
        engine=_found(r"^engine: (\w+)", text) or "?",
        tried=int(_found(r"^stat::number_of_executed_units:\s*(\d+)", text) or 0),
        peak_mb=int(_found(r"^stat::peak_rss_mb:\s*(\d+)", text) or 0),
        failure=failure,
    )


def keep(name: str, most: int) -> None:
    """Add some inputs of new coverage to the corpus, short and long ones."""
    found = WORK / name / "found"
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    known = set(kept(name).values())
    inputs = sorted({path.read_bytes() for path in found.glob("*")} - known, key=len)
    inputs = [data for data in inputs if len(data) <= LARGEST_KEPT]
    for data in inputs[:: max(1, len(inputs) // most)][:most]:
        (folder / name_of(data)).write_bytes(data)
    shutil.rmtree(found, ignore_errors=True)


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else ""


def _row(one: Report) -> str:
    outcome = f"FAILED: {one.failure}" if one.failure else "no failure"
    return f"{one.target:9} {one.engine:8} {one.tried:>9} inputs {one.peak_mb:>5} MB  {outcome}"


if __name__ == "__main__":
    sys.exit(main())
