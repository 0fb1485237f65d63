"""`render`: what would be submitted, made by the code that submits; secrets masked.

The schedulers' commands here are stand-ins on PATH; a real Slurm has its own tests.
"""

from __future__ import annotations

import contextlib
import json
import sys
import venv
from pathlib import Path

import psutil
import pytest

from cep.config.load import load
from cep.config.settings import HtexSettings
from cep.engines.interchange_process import InterchangeProcess
from cep.engines.local_blocks import LocalBlocks
from cep.safety.text import redact_script
from tests.unit.cli_rig import Rig, rig

__all__ = ["rig"]


@pytest.fixture(autouse=True)
def nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an interchange nor a block."""

    def started(*_args: object, **_more: object) -> None:
        raise AssertionError("something was started")

    monkeypatch.setattr(InterchangeProcess, "__init__", started)
    monkeypatch.setattr(LocalBlocks, "submit", started)
    # Parsl's own look at the interfaces leaves its sockets open, which the tests' rules refuse.
    monkeypatch.setattr(
        "parsl.executors.high_throughput.executor.get_all_addresses", lambda: {"192.0.2.2"}
    )


def stand_in(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a stand-in for a scheduler's command on PATH; it writes its words into NAME.words."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/bash\necho "$*" >> {folder}/{name}.words\n{script}\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder / f"{name}.words"


def configured(rig: Rig, *words: str) -> Path:
    done = rig.run("configure", "ep", *words)
    assert done.code == 0, done.err
    return rig.base / "ep"


SLURM = ("--profile", "slurm", "--set", "partition=debug")
PBS = ("--profile", "pbs", "--set", "queue=q1", "--set", "account=abc")


def test_the_script_has_the_directives_and_the_workers_command(rig: Rig) -> None:
    root = configured(rig, *SLURM, "--set", "account=abc", "--set", "worker_init=echo mine")
    before = sorted(root.rglob("*"))
    done = rig.run("render", "ep", "--submit-script")
    assert done.code == 0, done.err
    assert "#SBATCH --partition=debug\n" in done.out
    assert "#SBATCH --account=abc\n" in done.out
    assert "#SBATCH --exclusive\n" in done.out
    assert "echo mine" in done.out
    assert "/python/launch.sh' start 0 cep.engines.pool_main " in done.out
    assert f"sbatch {root}/submit_scripts/" in done.out
    assert "cep-render-" not in done.out  # the scratch directory
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize(
    ("profile", "submit", "line"),
    [
        ("pbs", "qsub -N cep.ENDPOINT_ID.LIFE.0 -r n -o ", "#PBS -l select=1:ncpus=1"),
        ("torque", "qsub -N cep.ENDPOINT_ID.LIFE.0 -r n -o ", "#PBS -l nodes=1:ppn=1"),
        ("lsf", "bsub < ", "#BSUB -q q1"),
        ("gridengine", "qsub -terse ", "#$ -l h_rt=00:30:00"),
        ("htcondor", "condor_submit ", "executable              = /bin/bash"),
    ],
)
def test_every_batch_system_s_script_and_command_are_shown(
    profile: str, submit: str, line: str, rig: Rig
) -> None:
    queue = [] if profile in ("gridengine", "htcondor") else ["--set", "queue=q1"]
    configured(rig, "--profile", profile, *queue)
    told = json.loads(rig.run("render", "ep", "--submit-script", "--json").out)
    assert told["command"].startswith(submit)
    assert line in "".join(script["text"] for script in told["scripts"])
    assert "cep.engines.pool_main" in told["worker_command"]


def test_the_scheduler_is_not_asked_for_it(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(rig, *SLURM)
    asked = [
        stand_in(tmp_path / "bin", name, "exit 1", monkeypatch) for name in ("sacct", "sbatch")
    ]
    assert rig.run("render", "ep", "--submit-script").code == 0
    assert not any(words.exists() for words in asked)


def test_the_container_s_line_is_the_one_that_is_used(rig: Rig) -> None:
    docker = ["container_type=docker", "container_uri=img:1", "container_cmd_options=-v /tmp:/tmp"]
    root = configured(rig, "--profile", "container", *(w for d in docker for w in ("--set", d)))
    told = json.loads(rig.run("render", "ep", "--submit-script", "--json").out)
    line = f"docker run -v /tmp:/tmp -v '{root}':'{root}' -t img:1 "  # the directory has a blank
    assert told["container"] == line + "WORKER_COMMAND"
    guard = f"/bin/sh '{root}/container.sh' ENDPOINT_ID 0 img:1 "
    assert told["worker_command"].startswith(guard + line)
    assert told["worker_command"] in told["scripts"][0]["text"]


def test_slurm_and_apptainer_go_together(rig: Rig) -> None:
    images = [
        "container_type=apptainer",
        "container_uri=/images/x.sif",
        "container_cmd_options=--nv",
    ]
    launcher = ["launcher=SrunLauncher", "nodes_per_block=2"]
    words = (word for one in (*images, *launcher) for word in ("--set", one))
    root = configured(rig, *SLURM, *words)
    told = json.loads(rig.run("render", "ep", "--submit-script", "--json").out)
    line = f"apptainer run --nv --bind '{root}' /images/x.sif "
    assert told["container"] == line + "WORKER_COMMAND"
    script = f"/bin/sh '{root}/container.sh' ENDPOINT_ID 0 /images/x.sif "
    launch = (
        f"/bin/sh '{root}/GlobusComputeEngine-HighThroughputExecutor/python/launch.sh' inside 0 "
    )
    assert told["worker_command"].startswith(script + line + launch + "cep.engines.pool_main ")
    (batch,) = told["scripts"]
    assert "#SBATCH --nodes=2\n" in batch["text"]
    assert f"\n{told['worker_command']}\nSLURM_EOF\n" in batch["text"], "srun runs it on each node"


def test_the_port_is_the_configured_one_where_there_is_one(rig: Rig) -> None:
    root = configured(rig, *SLURM, "--set", "worker_ports=50123-50200")
    done = rig.run("render", "ep", "--submit-script")
    assert "--port=50123" in done.out
    assert "chosen at the start" in done.err
    config = root / "config.yaml"
    config.write_text(
        config.read_text().replace("worker_port_range: [50123, 50200]", "worker_port: 50999")
    )
    done = rig.run("render", "ep", "--submit-script")
    assert "--port=50999" in done.out
    assert done.err == ""


def test_it_is_what_the_engine_would_compose(rig: Rig, tmp_path: Path) -> None:
    """The same executor, provider and launcher: only the name's time differs."""
    from cep.engines import htex_assembly, preview
    from cep.engines.providers import provider_of

    root = configured(rig, *SLURM)
    engine = load(root / "config.yaml").engine
    assert isinstance(engine, HtexSettings)
    provider = provider_of(engine, mark={}, run_dir=tmp_path)
    executor = htex_assembly.executor_of(engine, provider, preview._NoInterchange(), root)
    executor.prepare_unstarted(54000)
    launched = provider.launcher(
        executor.launch_command("0"), 1, provider.nodes_per_block, f"{root}/submit_scripts"
    )
    executor.end(0)
    told = json.loads(rig.run("render", "ep", "--submit-script", "--json").out)
    (script,) = told["scripts"]
    assert launched in script["text"]


def test_without_an_option_the_configuration_is_shown(rig: Rig) -> None:
    root = configured(rig, *SLURM)
    done = rig.run("render", "ep")
    assert done.out == (root / "config.yaml").read_text()


SECRETS = (
    "export API_TOKEN=s3cr3t-1\n"
    "export DB_PASSWORD='s3cr3t-2 more'\n"
    "curl -H 'Authorization: Bearer s3cr3t-3abcdef'\n"
    "git clone https://me:s3cr3t-4@host/x\n"
    "tool --api-key s3cr3t-5 --password=s3cr3t-6\n"
)


def test_secrets_are_masked_in_everything_that_is_shown(rig: Rig) -> None:
    options = '-e AWS_SECRET_ACCESS_KEY=s3cr3t-7 -e "MY_TOKEN=s3cr3t-8 x"'
    docker = ["container_type=docker", "container_uri=i", f"container_cmd_options={options}"]
    words = (w for d in (*docker, f"worker_init={SECRETS}") for w in ("--set", d))
    configured(rig, *SLURM, *words)
    for options_of_render in ([], ["--submit-script"], ["--submit-script", "--json"], ["--json"]):
        done = rig.run("render", "ep", *options_of_render)
        assert done.code == 0, done.err
        assert "s3cr3t" not in done.out + done.err
        assert "***" in done.out


@pytest.mark.parametrize(
    "text",
    [
        "#SBATCH --account=abc",
        "authentication_policy: 1f0e9a52-0000-4000-8000-00000000000a",
        "--cert_dir /a/b",
        "export PATH=/a:/b",
        "module load tokenizers",
        "ntasks=4",
    ],
)
def test_what_is_no_secret_is_left_as_it_is(text: str) -> None:
    assert redact_script(text) == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profile", "threads"], "ThreadPoolEngine, which submits nothing"),
        (["--profile", "processes"], "ProcessPoolEngine, which submits nothing"),
    ],
)
def test_an_engine_that_submits_nothing_is_told(words: list[str], said: str, rig: Rig) -> None:
    configured(rig, *words)
    for option in ("--submit-script", "--submit-test"):
        done = rig.run("render", "ep", option)
        assert (done.code, said in done.err) == (64, True), done.err


def test_a_wrong_configuration_is_refused_as_by_start(rig: Rig) -> None:
    rig.endpoint(text="engine: {type: Nothing}\n")
    assert rig.run("render", "ep", "--submit-script").code == 78
    assert rig.run("render", "nothing").code == 66
    assert rig.run("render", "ep", "--submit-script", "--submit-test").code == 64


# -- asking the scheduler ----------------------------------------------------------------------


def test_slurm_is_asked_with_test_only(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = configured(rig, *SLURM)
    answer = (
        'for word; do last=$word; done; grep -q -- "--partition=debug" "$last" || exit 9\n'
        'echo "sbatch: Job 7 to start at 2026-11-25T12:00:00 using 1 processors on nodes n1" >&2'
    )
    words = stand_in(tmp_path / "bin", "sbatch", answer, monkeypatch)
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 0, done.err
    assert "The scheduler would take the job." in done.out
    assert "to start at 2026-11-25T12:00:00" in done.out
    (line,) = words.read_text().splitlines()
    assert line.startswith("--test-only ")
    assert not list(root.glob(".submit-test-*"))
    told = json.loads(rig.run("render", "ep", "--submit-test", "--json").out)
    assert told["accepted"] is True


def test_a_refusal_is_told_in_the_scheduler_s_words(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(rig, *SLURM)
    refused = 'echo "allocation failure: Invalid account" >&2; exit 1'
    stand_in(tmp_path / "bin", "sbatch", refused, monkeypatch)
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 78
    assert "The scheduler refuses the job: allocation failure: Invalid account" in done.err


def test_pbs_takes_a_held_job_that_is_deleted_again(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(rig, *PBS)
    submitted = stand_in(tmp_path / "bin", "qsub", "echo 42.server", monkeypatch)
    deleted = stand_in(tmp_path / "bin", "qdel", "", monkeypatch)
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 0, done.err
    assert "42.server" in done.out
    assert submitted.read_text().startswith("-h -N cep.ENDPOINT_ID.LIFE.0 -r n -o ")
    assert " -q q1 -A abc " in submitted.read_text()
    assert deleted.read_text() == "42.server\n"


def test_a_held_job_that_stays_is_told_with_its_id(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(rig, *PBS)
    stand_in(tmp_path / "bin", "qsub", "echo 42.server", monkeypatch)
    deleted = stand_in(tmp_path / "bin", "qdel", "echo no >&2; exit 35", monkeypatch)
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 70
    assert "Delete it: qdel 42.server" in done.err
    assert len(deleted.read_text().splitlines()) == 3


@pytest.mark.parametrize("child", ["", "sleep 60 & "])
def test_a_scheduler_that_hangs_is_given_up_and_nothing_stays(
    child: str, rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(rig, *SLURM, "--set", "cmd_timeout=1")
    monkeypatch.setenv("CEP_TEST_HANGS", str(tmp_path))
    stand_in(tmp_path / "bin", "sbatch", f"{child}sleep 60", monkeypatch)
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 75
    assert "sbatch did not answer within 1 s" in done.err
    _, alive = psutil.wait_procs(started_here(tmp_path), timeout=30)
    assert alive == []


def test_a_held_job_of_which_nothing_was_heard_is_told(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(rig, *PBS, "--set", "cmd_timeout=1")
    stand_in(tmp_path / "bin", "qsub", "sleep 60", monkeypatch)
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 75
    assert "may have taken the held job all the same" in done.err


def started_here(directory: Path) -> list[psutil.Process]:
    """Processes that carry this directory in their environment, without zombies."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(psutil.Error):
            theirs = process.environ().get("CEP_TEST_HANGS") == str(directory)
            if theirs and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_without_the_scheduler_s_commands_that_is_told(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(rig, *SLURM)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 69
    assert "sbatch cannot be run on this host" in done.err


def test_a_scheduler_that_cannot_be_asked_is_named(rig: Rig) -> None:
    configured(rig, "--profile", "gridengine")
    done = rig.run("render", "ep", "--submit-test")
    assert done.code == 78
    assert "GridEngineProvider cannot be asked" in done.err


# -- which Python ------------------------------------------------------------------------------


def python_told(rig: Rig, *settings: str) -> str:
    """What render says about Python for a local endpoint with these variables of its profile."""
    configured(rig, "--profile", "local", *(word for one in settings for word in ("--set", one)))
    done = rig.run("render", "ep", "--submit-script", "--json")
    assert done.code == 0, done.err
    return str(json.loads(done.out)["python"])


def test_the_rule_about_python_is_shown_with_its_text(rig: Rig) -> None:
    root = configured(rig, *SLURM)
    done = rig.run("render", "ep", "--submit-script")
    told = json.loads(rig.run("render", "ep", "--submit-script", "--json").out)
    assert told["launch_file"].startswith(f"{root}/")
    assert told["launch_file"].endswith("/python/launch.sh")
    assert told["launch_text"].rstrip() in done.out
    assert "wanted=auto" in told["launch_text"]
    (script,) = told["scripts"]
    before, init, after = (
        script["text"].index(part)
        for part in ("cep_began_env=", "export JOBNAME", "launch.sh' choose 0 ")
    )
    assert before < init < after


def test_without_an_activation_the_endpoint_s_own_python_is_foretold(rig: Rig) -> None:
    assert python_told(rig).startswith(f"{sys.executable}, the endpoint's own, unless worker_init")


def test_an_activation_in_the_text_is_foretold_and_asked(rig: Rig, tmp_path: Path) -> None:
    env = tmp_path / "my env"
    venv.create(env, symlinks=True, with_pip=False)
    told = python_told(rig, f"worker_init=module load x\n. '{env}/bin/activate'")
    assert told.startswith(f"{env}/bin/python3, since worker_init activates {env}. On this host ")
    assert "lacks cep-endpoint, dill" in told
    assert "cep-render-" not in told


@pytest.mark.parametrize(
    ("init", "said"),
    [
        ("source /no/where/bin/activate", "/no/where/bin/python3, since worker_init activates"),
        ("conda activate my-env", "That of the conda environment my-env"),
        ("echo 'unbalanced\n. /a/bin/activate", "/a/bin/python3, since"),
        (". /a/bin/activate; micromamba activate 'b'", "That of the conda environment b"),
        ("conda activate b\nsource /a/bin/activate", "/a/bin/python3, since"),
        (". /a/activate", "the endpoint's own"),
    ],
)
def test_the_last_activation_counts(init: str, said: str, rig: Rig) -> None:
    assert said in python_told(rig, f"worker_init={init}")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("worker_python: endpoint", "since worker_python is endpoint"),
        ("worker_python: /no/python3", "/no/python3 on the node, since worker_python names it. It"),
        (f"worker_python: {sys.executable}", "and has the worker"),
        ("container_type: apptainer\n  container_uri: i", "The python3 of the container's image"),
        ("launch_cmd: mine", "which must be where the workers run"),
    ],
)
def test_the_configuration_s_word_is_foretold(lines: str, said: str, rig: Rig) -> None:
    root = configured(rig, "--profile", "local")
    config = root / "config.yaml"
    config.write_text(config.read_text().replace("\n  provider:", f"\n  {lines}\n  provider:", 1))
    told = json.loads(rig.run("render", "ep", "--submit-script", "--json").out)
    assert said in told["python"]


def test_a_path_that_a_launcher_would_spoil_is_refused(rig: Rig, tmp_path: Path) -> None:
    root = configured(rig, *SLURM, "--set", "launcher=SrunLauncher")
    config = root / "config.yaml"
    place = tmp_path / "$HOME"
    config.write_text(f"run_dir: '{place}'\n{config.read_text()}")
    done = rig.run("render", "ep", "--submit-script")
    assert done.code == 78
    assert "SrunLauncher would change '$' in the path" in done.err
