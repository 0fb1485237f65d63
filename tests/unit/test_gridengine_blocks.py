"""Jobs of Grid Engine: only an error state is a failure, and only what is not listed is over."""

from __future__ import annotations

from pathlib import Path

import pytest
from parsl.jobs.states import JobState

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.gridengine_blocks import GridEngineBlocks, parse_qstat, state_of
from cep.engines.providers import provider_of

QSTAT = """\
job-ID  prior   name       user         state submit/start at     queue         slots
-----------------------------------------------------------------------------------------------
     41 0.55500 parsl.bloc researcher   r     11/25/2026 21:00:01 all.q@master      1
     42 0.55500 parsl.bloc researcher   t     11/25/2026 21:00:02 all.q@master      1
     43 0.00000 parsl.bloc researcher   Eqw   11/25/2026 21:00:03                   1
"""


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("qw", JobState.PENDING),
        ("hqw", JobState.PENDING),
        ("hRwq", JobState.PENDING),
        ("t", JobState.RUNNING),
        ("Rt", JobState.RUNNING),
        ("r", JobState.RUNNING),
        ("hr", JobState.RUNNING),
        ("s", JobState.HELD),
        ("ts", JobState.HELD),
        ("S", JobState.HELD),
        ("T", JobState.HELD),
        ("Eqw", JobState.FAILED),
        ("EhRqw", JobState.FAILED),
        ("dr", JobState.COMPLETED),
        ("dt", JobState.COMPLETED),
        ("z", JobState.UNKNOWN),
    ],
)
def test_only_an_error_state_is_a_failure(letters: str, state: JobState) -> None:
    assert state_of(letters) == state


def test_an_empty_queue_is_an_answer() -> None:
    assert parse_qstat("") == {}


@pytest.fixture
def provider(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GridEngineBlocks:
    """The provider that a configuration gets, with a qstat that prints a file."""
    (tmp_path / "answer").write_text(QSTAT)
    qstat = tmp_path / "qstat"
    qstat.write_text(f"#!/bin/sh\nexec cat {tmp_path}/answer\n")
    qstat.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    chosen = HtexSettings(provider=ComponentSettings("GridEngineProvider", {}))
    made = provider_of(chosen, mark={}, run_dir=tmp_path)
    assert isinstance(made, GridEngineBlocks)
    made.resources.update({job: {"job_id": job} for job in ("41", "42", "43", "44")})
    return made


def test_a_job_that_is_not_listed_is_over(provider: GridEngineBlocks) -> None:
    states = [status.state for status in provider.status(["41", "42", "43", "44"])]
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.FAILED, JobState.COMPLETED]


def test_a_qstat_that_fails_changes_nothing(provider: GridEngineBlocks, tmp_path: Path) -> None:
    provider.status(["41"])
    (tmp_path / "answer").unlink()
    assert provider.status(["41"])[0].state == JobState.RUNNING
