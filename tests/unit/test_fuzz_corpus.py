"""Every input that fuzzing ever kept, and every seed, once more: quickly, and without an engine."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.fuzz import mutator, targets
from tests.fuzz.target import CORPUS, INPUT_LIMIT_S, MEMORY_LIMIT_MB, kept
from tests.fuzz.targets import WHERE

LARGEST_CORPUS = 300 * 1024  # bytes, all targets together


@pytest.fixture(autouse=True)
def quiet_garbage(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Complaints about garbage are expected, and thousands of them cost time and memory."""
    with caplog.at_level("CRITICAL"):
        yield


@pytest.mark.parametrize("name", WHERE)
def test_no_input_of_the_corpus_crashes_hangs_or_fills_memory(name: str) -> None:
    target = targets.load(name)
    assert target.name == name
    before_mb = mutator.peak_mb()
    with target.open() as one:
        for label, data in (
            *((f"seed {n}", d) for n, d in enumerate(target.seeds())),
            *kept(name).items(),
        ):
            began = time.process_time()
            try:
                one(data)
            except Exception as failure:
                raise AssertionError(f"{label} fails: {data[:200]!r}") from failure
            assert time.process_time() - began < INPUT_LIMIT_S, label
    assert mutator.peak_mb() - before_mb < MEMORY_LIMIT_MB / 2


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    inputs = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in inputs} <= set(WHERE)
    assert sum(path.stat().st_size for path in inputs) < LARGEST_CORPUS
    contents = [(path.parent.name, path.read_bytes()) for path in inputs]
    assert len(set(contents)) == len(contents)
