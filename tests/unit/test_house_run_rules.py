"""The rules of a test run hold: no skip in CI, and what is left behind is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest, leftovers


def skipped_report() -> pytest.TestReport:
    return pytest.TestReport(
        nodeid="x", location=("x.py", 1, "x"), keywords={}, outcome="skipped", when="setup",
        longrepr=("x.py", 1, "Skipped: no engine"),
    )  # fmt: skip


def test_a_skip_is_a_failure_in_ci_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "IN_CI", True)
    report = skipped_report()
    conftest.refuse_skip(report)
    assert report.outcome == "failed"
    assert "no engine" in str(report.longrepr)


def test_a_skip_stays_a_skip_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "IN_CI", False)
    report = skipped_report()
    conftest.refuse_skip(report)
    assert report.outcome == "skipped"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("unit/test_x.py", "unit"),
        ("integration/test_main_job.py", "main_job"),
        ("integration/test_systemd.py", "systemd"),
        ("integration/test_x.py", "rest"),
    ],
)
def test_each_file_belongs_to_a_part(path: str, part: str) -> None:
    assert conftest.part_of(conftest.HERE / path) == part


def test_every_file_of_the_main_job_exists() -> None:
    missing = {
        name for name in conftest.MAIN_JOB if not (conftest.HERE / "integration" / name).is_file()
    }
    assert missing == set()


def test_a_process_that_outlives_the_run_is_found() -> None:
    mark = "CEP_TEST_SAMPLE=1"
    before = leftovers.picture(mark)
    process = subprocess.Popen(
        [sys.executable, "-c", "import signal; print(1, flush=True); signal.pause()"],
        env={**os.environ, "CEP_TEST_SAMPLE": "1"},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        found = leftovers.compare(before, leftovers.picture(mark), thorough=False)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(found) == 1
    assert str(process.pid) in found[0]
    assert leftovers.compare(before, leftovers.picture(mark), thorough=False) == []


def test_a_file_in_the_home_directory_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    before = leftovers.picture("CEP_TEST_SAMPLE=2")
    endpoint = tmp_path / ".globus_compute" / "default"
    endpoint.mkdir(parents=True)
    found = leftovers.compare(before, leftovers.picture("CEP_TEST_SAMPLE=2"), thorough=True)
    assert f"file {endpoint}" in found
