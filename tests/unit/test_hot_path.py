"""The guard of the hot path, `hot_path_counts.py`, in an interpreter of its own.

What other tests leave in theirs would be counted as well; and CPython 3.11.7, after two thousand of
them, was seen to spin for ever in a function under `sys.setprofile`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

COUNTS = Path(__file__).with_name("hot_path_counts.py")
ROOT = COUNTS.parents[2]


def test_a_task_costs_no_more_calls_commits_and_writes_than_it_did() -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(COUNTS)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 passed" in done.stdout
