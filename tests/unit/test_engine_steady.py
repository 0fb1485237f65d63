"""Parsl's processes live by a clock that nobody can set."""

from __future__ import annotations

import time

import pytest

from cep.engines import interchange, pool
from cep.engines.steady import SteadyTime


def test_parsls_modules_measure_silence_by_the_steady_clock() -> None:
    assert isinstance(interchange.parsl_interchange.time, SteadyTime)
    assert isinstance(pool.parsl_pool.time, SteadyTime)
    assert interchange.time is interchange.parsl_interchange.time


def test_a_clock_that_is_set_does_not_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    steady = SteadyTime()
    assert steady.time() == pytest.approx(time.time(), abs=60)
    before = steady.time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= steady.time() < before + 60
    assert steady.monotonic() == pytest.approx(time.monotonic(), abs=60)
