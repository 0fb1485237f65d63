"""Memory that is freed and taken again costs the kernel nothing, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cep.worker.lend import libc

FAULTS = """
import resource, sys
from cep.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def work():
    kept = [b'x' * 2_000_000 for _ in range(5)]
work(); work()  # glibc learns from what was freed first
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> int:
    """Pages that the kernel had to provide for the same work."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, word], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(libc()[0] != "glibc", reason="only glibc gives memory back so soon")
def test_freed_memory_is_kept_for_the_next_task() -> None:
    # 20 times 10 MB are 49,000 pages of 4 KiB.
    assert faults("keep") < 3_000
    assert faults("default") > 20_000
