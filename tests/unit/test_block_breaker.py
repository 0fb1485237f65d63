"""How the breaker slows down, pauses, and remembers over restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cep.engines.breaker import FAILURES_TO_PAUSE, FIRST_PAUSE_S, LONGEST_PAUSE_S, BlockBreaker


def tripped(file: Path | None = None, fingerprint: str = "x", wall: float = 5000.0) -> BlockBreaker:
    breaker = BlockBreaker(file, fingerprint, lambda: wall)
    for _ in range(FAILURES_TO_PAUSE):
        breaker.failed(100.0, "no module named science", progress=False)
    return breaker


def again(file: Path, fingerprint: str = "x", wall: float = 5000.0) -> BlockBreaker:
    breaker = BlockBreaker(file, fingerprint, lambda: wall)
    breaker.load(0.0)
    return breaker


def test_the_breaker_doubles_its_delay_and_pauses_after_some_failures() -> None:
    breaker = BlockBreaker()
    delays = [breaker.failed(100.0, "no", progress=False) for _ in range(12)]
    assert delays[:4] == [1.0, 2.0, FIRST_PAUSE_S, 2 * FIRST_PAUSE_S]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_PAUSE_S
    assert breaker.tripped
    assert breaker.wait_s(100.0) == LONGEST_PAUSE_S
    assert breaker.wait_s(100.0 + LONGEST_PAUSE_S) == 0


def test_progress_starts_the_breakers_count_again() -> None:
    breaker = tripped()
    assert breaker.failed(0.0, "no", progress=True) == 1.0
    assert not breaker.tripped


def test_a_configuration_that_never_worked_is_tried_with_few_blocks() -> None:
    breaker = BlockBreaker()
    assert [breaker.may_try(0.0, untried) for untried in (0, 2, 3, 9)] == [True, True, False, False]
    breaker.came(0.0)
    assert breaker.may_try(0.0, 500)
    breaker.failed(0.0, "no", progress=False)
    assert not breaker.may_try(0.0, 0)
    assert breaker.may_try(1.0, 1)
    assert not breaker.may_try(1.0, 2)


def test_after_a_pause_one_block_is_tried() -> None:
    breaker = tripped()
    later = 100.0 + FIRST_PAUSE_S
    assert breaker.may_try(later, 0)
    assert not breaker.may_try(later, 1)


def test_a_pause_outlives_a_restart_and_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "blocks.json"
    tripped(file)
    breaker = again(file, wall=5100.0)
    assert breaker.tripped
    assert breaker.reason == "no module named science"
    assert breaker.wait_s(0.0) == pytest.approx(FIRST_PAUSE_S - 100)
    assert [path.name for path in tmp_path.iterdir()] == ["blocks.json"]


def test_a_clock_that_was_set_back_pauses_no_longer_than_ever(tmp_path: Path) -> None:
    tripped(tmp_path / "blocks.json")
    assert again(tmp_path / "blocks.json", wall=-1e9).wait_s(0.0) == LONGEST_PAUSE_S


def test_another_configuration_begins_anew(tmp_path: Path) -> None:
    tripped(tmp_path / "blocks.json")
    assert again(tmp_path / "blocks.json", "another").failures == 0


def test_a_pause_by_hand_holds_whatever_changes_until_it_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "blocks.json"
    tripped(file).pause(100.0)
    breaker = again(file, "another")
    assert breaker.by_hand
    assert not breaker.may_try(1e9, 0)
    breaker.resume(0.0)
    assert again(file, "another").may_try(0.0, 0)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", '{"by_hand": 1, "fingerprint": "x", "failures": "many"}', "[" * 9999],
)
def test_a_file_that_is_broken_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "blocks.json").write_text(text)
    assert again(tmp_path / "blocks.json").failures == 0


def test_a_disk_that_is_full_stops_nothing(tmp_path: Path) -> None:
    assert tripped(tmp_path / "not there" / "blocks.json").tripped


def test_one_failure_without_hope_is_enough_and_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "blocks.json"
    breaker = BlockBreaker(file, "x", lambda: 5000.0)
    assert breaker.failed(0.0, "no Python", progress=False, hopeless=True) == FIRST_PAUSE_S
    assert breaker.failed(0.0, "no Python", progress=False, hopeless=True) == 2 * FIRST_PAUSE_S
    kept = again(file)
    assert kept.tripped
    assert kept.hopeless
    kept.resume(0.0)
    assert not again(file).tripped
