"""Blocks as Slurm jobs: what is submitted, and which jobs are cancelled; commands are scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cep.config.settings import ComponentSettings, HtexSettings
from cep.engines.providers import provider_of
from cep.engines.scheduler_command import SchedulerSilent
from cep.engines.slurm_blocks import SlurmBlocks
from cep.errors import EngineError
from tests.unit.scheduler_programs import Programs, programs

__all__ = ["programs"]


@pytest.fixture
def slurm(programs: Programs) -> Programs:
    programs.answer("sbatch", "Submitted batch job 12\n")
    programs.answer("squeue")
    programs.answer("scancel")
    return programs


def blocks(run_dir: Path, tag: str = "e1.life2", **arguments: object) -> SlurmBlocks:
    settings = HtexSettings(provider=ComponentSettings("SlurmProvider", arguments))
    made = provider_of(settings, mark={}, run_dir=run_dir, tag=tag)
    assert isinstance(made, SlurmBlocks)
    return made


def script(run_dir: Path) -> list[str]:
    (file,) = (run_dir / "submit_scripts").iterdir()
    return file.read_text().splitlines()


def test_nobody_is_asked_when_the_provider_is_made(slurm: Programs, tmp_path: Path) -> None:
    slurm.answer("sacct")
    blocks(tmp_path)
    assert slurm.calls("sacct") == []


def test_a_job_has_the_endpoints_name_after_whatever_else_is_asked_for(
    slurm: Programs, tmp_path: Path
) -> None:
    options = "#SBATCH --job-name=mine\n#SBATCH --requeue"
    made = blocks(tmp_path, scheduler_options=options, partition="debug", cores_per_node=4)
    assert made.submit("run", 1, "parsl.L.block-3") == "12"
    lines = script(tmp_path)
    assert lines.index("#SBATCH --job-name=cep.e1.life2.3") > lines.index("#SBATCH --job-name=mine")
    assert lines.index("#SBATCH --no-requeue") > lines.index("#SBATCH --requeue")
    assert "#SBATCH --partition=debug" in lines
    assert "#SBATCH --cpus-per-task=4" in lines
    assert len(slurm.calls("sbatch")) == 1


def test_a_refusal_is_told_apart_from_a_passing_trouble(slurm: Programs, tmp_path: Path) -> None:
    made = blocks(tmp_path)
    refusal = "sbatch: error: Batch job submission failed: Invalid account\n"
    slurm.answer("sbatch", code=1, errors=refusal)
    with pytest.raises(EngineError, match=r"sbatch refused it: .*Invalid account") as caught:
        made.submit("run", 1, "parsl.L.block-0")
    assert not isinstance(caught.value, SchedulerSilent)
    slurm.answer("sbatch", code=1, errors="sbatch: error: Unable to contact slurm controller\n")
    with pytest.raises(SchedulerSilent, match="Unable to contact"):
        made.submit("run", 1, "parsl.L.block-0")
    slurm.answer("sbatch", "*** monday ***\n")
    with pytest.raises(SchedulerSilent, match="monday"):
        made.submit("run", 1, "parsl.L.block-0")


def test_a_command_that_hangs_is_given_up(slurm: Programs, tmp_path: Path) -> None:
    made = blocks(tmp_path, cmd_timeout=1)
    slurm.hang("sbatch")
    with pytest.raises(SchedulerSilent, match="sbatch did not answer within 1 s"):
        made.submit("run", 1, "parsl.L.block-0")


def test_jobs_of_earlier_lives_are_cancelled_once_and_others_never(
    slurm: Programs, tmp_path: Path
) -> None:
    made = blocks(tmp_path)
    slurm.answer(
        "squeue",
        "7|RUNNING|None|0:01|c1|cep.e1.life1.0\n8|PENDING|None|0:00||cep.e2.life1.0\n"
        "9|PENDING|None|0:00||mine\n",
    )
    made.end_leftovers()
    assert slurm.calls("scancel") == ["7"]
    slurm.answer(
        "squeue",
        "10|RUNNING|None|0:01|c1|cep.e1.life3.0\n11|PENDING|None|0:00||cep.e1.life2.5\n",
    )
    made.end_leftovers()
    made.words([])
    assert slurm.calls("scancel") == ["7", "11"], "a later life has the endpoint now"


def test_a_block_is_no_stray(slurm: Programs, tmp_path: Path) -> None:
    made = blocks(tmp_path)
    made.submit("run", 1, "parsl.L.block-0")
    slurm.answer("squeue", "12|RUNNING|None|0:01|c1|cep.e1.life2.0\n")
    (word,) = made.words(["12"])
    assert (word.state, word.nodes) == ("RUNNING", "c1")
    assert str(word.stderr_path).endswith(".stderr")
    assert slurm.calls("scancel") == []
    made.cancel(["12"])
    assert slurm.calls("scancel") == ["12"]
