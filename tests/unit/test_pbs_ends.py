"""What PBS and Torque tell of a job becomes a word, and nothing is guessed."""

from __future__ import annotations

import time

import pytest

from cep.engines.job_words import CRASHED, FINISHED, JobWord
from cep.engines.pbs_ends import PRO_ENDS, TORQUE_ENDS, refined, seconds_of, word_of
from cep.engines.pbs_words import Fields, parse_full, parse_json
from tests.unit.test_pbs_words import recorded

NOW = time.mktime((2022, 10, 4, 21, 23, 53, 0, 0, -1))


def pro(**fields: str) -> JobWord:
    named = {name.replace("__", "."): value for name, value in fields.items()}
    return word_of({"job_state": "F", **named}, PRO_ENDS, NOW)


def torque(**fields: str) -> JobWord:
    return word_of({"job_state": "C", **fields}, TORQUE_ENDS, NOW)


def only(found: dict[str, Fields]) -> Fields:
    (fields,) = found.values()
    return fields


def test_the_recorded_walltime_is_told_as_one() -> None:
    """PBS gives 271 (SIGTERM) here; what was used says why."""
    fields = only(parse_full(recorded("pbspro-full", "walltime")["stdout"]))
    word = word_of(fields, PRO_ENDS, NOW)
    assert word.ended
    assert word.end("49223") == "TIMEOUT after 00:00:49 in job 49223"
    assert word.reason.endswith("and failed")
    assert word.nodes == "gc-prd-hpcn001"


def test_a_job_that_waits_says_why() -> None:
    waiting = parse_full(recorded("pbspro-full", "waiting")["stdout"])
    for fields in waiting.values():
        word = word_of(fields, PRO_ENDS, NOW)
        assert word.state == "QUEUED"
        assert word.reason == "Not Running: Insufficient amount of resource: ncpus"
        assert not word.ended
    held = word_of(only(parse_json(recorded("pbspro-json", "held")["stdout"])), PRO_ENDS, NOW)
    assert (held.state, held.reason, held.ended) == ("HELD", "Hold_Types u", False)


def test_a_job_that_runs_has_its_nodes_and_its_time_since_the_start() -> None:
    """PBS counts what was used every few minutes only."""
    fields = only(parse_json(recorded("pbspro-json", "running")["stdout"]))
    word = word_of(fields, PRO_ENDS, NOW)
    assert (word.state, word.reason, word.ran_s) == ("RUNNING", "", 20.0)
    assert word.nodes == "charon24+charon21"
    fields = only(parse_full(recorded("torque-full", "running")["stdout"]))
    begun = time.mktime((2019, 2, 19, 12, 47, 56, 0, 0, -1))
    word = word_of(fields, TORQUE_ENDS, begun + 60)
    assert (word.state, word.ran_s, word.nodes) == ("RUNNING", 35 * 60 + 58, "xena21")


def test_ends_of_torque() -> None:
    well = word_of(
        only(parse_full(recorded("torque-full", "completed")["stdout"])), TORQUE_ENDS, NOW
    )
    assert (well.state, well.exit_code, well.ran_s) == ("COMPLETED", 0, 4.0)
    failed = word_of(
        only(parse_full(recorded("torque-full", "not_started")["stdout"])), TORQUE_ENDS, NOW
    )
    assert (failed.state, failed.reason) == ("LAUNCH_FAILED", "JOB_EXEC_FAIL1 (-1)")
    assert torque(exit_status="-11").state == "TIMEOUT"
    assert torque(exit_status="-10").state == "OUT_OF_MEMORY"
    assert pro(Exit_status="x", exit_status="-11").state == "FAILED", (
        "Torque's number means another"
    )


@pytest.mark.parametrize(
    ("status", "state", "exit_code", "signal"),
    [
        ("0", "COMPLETED", 0, None),
        ("3", "FAILED", 3, None),
        ("127", "FAILED", 127, None),
        ("137", "FAILED", 137, 9),
        ("254", "FAILED", 254, None),
        ("265", "FAILED", None, 9),
        ("271", "CANCELLED", None, 15),
        ("-29", "TIMEOUT", None, None),
        ("-27", "OUT_OF_MEMORY", None, None),
        ("-4", "NODE_FAIL", None, None),
        ("-99", "FAILED", None, None),
    ],
)
def test_one_number_tells_exit_status_signal_or_limit(
    status: str, state: str, exit_code: int | None, signal: int | None
) -> None:
    word = pro(exit_status=status)
    assert (word.state, word.exit_code, word.signal) == (state, exit_code, signal)
    assert word.ended


def test_a_deleted_job_is_cancelled_whatever_its_script_made_of_the_signal() -> None:
    assert pro(substate="91").state == "CANCELLED"
    assert pro(substate="91", exit_status="143").state == "CANCELLED"
    assert pro(substate="91", exit_status="265").end("7") == "CANCELLED by signal 9 in job 7"
    assert pro(substate="93", exit_status="143").state == "FAILED"


def test_a_signal_at_the_end_of_the_walltime_is_its_end() -> None:
    limit = {"resource_list__walltime": "01:00:00", "exit_status": "265"}
    assert pro(**limit, resources_used__walltime="01:00:04").state == "TIMEOUT"
    assert pro(**limit, resources_used__walltime="00:59:00").state == "FAILED"


def test_an_end_without_a_number_is_not_guessed() -> None:
    for word in (pro(), torque(), word_of({"job_state": "X"}, PRO_ENDS, NOW)):
        assert (word.state, word.ended) == (FINISHED, True)
        assert word.state not in CRASHED


@pytest.mark.parametrize("letter", "BEHMQRSTUWZ")
def test_no_other_letter_means_an_end(letter: str) -> None:
    for ends in (PRO_ENDS, TORQUE_ENDS):
        assert not word_of({"job_state": letter, "exit_status": "1"}, ends, NOW).ended


def test_what_the_scheduler_writes_into_the_jobs_error_output_says_more() -> None:
    killed = "something / =>> PBS: job killed: walltime 28828 exceeded limit 28800 / more"
    word = refined(JobWord("CANCELLED", signal=15), killed)
    assert (word.state, word.reason) == ("TIMEOUT", "walltime 28828 exceeded limit 28800")
    word = refined(JobWord("FAILED", signal=9), "=>> PBS: job killed: mem 7 exceeded limit 5")
    assert word.state == "OUT_OF_MEMORY"
    word = refined(
        JobWord("FAILED", signal=9), "=>> PBS: job killed: node 1 (n2) requested job die"
    )
    assert (word.state, word.reason) == ("FAILED", "node 1 (n2) requested job die")
    over = (
        "slurmstepd: error: *** JOB 5 ON c1 CANCELLED AT 2026-11-25T19:00:00 DUE TO TIME LIMIT ***"
    )
    assert refined(JobWord(FINISHED), over).state == "TIMEOUT"
    assert refined(JobWord(FINISHED), over.replace(" DUE TO TIME LIMIT", "")).state == "CANCELLED"
    assert refined(JobWord("COMPLETED"), over + killed).state == "COMPLETED"
    assert refined(JobWord(FINISHED), "") == JobWord(FINISHED)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:05:01", 301),
        ("36:00:00", 129600),
        ("1:00:00:01", 86401),
        ("90", 90),
        ("", None),
        ("x", None),
    ],
)
def test_times_are_read_as_pbs_writes_them(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds
