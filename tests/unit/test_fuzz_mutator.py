"""The fuzzing engine of one's own: it finds what crashes, hangs or fills memory, and keeps it."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import mutator
from tests.fuzz.target import Source, name_of, piece


def _run(one: Callable[[bytes], None], work: Path, seeds: tuple[bytes, ...] = (b"seed",)) -> int:
    return mutator.run(one, seeds, seconds=5, seed=1, longest=64, artifacts=work)


def _python(program: str, work: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, str(work)],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def test_an_input_that_crashes_is_found_and_kept(tmp_path: Path) -> None:
    def one(data: bytes) -> None:
        assert not data.startswith(b"se\x80")

    assert _run(one, tmp_path) == 77
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes().startswith(b"se\x80")
    assert kept.name == f"crash-{name_of(kept.read_bytes())}"


def test_an_input_that_hangs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutator, "INPUT_LIMIT_S", 0.1)

    def one(_data: bytes) -> None:
        while True:
            pass

    assert _run(one, tmp_path) == 77


def test_an_input_that_fills_memory_is_found(tmp_path: Path) -> None:
    # In a process of its own, whose memory nothing else has ever filled.
    program = (
        "import sys, pathlib; from tests.fuzz import mutator\n"
        "mutator.MEMORY_LIMIT_MB = mutator.peak_mb() + 20; held = []\n"
        "status = mutator.run(lambda data: held.append(b'x' * (1 << 20)), [b'seed'], seconds=30,\n"
        "    seed=1, longest=64, artifacts=pathlib.Path(sys.argv[1]))\n"
        "assert len(held) < 500, len(held)\n"
        "sys.exit(status)"
    )
    done = _python(program, tmp_path)
    assert done.returncode == 77, done.stderr
    assert "are in use" in done.stderr


def test_mutations_differ_and_keep_the_limit() -> None:
    draw = random.Random(1)
    made = {mutator.mutate(draw, [b"abc" * 10, b"", b"xyz"], 40) for _ in range(500)}
    assert len(made) > 400
    assert max(map(len, made)) <= 40


def test_a_target_runs_where_atheris_is_not_installed(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; sys.modules['atheris'] = None\n"
        "from tests.fuzz import child\n"
        "child.main('wire', 5, 1, pathlib.Path(sys.argv[1]))"
    )
    done = _python(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "engine: mutator" in done.stderr
    tried = done.stderr.partition("stat::number_of_executed_units: ")[2].split()[0]
    assert int(tried) > 29  # the seeds, and more


def test_a_source_gives_what_was_put_in_and_zeros_at_its_end() -> None:
    source = Source(bytes((7,)) + piece(b"abc") + b"rest")
    assert (source.number(), source.piece(), source.rest()) == (7, b"abc", b"rest")
    assert (source.number(), source.piece(), source.left) == (0, b"", 0)
