"""Slurm's commands are understood as recorded, and not when they print anything else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cep.engines.job_words import ENDED, JobWord, clock
from cep.engines.scheduler_command import NotUnderstood
from cep.engines.slurm_words import (
    is_passing,
    is_unknown_job,
    parse_sacct,
    parse_scontrol,
    parse_squeue,
    parse_time,
)

RECORDED = Path(__file__).parent / "scheduler_outputs"
VERSIONS = sorted(path.name for path in RECORDED.glob("slurm-*"))


def recorded(version: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / version / f"{name}.json").read_text())
    return found


def test_several_versions_are_recorded() -> None:
    assert VERSIONS == ["slurm-22.05", "slurm-22.05-accounting", "slurm-24.11"]


@pytest.mark.parametrize("version", VERSIONS)
def test_squeue_tells_states_reasons_and_times(version: str) -> None:
    mixed = parse_squeue(recorded(version, "squeue_mixed")["stdout"])
    assert {job: mixed[job].state for job in ("1", "2", "4", "5", "8", "9")} == {
        "1": "FAILED",
        "2": "COMPLETED",
        "4": "CANCELLED",
        "5": "PENDING",
        "8": "PREEMPTED",
        "9": "RUNNING",
    }
    assert mixed["5"].reason == "BeginTime"
    assert mixed["6"].reason == "JobHeldUser"
    assert mixed["12"].reason == "Dependency"
    assert mixed["9"].reason == ""
    assert (mixed["9"].nodes, mixed["9"].name) == ("c1", "cep.x.y.0")
    ended = parse_squeue(recorded(version, "squeue_ended")["stdout"])
    assert (ended["10"].state, ended["10"].reason) == ("TIMEOUT", "TimeLimit")
    assert 60 < (ended["10"].ran_s or 0) < 120
    assert "NODE_FAIL" in {word.state for word in ended.values()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "job", "end"),
    [
        ("fail", "1", ("FAILED", 7, 0)),
        ("done", "2", ("COMPLETED", 0, 0)),
        ("kill", "3", ("FAILED", 0, 9)),
        ("cancelled", "4", ("CANCELLED", 0, 0)),
        ("low", "8", ("PREEMPTED", 0, 15)),
        ("running", "9", ("RUNNING", 0, 0)),
        ("timeout", "10", ("TIMEOUT", 0, 15)),
    ],
)
def test_scontrol_tells_how_a_job_ended(
    version: str, name: str, job: str, end: tuple[str, int, int]
) -> None:
    word = parse_scontrol(recorded(version, f"scontrol_{name}")["stdout"], job)
    assert (word.state, word.exit_code, word.signal) == end
    assert word.ended == (name != "running")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_unknown_job_and_an_absent_controller_are_told_apart(version: str) -> None:
    assert is_unknown_job(recorded(version, "scontrol_gone")["stderr"])
    for name in ("squeue_no_controller", "scontrol_no_controller"):
        words = recorded(version, name)["stderr"]
        assert is_passing(words)
        assert not is_unknown_job(words)
    assert not is_passing(recorded(version, "sbatch_partition")["stderr"])


def test_a_refused_account_is_no_passing_trouble() -> None:
    words = recorded("slurm-22.05-accounting", "sbatch_account")["stderr"]
    assert "Invalid account" in words
    assert not is_passing(words)


def test_sacct_tells_ends_where_there_is_accounting() -> None:
    found = parse_sacct(recorded("slurm-22.05-accounting", "sacct_all")["stdout"])
    assert (found["1"].state, found["1"].exit_code) == ("FAILED", 7)
    assert found["4"].state == "CANCELLED"
    assert found["10"].state == "TIMEOUT"
    assert found["4"].nodes == ""
    assert parse_sacct("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "*** the cluster will be down on monday ***",
        "1|RUNNING|None",
        "x|RUNNING|None|0:00|c1|cep",
        "1|running|None|0:00|c1|cep",
        "1|RUNNING|None|0:00|c1|cep\nwarning: something",
    ],
)
def test_half_an_answer_is_no_answer(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_squeue(text)


def test_the_answer_about_another_job_is_no_answer() -> None:
    with pytest.raises(NotUnderstood):
        parse_scontrol(recorded("slurm-24.11", "scontrol_fail")["stdout"], "2")
    with pytest.raises(NotUnderstood):
        parse_scontrol("", "1")
    with pytest.raises(NotUnderstood):
        parse_sacct("who knows")


def test_a_job_may_be_called_anything() -> None:
    found = parse_squeue("7|PENDING|Priority|0:00||a|b|RUNNING|c\n")
    assert (found["7"].state, found["7"].name) == ("PENDING", "a|b|RUNNING|c")


def test_the_cluster_names_of_several_clusters_are_passed_over() -> None:
    assert list(parse_squeue("CLUSTER: one\n7|PENDING|Priority|0:00||a\nCLUSTER: two\n")) == ["7"]


@given(st.text())
def test_no_text_passes_for_the_end_of_a_job_by_accident(text: str) -> None:
    for parse in (parse_squeue, parse_sacct):
        try:
            found = parse(text)
        except NotUnderstood:
            continue
        for job, word in found.items():
            assert job[0].isdigit()
            assert word.state.isascii()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00", 0), ("5:01", 301), ("01:00:00", 3600), ("2-00:00:01", 172801), ("INVALID", None)],
)
def test_times_are_read_as_slurm_writes_them(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


def test_an_end_is_told_in_one_phrase() -> None:
    assert JobWord("TIMEOUT", ran_s=300).end("1234") == "TIMEOUT after 00:05:00 in job 1234"
    # Its script was killed by SIGTERM, or saw its children killed and said so.
    assert JobWord("TIMEOUT", exit_code=0, signal=15).end("1") == "TIMEOUT in job 1"
    assert JobWord("TIMEOUT", exit_code=143, signal=0).end("1") == "TIMEOUT in job 1"
    assert JobWord("TIMEOUT", exit_code=3).end("1") == "TIMEOUT with exit status 3 in job 1"
    assert JobWord("FAILED", exit_code=143).end("1") == "FAILED with exit status 143 in job 1"
    assert JobWord("FAILED", exit_code=7).end("5") == "FAILED with exit status 7 in job 5"
    assert JobWord("FAILED", exit_code=0, signal=9).end("5") == "FAILED by signal 9 in job 5"
    assert clock(93784) == "1-02:03:04"


def test_a_job_that_was_too_large_is_told_with_what_to_do() -> None:
    """In the forms of the recorded ones; the containers here cannot limit a job's memory."""
    ended = recorded("slurm-24.11", "scontrol_kill")["stdout"]
    text = re.sub(r"JobState=\S+ Reason=\S+", "JobState=OUT_OF_MEMORY Reason=OutOfMemory", ended)
    text = re.sub(r" ExitCode=\S+", " ExitCode=0:125", text)
    word = parse_scontrol(text, "3")
    assert (word.state, word.reason, word.ended) == ("OUT_OF_MEMORY", "OutOfMemory", True)
    end = word.end_with_advice("3")
    assert re.match(r"OUT_OF_MEMORY after \S+ in job 3; more memory was used than the job has", end)
    assert "the scheduler's reason: OutOfMemory" in word.story("3")
    (told,) = parse_sacct("3|OUT_OF_MEMORY|0:125|OutOfMemory|00:00:12|c1\n").values()
    assert told.end_with_advice("3").startswith("OUT_OF_MEMORY after 00:00:12 in job 3; more")
    assert JobWord("TIMEOUT").end_with_advice("3") == "TIMEOUT in job 3"


def test_unknown_never_means_ended() -> None:
    assert not JobWord().ended
    assert not JobWord("SOMETHING_NEW").ended
    assert not ENDED & {"PENDING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "UNKNOWN"}


def test_a_story_says_what_a_missing_program_means(tmp_path: Path) -> None:
    errors = tmp_path / "err"
    errors.write_text("\n/opt/cep/bin/python3: No such file or directory\n\n")
    story = JobWord("FAILED", "NonZeroExitCode", exit_code=127, stderr_path=str(errors)).story("8")
    assert story.startswith("FAILED with exit status 127 in job 8; the scheduler's reason: NonZero")
    assert "a program cannot be seen on the node" in story
    assert story.endswith("/opt/cep/bin/python3: No such file or directory")
