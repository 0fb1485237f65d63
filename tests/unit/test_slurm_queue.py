"""What Slurm's answers mean for jobs, with recorded answers in the place of its commands."""

from __future__ import annotations

import stat
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cep.engines.job_words import GONE, UNKNOWN
from cep.engines.scheduler_command import Said, SchedulerSilent, run
from cep.engines.slurm_queue import SlurmQueue
from tests.unit.test_slurm_words import recorded

NO_JOB = "slurm_load_jobs error: Invalid job id specified\n"


class Commands:
    """Answers of the commands, by their name."""

    def __init__(self) -> None:
        self.answers = {
            "squeue": Said(0, "", ""),
            "scontrol": Said(1, "", NO_JOB),
            "sacct": Said(1, "", "Slurm accounting storage is disabled\n"),
            "scancel": Said(0, "", ""),
        }
        self.asked: list[str] = []

    def run(self, argv: Sequence[str], timeout_s: float | None) -> Said:
        del timeout_s
        self.asked.append(argv[0])
        return self.answers[argv[0]]


@pytest.fixture
def commands() -> Commands:
    return Commands()


def queue_of(commands: Commands) -> SlurmQueue:
    return SlurmQueue(run=commands.run)


def test_living_jobs_cost_one_question_together(commands: Commands) -> None:
    commands.answers["squeue"] = Said(0, recorded("slurm-24.11", "squeue_mixed")["stdout"], "")
    words = queue_of(commands).look(["5", "6", "9"])
    assert [word.state for word in words] == ["PENDING", "PENDING", "RUNNING"]
    assert commands.asked == ["squeue"]


def test_an_ended_job_gets_its_exit_status(commands: Commands) -> None:
    commands.answers["squeue"] = Said(0, recorded("slurm-24.11", "squeue_mixed")["stdout"], "")
    commands.answers["scontrol"] = Said(0, recorded("slurm-24.11", "scontrol_fail")["stdout"], "")
    (word,) = queue_of(commands).look(["1"])
    assert (word.state, word.exit_code) == ("FAILED", 7)
    commands.answers["scontrol"] = Said(0, "*** monday ***", "")
    (word,) = queue_of(commands).look(["1"])
    assert (word.state, word.exit_code) == ("FAILED", None)


def test_a_job_that_nobody_lists_is_gone_only_when_that_is_said_twice(commands: Commands) -> None:
    queue = queue_of(commands)
    assert queue.look(["77"])[0].state == UNKNOWN
    assert queue.look(["77"])[0].state == GONE
    assert commands.asked.count("sacct") == 1, "no accounting, so it is not asked again"


def test_a_job_that_nobody_lists_is_alive_while_scontrol_does_not_answer(
    commands: Commands,
) -> None:
    queue = queue_of(commands)
    for said in (
        Said(1, "", recorded("slurm-24.11", "scontrol_no_controller")["stderr"]),
        Said(0, "*** the cluster will be down on monday ***", ""),
        Said(0, "", ""),
    ):
        commands.answers["scontrol"] = said
        for _ in range(3):
            assert queue.look(["77"])[0].state == UNKNOWN


def test_accounting_tells_what_the_controller_has_forgotten(commands: Commands) -> None:
    said = recorded("slurm-22.05-accounting", "sacct_all")["stdout"]
    commands.answers["sacct"] = Said(0, said, "")
    (word,) = queue_of(commands).look(["10"])
    assert (word.state, word.signal) == ("TIMEOUT", 0)


def test_a_silent_controller_is_an_error(commands: Commands) -> None:
    said = recorded("slurm-24.11", "squeue_no_controller")
    commands.answers["squeue"] = Said(said["code"], said["stdout"], said["stderr"])
    with pytest.raises(SchedulerSilent, match="Unable to contact"):
        queue_of(commands).look(["1"])
    commands.answers["squeue"] = Said(0, "*** monday ***", "")
    with pytest.raises(SchedulerSilent, match="cannot be understood"):
        queue_of(commands).look(["1"])


def test_only_living_jobs_of_the_endpoint_are_found(commands: Commands) -> None:
    commands.answers["squeue"] = Said(
        0,
        "1|RUNNING|None|0:01|c1|cep.one.a.0\n2|PENDING|None|0:00||cep.one.b.0\n"
        "3|COMPLETED|None|0:01|c1|cep.one.a.1\n4|RUNNING|None|0:01|c1|cep.onetwo.a.0\n",
        "",
    )
    queue = queue_of(commands)
    queue.refresh()
    assert sorted(queue.of_endpoint("one")) == ["1", "2"]


def test_a_cancel_that_is_not_done_is_an_error(commands: Commands) -> None:
    queue_of(commands).cancel(["1"])
    commands.answers["scancel"] = Said(1, "", "scancel: error: Kill job error: Access denied")
    with pytest.raises(SchedulerSilent, match="Access denied"):
        queue_of(commands).cancel(["1"])


def lives(pid: int) -> bool:
    """Whether the process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_command_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\nsleep 60 & echo $! > $0.pid; wait\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    noted = tmp_path / "squeue.pid"
    for patience_s in (0.5, 5.0, 50.0):  # a busy machine may need more to start it
        with pytest.raises(
            SchedulerSilent, match=rf"squeue did not answer within {patience_s:g} s"
        ):
            run([str(program)], patience_s)
        if noted.exists() and noted.read_text():
            break
    child = int(noted.read_text())
    # A signal is on its way for a moment; the end of a process that is not ours is not announced.
    deadline, pause = time.monotonic() + 60, threading.Event()
    while lives(child):
        assert time.monotonic() < deadline, f"process {child} lives on"
        pause.wait(0.01)


def test_a_command_that_is_not_there_is_an_error() -> None:
    with pytest.raises(SchedulerSilent, match="cannot be run"):
        run(["no-such-scheduler-command"], 1.0)
