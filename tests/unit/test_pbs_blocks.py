"""Blocks as jobs of PBS and Torque: what is submitted and which jobs are deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.pbs_blocks import PbsBlocks, PbsProBlocks, TorqueBlocks
from cep.engines.providers import provider_of
from cep.engines.scheduler_command import SchedulerSilent
from cep.errors import EngineError
from tests.unit.scheduler_programs import Programs, programs
from tests.unit.test_pbs_queue import job_json
from tests.unit.test_pbs_words import recorded

__all__ = ["programs"]

KINDS = {"PBSProProvider": PbsProBlocks, "TorqueProvider": TorqueBlocks}
both = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def pbs(programs: Programs) -> Programs:
    programs.answer("qsub", "12.server.example.org\n")
    for program in ("qstat", "qselect", "qdel"):
        programs.answer(program)
    return programs


def blocks(
    run_dir: Path, kind: str = "PBSProProvider", tag: str = "e1.life2", **arguments: object
) -> PbsBlocks:
    launcher = ComponentSettings("SingleNodeLauncher", {})
    settings = HtexSettings(provider=ComponentSettings(kind, {"launcher": launcher, **arguments}))
    made = provider_of(settings, mark={}, run_dir=run_dir, tag=tag)
    assert isinstance(made, KINDS[kind])
    return made


def listed(job: str, name: str, state: str = "R") -> str:
    return job_json(job, state=state).replace("}}}", f',"Job_Name":"{name}"}}}}}}')


@both
def test_a_job_has_the_endpoints_name_and_is_not_run_again(
    pbs: Programs, tmp_path: Path, kind: str
) -> None:
    options = "#PBS -N mine\n#PBS -r y"
    made = blocks(tmp_path, kind, scheduler_options=options, queue="q1", account="abc")
    assert made.submit("run", 1, "parsl.L.block-3") == "12.server.example.org"
    (call,) = pbs.calls("qsub")
    script = Path(call.split()[-1])
    output = f"-o {script}.stdout -e {script}.stderr"
    assert call == f"-N cep.e1.life2.3 -r n {output} -q q1 -A abc {script}"
    assert script.parent == tmp_path / "submit_scripts"
    assert "#PBS -l walltime=00:20:00" in script.read_text()
    kept = made.resources["12.server.example.org"]["job_stderr_path"]
    assert f"#PBS -e {kept}" in script.read_text().splitlines()


@both
def test_a_refusal_is_told_apart_from_a_passing_trouble(
    pbs: Programs, tmp_path: Path, kind: str
) -> None:
    made = blocks(tmp_path, kind)
    pbs.answer("qsub", code=170, errors="qsub: Unknown queue\n")
    with pytest.raises(EngineError, match="qsub refused it: qsub: Unknown queue") as caught:
        made.submit("run", 1, "parsl.L.block-0")
    assert not isinstance(caught.value, SchedulerSilent)
    pbs.answer("qsub", code=255, errors="qsub: cannot connect to server s (errno=15010)\n")
    with pytest.raises(SchedulerSilent, match="cannot connect"):
        made.submit("run", 1, "parsl.L.block-0")
    pbs.answer("qsub", "*** monday ***\n")
    with pytest.raises(SchedulerSilent, match="monday"):
        made.submit("run", 1, "parsl.L.block-0")
    assert made.resources == {}, "no line of an answer passes for a job"


def test_the_wrappers_refusal_is_told_and_its_controllers_absence_passes(
    pbs: Programs, tmp_path: Path
) -> None:
    made = blocks(tmp_path, "TorqueProvider")
    for name, error in (("qsub_refused", EngineError), ("qsub_no_controller", SchedulerSilent)):
        said = recorded("torque-of-slurm-24.11", name)
        pbs.answer("qsub", said["stdout"], code=said["code"], errors=said["stderr"])
        with pytest.raises(error, match="Batch job submission failed") as caught:
            made.submit("run", 1, "parsl.L.block-0")
        assert type(caught.value) is error


def test_a_message_before_the_id_does_no_harm(pbs: Programs, tmp_path: Path) -> None:
    pbs.answer("qsub", "Welcome to the cluster\n\n12.server\n")
    made = blocks(tmp_path)
    assert made.submit("run", 1, "parsl.L.block-0") == "12.server"
    assert list(made.resources) == ["12.server"]


@both
def test_a_command_that_hangs_is_given_up_and_its_job_looked_for(
    pbs: Programs, tmp_path: Path, kind: str
) -> None:
    made = blocks(tmp_path, kind, cmd_timeout=60)
    made.end_leftovers()
    pbs.hang("qsub")
    made.cmd_timeout = 1
    with pytest.raises(SchedulerSilent, match="qsub did not answer within 1 s"):
        made.submit("run", 1, "parsl.L.block-0")
    made.cmd_timeout = 60
    pbs.answer("qselect", "13.server\n")
    full = "Job Id: 13.server\n    Job_Name = cep.e1.life2.0\n    job_state = Q\n"
    pro = listed("13.server", "cep.e1.life2.0", "Q")
    pbs.answer("qstat", pro if kind == "PBSProProvider" else full)
    made.words([])
    assert pbs.calls("qdel") == ["13"]


def test_blocks_are_known_where_other_jobs_cannot_be_looked_for(
    pbs: Programs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = blocks(tmp_path)
    job = made.submit("run", 1, "parsl.L.block-0")
    pbs.answer("qsub", "*** monday ***")
    with pytest.raises(SchedulerSilent):
        made.submit("run", 1, "parsl.L.block-1")
    pbs.answer("qselect", code=1, errors="qselect: Unauthorized Request\n")
    pbs.answer("qstat", listed(job, "cep.e1.life2.0"))
    assert made.words([job])[0].state == "RUNNING"
    assert "cannot be looked for: qselect failed: qselect: Unauthorized" in caplog.text
    with pytest.raises(SchedulerSilent, match="Unauthorized"):
        made.end_leftovers()


@both
def test_nobody_is_asked_for_all_jobs_without_need(
    pbs: Programs, tmp_path: Path, kind: str
) -> None:
    made = blocks(tmp_path, kind)
    made.end_leftovers()
    made.submit("run", 1, "parsl.L.block-0")
    asked = len(pbs.calls("qselect"))
    made.words(["12.server.example.org"])
    assert len(pbs.calls("qselect")) == asked == 1


def test_jobs_of_earlier_lives_are_deleted_once_and_others_never(
    pbs: Programs, tmp_path: Path
) -> None:
    made = blocks(tmp_path)
    pbs.answer("qselect", "7.server\n8.server\n9.server\n")
    jobs = {"7": "cep.e1.life1.0", "8": "cep.e2.life1.0", "9": "mine"}
    each = ",".join(
        f'"{job}.server":{{"job_state":"Q","Job_Name":"{name}"}}' for job, name in jobs.items()
    )
    pbs.answer("qstat", f'{{"timestamp":1,"Jobs":{{{each}}}}}')
    made.end_leftovers()
    assert pbs.calls("qdel") == ["7"]
    pbs.answer("qselect", "10.server\n")
    pbs.answer("qstat", listed("10.server", "cep.e1.life3.0"))
    made.end_leftovers()
    made.words([])
    assert pbs.calls("qdel") == ["7"], "a later life has the endpoint now"


def test_a_block_is_no_stray_whatever_its_server_is_called(pbs: Programs, tmp_path: Path) -> None:
    made = blocks(tmp_path)
    assert made.submit("run", 1, "parsl.L.block-0") == "12.server.example.org"
    pbs.answer("qselect", "12.server\n")
    pbs.answer("qstat", listed("12.server", "cep.e1.life2.0"))
    (word,) = made.words(["12.server.example.org"])
    assert word.state == "RUNNING"
    assert pbs.calls("qdel") == []
    made.cancel(["12.server.example.org"])
    assert pbs.calls("qdel") == ["12.server.example.org"]


def test_the_end_of_a_job_has_its_error_output(pbs: Programs, tmp_path: Path) -> None:
    made = blocks(tmp_path)
    job = made.submit("run", 1, "parsl.L.block-0")
    errors = Path(made.resources[job]["job_stderr_path"])
    errors.write_text("=>> PBS: job killed: walltime 86 exceeded limit 60\n")
    pbs.answer("qstat", '{"timestamp":1,"Jobs":{"12.s":{"job_state":"F","Exit_status":143}}}')
    (word,) = made.words([job])
    assert (word.state, word.reason) == ("TIMEOUT", "walltime 86 exceeded limit 60")
    assert word.stderr_path == str(errors)
