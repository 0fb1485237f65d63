"""What answers of qstat mean for jobs, with recorded answers in the place of the commands."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

import pytest

from cep.engines.job_words import FINISHED, GONE, UNKNOWN
from cep.engines.pbs_queue import Dialect, PbsQueue
from cep.engines.scheduler_command import Said, SchedulerSilent
from tests.unit.test_pbs_words import recorded

WRAPPER = "torque-of-slurm-24.11"
NO_JOBS = '{"timestamp":1,"pbs_version":"2022.1.3","pbs_server":"s"}'
MONDAY = Said(0, "*** the cluster will be down on monday ***\n", "")


def said(folder: str, name: str) -> Said:
    told = recorded(folder, name)
    return Said(told["code"], told["stdout"], told["stderr"])


def job_json(*jobs: str, state: str = "R") -> str:
    each = ",".join(f'"{job}":{{"job_state":"{state}"}}' for job in jobs)
    return f'{{"timestamp":1,"Jobs":{{{each}}}}}'


def job_text(*jobs: str, state: str = "R", name: str = "x") -> str:
    return "".join(
        f"Job Id: {job}\n    Job_Name = {name}\n    job_state = {state}\n\n" for job in jobs
    )


def unknown(*jobs: str) -> str:
    return "".join(f"qstat: Unknown Job Id {job}\n" for job in jobs)


class Commands:
    """Answers by the words of a command without its ids; the last ones are kept."""

    def __init__(self) -> None:
        self.answers: dict[str, Said | Callable[[Sequence[str]], Said]] = {}
        self.asked: list[str] = []

    def run(self, argv: Sequence[str], timeout_s: float | None) -> Said:
        del timeout_s
        ids = [word for word in argv if word[0].isdigit()]
        command = " ".join(word for word in argv if word not in ids)
        self.asked.append(command)
        answer = self.answers[command]
        return answer(ids) if callable(answer) else answer


@pytest.fixture
def commands() -> Commands:
    return Commands()


JSON, TEXT = "qstat -x -f -F json", "qstat -x -f"
FULL, TABLE = "qstat -f", "qstat"


def queue_of(commands: Commands, dialect: Dialect = "pro") -> PbsQueue:
    return PbsQueue(dialect, run=commands.run)


def test_all_jobs_cost_one_question(commands: Commands) -> None:
    commands.answers[JSON] = Said(0, job_json("5.s", "6.s", "9.s"), "")
    words = queue_of(commands).look(["5.s.example.org", "6.s.example.org", "9.s.example.org"])
    assert [word.state for word in words] == ["RUNNING"] * 3
    assert commands.asked == [JSON]


def test_one_unknown_job_does_not_hide_the_others(commands: Commands) -> None:
    commands.answers[JSON] = Said(153, job_json("5.s"), unknown("6.s"))
    queue = queue_of(commands)
    assert [word.state for word in queue.look(["5.s", "6.s"])] == ["RUNNING", UNKNOWN]
    assert [word.state for word in queue.look(["5.s", "6.s"])] == ["RUNNING", GONE]
    assert commands.asked == [JSON, JSON]


def test_a_job_that_comes_back_is_not_gone(commands: Commands) -> None:
    queue = queue_of(commands)
    for answer, state in (
        (Said(153, NO_JOBS, unknown("6.s")), UNKNOWN),
        (Said(0, job_json("6.s"), ""), "RUNNING"),
        (Said(153, NO_JOBS, unknown("6.s")), UNKNOWN),
        (Said(153, NO_JOBS, unknown("6.s")), GONE),
    ):
        commands.answers[JSON] = answer
        assert queue.look(["6.s"])[0].state == state


@pytest.mark.parametrize("name", ["over_aurora", "over_polaris"])
def test_status_35_says_that_the_job_is_over(commands: Commands, name: str) -> None:
    commands.answers[JSON] = said("pbspro-json", name)
    (word,) = queue_of(commands).look([recorded("pbspro-json", name)["argv"][-1]])
    assert (word.state, word.ended) == (FINISHED, True)


def test_a_server_without_history_is_asked_without_it(commands: Commands) -> None:
    commands.answers[JSON] = Said(1, "", "qstat: PBS is not configured to maintain job history\n")
    commands.answers["qstat -f -F json"] = Said(0, job_json("6.s"), "")
    queue = queue_of(commands)
    for _ in range(2):
        assert queue.look(["6.s"])[0].state == "RUNNING"
    assert commands.asked == [JSON, "qstat -f -F json", "qstat -f -F json"]


@pytest.mark.parametrize("name", ["no_server_22.05", "no_server_2025.2"])
def test_an_absent_server_says_nothing_of_any_job(commands: Commands, name: str) -> None:
    commands.answers[JSON] = said("pbspro-json", name)
    queue = queue_of(commands)
    for _ in range(3):
        with pytest.raises(SchedulerSilent, match="cannot connect to server"):
            queue.look(["9999.s"])


def test_json_that_is_none_makes_the_text_be_asked_from_then_on(commands: Commands) -> None:
    invalid = recorded("pbspro-json", "held")["stdout"].replace('"PBS_O_HOST":"pbs"', '"foo":005')
    commands.answers[JSON] = Said(0, invalid, "")
    commands.answers[TEXT] = Said(0, job_text("157.pbs", state="H"), "")
    queue = queue_of(commands)
    for _ in range(2):
        assert queue.look(["157.pbs"])[0].state == "HELD"
    assert commands.asked == [JSON, TEXT, TEXT]


def test_a_job_that_json_leaves_out_is_asked_for_in_text(commands: Commands) -> None:
    """OpenPBS issue 2672: of several ids, JSON tells of the first one only."""
    commands.answers[JSON] = Said(0, job_json("10.s"), "")
    commands.answers[TEXT] = lambda ids: Said(0, job_text(*ids), "")
    queue = queue_of(commands)
    for _ in range(2):
        assert [word.state for word in queue.look(["10.s", "11.s"])] == ["RUNNING"] * 2
    assert commands.asked == [JSON, TEXT, TEXT]


def test_garbage_in_every_form_says_nothing(commands: Commands) -> None:
    commands.answers = {JSON: MONDAY, TEXT: MONDAY}
    queue = queue_of(commands)
    for _ in range(3):
        with pytest.raises(SchedulerSilent, match=r"monday.*cannot be understood"):
            queue.look(["1.s"])


def test_torques_own_errors_are_understood(commands: Commands) -> None:
    commands.answers[FULL] = said("torque-full", "unknown")
    queue = queue_of(commands, "torque")
    job = "6401.gb-ui-kun.els.sara.nl"
    assert [queue.look([job])[0].state for _ in range(2)] == [UNKNOWN, GONE]
    commands.answers[FULL] = said("torque-full", "completed")
    assert queue.look(["3292573.sapelo2"])[0].state == "COMPLETED"


def test_the_wrapper_that_breaks_off_is_asked_for_its_table(commands: Commands) -> None:
    jobs = recorded(WRAPPER, "full_two_running")["argv"][-2:]
    commands.answers[FULL] = said(WRAPPER, "full_two_running")
    commands.answers[TABLE] = said(WRAPPER, "table_two_running")
    queue = queue_of(commands, "torque")
    for _ in range(3):
        assert [word.state for word in queue.look(jobs)] == ["RUNNING"] * 2
    assert commands.asked == [FULL, TABLE, TABLE, TABLE]
    commands.answers[TABLE] = said(WRAPPER, "table_over")
    (word,) = queue.look([jobs[0]])
    assert (word.state, word.ended) == (FINISHED, True), "the table does not tell how"


def test_a_job_that_the_wrapper_has_forgotten_is_gone_the_second_time(commands: Commands) -> None:
    commands.answers[FULL] = said(WRAPPER, "full_unknown")
    commands.answers[TABLE] = said(WRAPPER, "table_unknown")
    queue = queue_of(commands, "torque")
    assert [queue.look(["99"])[0].state for _ in range(2)] == [UNKNOWN, GONE]


def test_one_that_is_forgotten_beside_one_that_breaks_the_wrapper_is_gone_too(
    commands: Commands,
) -> None:
    commands.answers[FULL] = said(WRAPPER, "full_two_running")
    commands.answers[TABLE] = lambda ids: (
        said(WRAPPER, "table_unknown") if "1" not in ids else said(WRAPPER, "table_two_running")
    )
    queue = queue_of(commands, "torque")
    states = [[word.state for word in queue.look(["1", "99"])] for _ in range(2)]
    assert states == [["RUNNING", UNKNOWN], ["RUNNING", GONE]]


def test_the_wrapper_without_its_controller_says_nothing(commands: Commands) -> None:
    answer = said(WRAPPER, "table_no_controller")
    commands.answers = {FULL: answer, TABLE: answer}
    queue = queue_of(commands, "torque")
    for _ in range(3):
        with pytest.raises(SchedulerSilent, match="Problem loading jobs"):
            queue.look(["1"])


def with_qselect(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if there else None)


def user_of(command: str, commands: Commands, answer: Said) -> None:
    import os
    import pwd

    commands.answers[f"{command} -u {pwd.getpwuid(os.getuid()).pw_name}"] = answer


def test_jobs_of_an_endpoint_are_found_by_qselect_and_their_names(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_qselect(monkeypatch, there=True)
    user_of("qselect", commands, Said(0, "1.s\n2.s\n3.s\n", ""))
    names = {"1": "cep.one.a.0", "2": "cep.onetwo.a.0", "3": "mine"}
    commands.answers[JSON] = lambda ids: Said(
        0,
        '{"timestamp":1,"Jobs":{'
        + ",".join(f'"{i}.s":{{"job_state":"Q","Job_Name":"{names[i[0]]}"}}' for i in ids)
        + "}}",
        "",
    )
    queue = queue_of(commands)
    queue.refresh()
    assert list(queue.of_endpoint("one")) == ["1"]
    assert queue.look(["1.s"])[0].name == "cep.one.a.0"
    assert queue.listed is None, "a look is about its jobs only"


def test_without_qselect_the_wrapper_is_asked_job_by_job_for_whole_names(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_qselect(monkeypatch, there=False)
    user_of("qstat", commands, said(WRAPPER, "user"))
    broken = said(WRAPPER, "full_two_running")

    def full(ids: Sequence[str]) -> Said:
        if set(ids) & {"1", "2"}:
            return Said(broken.code, broken.stdout.replace("Id:\t1\n", f"Id:\t{ids[0]}\n"), "died")
        return said(WRAPPER, "full_waiting_and_held")

    commands.answers[FULL] = full
    queue = queue_of(commands, "torque")
    queue.refresh()
    found = queue.of_endpoint("0f0f0f0f-1111-2222-3333-444444444444")
    assert sorted(found) == ["1", "2", "3", "4"]
    assert queue.of_endpoint("0f0f0f0f-1111-2222-3333-444444444445") == {}


def test_a_user_without_jobs_costs_one_question(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_qselect(monkeypatch, there=True)
    user_of("qselect", commands, Said(0, "", ""))
    queue = queue_of(commands)
    queue.refresh()
    assert (queue.listed, len(commands.asked)) == ({}, 1)
    user_of("qselect", commands, Said(1, "", "qselect: cannot connect to server s (errno=15010)"))
    with pytest.raises(SchedulerSilent, match=r"qselect failed: .*cannot connect"):
        queue.refresh()


@pytest.mark.parametrize(
    "answer",
    [
        Said(0, "", ""),
        Said(153, "", "qdel: Unknown Job Id 1.s\n"),
        Said(35, "", "qdel: Job has finished 1.s\n"),
        Said(
            168,
            "",
            "qdel: Request invalid for state of job MSG=invalid state for job - COMPLETE 1.s\n",
        ),
        said(WRAPPER, "qdel_over"),
    ],
)
def test_a_job_that_is_over_needs_no_deletion(commands: Commands, answer: Said) -> None:
    commands.answers["qdel"] = answer
    queue_of(commands).cancel(["1.s"])
    assert commands.asked == ["qdel"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Said(159, "", "qdel: Unauthorized Request 1.s\n"), "Unauthorized"),
        (said(WRAPPER, "qdel_no_controller"), "Unable to contact slurm controller"),
    ],
)
def test_a_deletion_that_is_not_done_is_an_error(
    commands: Commands, answer: Said, words: str
) -> None:
    commands.answers["qdel"] = answer
    with pytest.raises(SchedulerSilent, match=words):
        queue_of(commands).cancel(["1.s"])


def test_many_jobs_are_asked_about_and_deleted_some_at_a_time(commands: Commands) -> None:
    sizes: list[int] = []

    def count(ids: Sequence[str]) -> Said:
        sizes.append(len(ids))
        return Said(0, job_json(*ids), "")

    commands.answers = {JSON: count, "qdel": count}
    jobs = [f"{number}.s" for number in range(250)]
    assert len(queue_of(commands).look(jobs)) == 250
    queue_of(commands).cancel(jobs)
    assert sizes == [100, 100, 50] * 2
