"""The commands of PBS and Torque are understood as recorded, and not when they print otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cep.engines.pbs_words import (
    complaints_of,
    has_no_history,
    is_id,
    is_over,
    is_passing,
    key_of,
    parse_full,
    parse_ids,
    parse_json,
    parse_table,
    parse_table_of_user,
)
from cep.engines.scheduler_command import NotUnderstood

RECORDED = Path(__file__).parent / "scheduler_outputs"


def recorded(folder: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / folder / f"{name}.json").read_text())
    return found


def test_each_recording_names_its_version_and_source() -> None:
    folders = ("pbspro-json", "pbspro-full", "torque-full", "torque-of-slurm-24.11")
    names = {folder: sorted((RECORDED / folder).glob("*.json")) for folder in folders}
    assert all(names.values())
    for path in [path for paths in names.values() for path in paths]:
        told = json.loads(path.read_text())
        assert told["version"], path
        assert told["source"], path
        assert told["argv"][0] in ("qstat", "qdel", "qsub"), path


def test_json_tells_attributes_and_what_is_asked_for_and_used() -> None:
    (fields,) = parse_json(recorded("pbspro-json", "running")["stdout"]).values()
    assert fields["job_state"] == "R"
    assert fields["resource_list.walltime"] == "00:01:00"
    assert fields["exec_host"] == "charon24/0*2+charon21/0*2"
    assert not any("pbs_" in name for name in fields), "variables of the job are nobody's business"
    held = parse_json(recorded("pbspro-json", "held")["stdout"])
    assert held["157"]["hold_types"] == "u"
    assert parse_json(recorded("pbspro-json", "finished")["stdout"])["2154"]["exit_status"] == "0"


@pytest.mark.parametrize("name", ["over_aurora", "over_polaris"])
def test_a_job_that_is_over_is_an_answer_without_jobs_and_a_complaint(name: str) -> None:
    said = recorded("pbspro-json", name)
    assert said["code"] == 35
    assert parse_json(said["stdout"]) == {}
    complaints = complaints_of(said["stderr"])
    assert complaints.finished == {key_of(said["argv"][-1])}
    assert (complaints.unknown, complaints.others) == (frozenset(), ())


@pytest.mark.parametrize("name", ["no_server_22.05", "no_server_2025.2"])
def test_an_absent_server_is_a_passing_trouble(name: str) -> None:
    said = recorded("pbspro-json", name)
    assert is_passing(said["stderr"])
    complaints = complaints_of(said["stderr"])
    assert complaints.others
    assert not complaints.unknown | complaints.finished


@pytest.mark.parametrize(
    "text",
    [
        # openpbs issue 1255: the value of a variable that is no number to JSON
        recorded("pbspro-json", "held")["stdout"].replace('"PBS_O_HOST":"pbs"', '"foo":005'),
        # openpbs pull request 2049: a backslash that escapes nothing
        recorded("pbspro-json", "held")["stdout"].replace('"workq"', '"ab\\,c"'),
        "*** the cluster will be down on monday ***",
        "{}",
        "[1, 2]",
        '{"timestamp": 1, "Jobs": []}',
        '{"timestamp": 1, "Jobs": {"x": {"job_state": "R"}}}',
        '{"timestamp": 1, "Jobs": {"1.s": {"job_state": "running"}}}',
        '{"timestamp": 1, "Jobs": {"1.s": {}}}',
        "[" * 100_000,
        "",
    ],
)
def test_half_an_answer_in_json_is_no_answer(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_json(text)


def test_full_text_joins_what_is_broken_over_lines() -> None:
    (fields,) = parse_full(recorded("pbspro-full", "walltime")["stdout"]).values()
    assert fields["comment"].endswith("on (gc-prd-hpcn001:ncpus=1) and failed")
    assert fields["exit_status"] == "271"
    assert fields["substate"] == "93"
    waiting = parse_full(recorded("pbspro-full", "waiting")["stdout"])
    assert sorted(waiting) == ["7013474", "7013475"]
    assert {told["job_state"] for told in waiting.values()} == {"Q"}
    assert waiting["7013475"]["job_name"] == "job-02.pbs"


def test_full_text_of_torque_is_read_with_blanks_for_tabs_too() -> None:
    (completed,) = parse_full(recorded("torque-full", "completed")["stdout"]).values()
    assert (completed["job_state"], completed["exit_status"]) == ("C", "0")
    assert completed["start_time"] == "Tue Sep 22 09:50:30 2020"
    (running,) = parse_full(recorded("torque-full", "running")["stdout"]).values()
    assert running["resource_list.walltime"] == "03:00:00"
    (failed,) = parse_full(recorded("torque-full", "not_started")["stdout"]).values()
    assert failed["exit_status"] == "-1"


@pytest.mark.parametrize(
    "text",
    [
        "*** the cluster will be down on monday ***",
        "Job Id: somewhere\n    job_state = R\n",
        "    job_state = R\n",
        "Job Id: 1.s\n    job_state = R\nno attribute\n",
        "Job Id: 1.s\n    job_state = RUNNING\n",
    ],
)
def test_half_an_answer_in_full_text_is_no_answer(text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse_full(text)


def test_a_record_that_breaks_off_before_its_state_is_passed_over() -> None:
    assert parse_full("Job Id: 1.s\n    job_state = R\n\nJob Id: 2.s\n    Job_Name = x\n") == {
        "1": {"job_state": "R"}
    }


def test_the_wrapper_of_slurm_breaks_off_and_what_it_has_said_counts() -> None:
    """It dies at the first job that has nodes."""
    said = recorded("torque-of-slurm-24.11", "full_two_running")
    assert said["code"] != 0
    told = parse_full(said["stdout"])
    assert list(told) == [said["argv"][-2]]
    assert told[said["argv"][-2]]["job_state"] == "R"
    table = parse_table(recorded("torque-of-slurm-24.11", "table_two_running")["stdout"])
    assert {key: fields["job_state"] for key, fields in table.items()} == dict.fromkeys(
        said["argv"][-2:], "R"
    )


def test_the_table_of_a_user_has_the_beginning_of_names() -> None:
    told = parse_table_of_user(recorded("torque-full", "user")["stdout"])
    assert told["66908"] == {"job_state": "R", "job_name": "smoke_1_5"}
    ours = parse_table_of_user(recorded("torque-of-slurm-24.11", "user")["stdout"])
    assert {fields["job_name"] for fields in ours.values()} == {"cep.0f0f0f0f-1111-22"}


@pytest.mark.parametrize("parse", [parse_table, parse_table_of_user])
@pytest.mark.parametrize(
    "text",
    [
        "*** the cluster will be down on monday ***",
        "Job id Name\n------ ----\n12.s\n",
        "Job id Name User Time S Queue\n- - - - - -\n12.s name user 0 running batch\n",
    ],
)
def test_half_a_table_is_no_table(parse: Any, text: str) -> None:
    with pytest.raises(NotUnderstood):
        parse(text)


def test_ids_are_told_apart_by_their_number() -> None:
    assert key_of("12.server.example.org") == key_of("12.server") == key_of("12") == "12"
    assert key_of("12[].server") == "12[]"
    assert key_of("12[3].server") != key_of("12.server")
    assert is_id("12[3].server-1")
    assert not is_id("server")
    assert not is_id("12 is your job")
    assert parse_ids("12.s\n13[].s\n") == ["12.s", "13[].s"]
    with pytest.raises(NotUnderstood):
        parse_ids("12.s\n*** monday ***\n")


def test_complaints_name_their_jobs() -> None:
    told = complaints_of(
        "qstat: Unknown Job Id 12.server\n"
        "qdel: Job has finished 14.server\n"
        "qdel: Server could not connect to MOM 15.server\n"
        + recorded("torque-full", "unknown")["stderr"]
    )
    assert told.unknown == {"12", "6401"}
    assert told.finished == {"14"}
    assert told.others == ("qdel: Server could not connect to MOM 15.server",)
    over = "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 12.s"
    assert is_over(over)
    assert not is_over("qdel: Unauthorized Request 12.s")
    assert has_no_history("qstat: PBS is not configured to maintain job history")


def test_a_refusal_is_no_passing_trouble() -> None:
    assert not is_passing("qsub: Unknown queue")
    assert not is_passing("qsub: Job violates queue and/or server resource limits")


@given(st.text())
def test_no_text_passes_for_the_end_of_a_job_by_accident(text: str) -> None:
    for parse in (parse_json, parse_full, parse_table, parse_table_of_user):
        try:
            found = parse(text)
        except NotUnderstood:
            continue
        for job, fields in found.items():
            assert job[0].isdigit()
            assert fields["job_state"].isascii()
