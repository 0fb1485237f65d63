"""The engine where atheris is not installed: random mutations of the corpus, without coverage.

It keeps the same limits and prints the same figures as libFuzzer does.
"""

from __future__ import annotations

import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from tests.fuzz.target import INPUT_LIMIT_S, MEMORY_LIMIT_MB, name_of

INTERESTING = (0, 1, 7, 8, 0x7F, 0x80, 0xCE, 0xFE, 0xFF)


class TooSlow(BaseException):
    """One input took longer than it may; no `except Exception` shall catch this."""


def mutate(draw: random.Random, seeds: Sequence[bytes], longest: int) -> bytes:
    """Return a seed with one to eight changes."""
    data = bytearray(draw.choice(seeds))
    for _ in range(1 << draw.randrange(4)):
        at = draw.randrange(len(data) + 1)
        kind = draw.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = draw.choice(INTERESTING)
        elif kind == 2:
            data[at:at] = draw.randbytes(draw.randrange(1, 9))
        elif kind == 3:
            del data[at : at + draw.randrange(1, 17)]
        elif kind == 4:
            data[at:at] = data[at : at + draw.randrange(1, 65)] * draw.randrange(1, 5)
        else:
            other = draw.choice(seeds)
            data[at:] = other[draw.randrange(len(other) + 1) :]
    return bytes(data[:longest])


def run(
    one: Callable[[bytes], None],
    seeds: Sequence[bytes],
    *,
    seconds: float,
    seed: int,
    longest: int,
    artifacts: Path,
) -> int:
    """Try inputs until the time is over or one fails.

    Returns:
        The exit status: 0, or 77 as libFuzzer's when an input failed; it is kept in `artifacts`.
    """
    draw = random.Random(seed)
    seeds = [each[:longest] for each in seeds] or [b""]
    signal.signal(signal.SIGALRM, _too_slow)
    until, tried, data, status = time.monotonic() + seconds, 0, b"", 0
    try:
        while time.monotonic() < until:
            data = seeds[tried] if tried < len(seeds) else mutate(draw, seeds, longest)
            tried += 1
            signal.setitimer(signal.ITIMER_REAL, INPUT_LIMIT_S)
            one(data)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if peak_mb() > MEMORY_LIMIT_MB:
                raise MemoryError(f"{peak_mb()} MB are in use")
    except BaseException:
        signal.setitimer(signal.ITIMER_REAL, 0)
        traceback.print_exc()
        (artifacts / f"crash-{name_of(data)}").write_bytes(data)
        status = 77
    print(f"stat::number_of_executed_units: {tried}", file=sys.stderr)
    print(f"stat::peak_rss_mb: {peak_mb()}", file=sys.stderr)
    return status


def peak_mb() -> int:
    """The most memory this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _too_slow(_number: int, _frame: FrameType | None) -> None:
    raise TooSlow(f"an input took more than {INPUT_LIMIT_S} s")
