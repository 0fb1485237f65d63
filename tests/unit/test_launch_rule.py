"""Which Python runs tasks: the rule's text in real shells, with real interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from cep.engines.lending import POOL_MODULE, Lending

SHELLS = ("/bin/dash", "/bin/bash")
BLOCK = "7"


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def lending(tmp_path: Path, wanted: str = "auto", name: str = "run", **more: bool) -> Lending:
    made = Lending(tmp_path / name / "engine", wanted, tmp_path / "sets", **more)
    made.write()
    return made


def environment(place: Path) -> Path:
    venv.create(place, symlinks=True, with_pip=False)
    return place


def program(place: Path, text: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    place.chmod(0o755)
    return place


def has_worker(folder: Path) -> Path:
    """A directory for PATH whose python3 is this one, which has the worker."""
    program(folder / "python3", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    return folder


def job(made: Lending, init: str, shell: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a job's script as far as the decision."""
    script = f"{made.before_init()}{init}\n{made.after_init(BLOCK)}echo over\n"
    return subprocess.run(
        [shell, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **variables},
        timeout=250,
    )


def choice(made: Lending, init: str, shell: str, **variables: str) -> tuple[str, str]:
    """The interpreter and the reason."""
    done = job(made, init, shell, **variables)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
    why, _, python = (made.directory / f"block-{BLOCK}" / "choice").read_text().partition("\n")
    return python.removesuffix("\n"), why


def start(
    made: Lending, shell: str, *, verb: str = "start", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a node's command, as far as the pool's own help."""
    return subprocess.run(
        [shell, made.launch_file, verb, BLOCK, POOL_MODULE, "--help"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", **variables},
        timeout=250,
    )


def refusal(
    made: Lending, done: subprocess.CompletedProcess[str], *, everywhere: bool = False
) -> str:
    """The reason of a start that was refused, which is told at both places."""
    assert done.returncode == 78
    told = made.refusal(BLOCK)
    assert told is not None
    assert told.everywhere is everywhere
    assert told.reason.removeprefix("the block's Python cannot run tasks: ") in done.stderr
    return told.reason


# -- the choice --------------------------------------------------------------------------------


def test_without_anything_it_is_the_endpoint_s_own(tmp_path: Path, shell: str) -> None:
    python, why = choice(lending(tmp_path), "export A=1", shell)
    assert python == sys.executable
    assert why == "worker_init put no Python in front, so it is the endpoint's own"


@pytest.mark.parametrize(
    "name", ["env", "my env", "it's", 'say "so"', "$HOME", "`id`", "back\\slash", "two\nlines"]
)
def test_an_activated_environment_is_taken_whatever_its_path(
    tmp_path: Path, shell: str, name: str
) -> None:
    """By what an activation sets; venv's own script cannot do with all of these names."""
    env = environment(tmp_path / name)
    python, why = choice(
        lending(tmp_path, name=f"run {name}"),
        "VIRTUAL_ENV=$WHERE; PATH=$WHERE/bin:$PATH; export VIRTUAL_ENV PATH",
        shell,
        WHERE=str(env),
    )
    assert python == f"{env}/bin/python3"
    assert why == f"worker_init activated {env}".replace("\n", " ")


def test_venv_s_own_activation_is_understood(tmp_path: Path, shell: str) -> None:
    env = environment(tmp_path / "my env")
    made = lending(tmp_path)
    assert choice(made, f". '{env}/bin/activate'", shell)[0] == f"{env}/bin/python3"


def test_an_environment_that_the_job_began_with_is_no_activation(
    tmp_path: Path, shell: str
) -> None:
    env = environment(tmp_path / "env")
    before = {"VIRTUAL_ENV": str(env), "PATH": f"{env}/bin:/usr/bin:/bin"}
    assert choice(lending(tmp_path), "", shell, **before)[0] == sys.executable
    other = environment(tmp_path / "other")
    init = f". {other}/bin/activate"
    assert choice(lending(tmp_path), init, shell, **before)[0] == f"{other}/bin/python3"


def test_what_conda_s_activation_sets_is_understood(tmp_path: Path, shell: str) -> None:
    """An emulation: the variables that `conda activate` exports, over a real environment."""
    base, env = environment(tmp_path / "base"), environment(tmp_path / "envs" / "mine")
    before = {"CONDA_PREFIX": str(base), "PATH": f"{base}/bin:/usr/bin:/bin"}
    init = f"export CONDA_PREFIX={env} CONDA_DEFAULT_ENV=mine PATH={env}/bin:$PATH"
    python, why = choice(lending(tmp_path), init, shell, **before)
    assert (python, why) == (f"{env}/bin/python3", f"worker_init activated {env}")


@pytest.mark.parametrize("last", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_of_two_environments_the_last_activated_is_taken(
    tmp_path: Path, shell: str, last: str
) -> None:
    first = "CONDA_PREFIX" if last == "VIRTUAL_ENV" else "VIRTUAL_ENV"
    one, two = environment(tmp_path / "one"), environment(tmp_path / "two")
    init = f"export {first}={one} PATH={one}/bin:$PATH\nexport {last}={two} PATH={two}/bin:$PATH"
    assert choice(lending(tmp_path), init, shell)[0] == f"{two}/bin/python3"


def test_a_python_on_path_is_taken_when_it_has_the_worker(tmp_path: Path, shell: str) -> None:
    folder = has_worker(tmp_path / "module" / "bin")
    python, why = choice(lending(tmp_path), f"export PATH={folder}:$PATH", shell)
    assert python == f"{folder}/python3"
    assert why == "worker_init put it on PATH, and it has the worker"


def test_a_python_on_path_that_lacks_the_worker_is_passed_over_and_named(
    tmp_path: Path, shell: str
) -> None:
    folder = environment(tmp_path / "plain") / "bin"
    python, why = choice(lending(tmp_path), f"export PATH={folder}:$PATH", shell)
    assert python == sys.executable
    assert f"the python3 that worker_init put on PATH, {folder}/python3, lacks the worker" in why


def test_an_environment_without_python_is_named_and_passed_over(tmp_path: Path, shell: str) -> None:
    env = tmp_path / "only R"
    env.mkdir()
    python, why = choice(lending(tmp_path), f"export CONDA_PREFIX='{env}'", shell)
    assert python == sys.executable
    assert why.startswith(f"worker_init activated {env}, which has no Python; ")


@pytest.mark.parametrize("wanted", ["endpoint", "/opt/some python/bin/python3"])
def test_the_configuration_overrides_the_rule(tmp_path: Path, shell: str, wanted: str) -> None:
    env = environment(tmp_path / "env")
    python, why = choice(lending(tmp_path, wanted), f". {env}/bin/activate", shell)
    assert python == (sys.executable if wanted == "endpoint" else wanted)
    assert "worker_python" in why


def test_a_strict_worker_init_is_not_disturbed(tmp_path: Path, shell: str) -> None:
    assert choice(lending(tmp_path), "set -eu", shell)[0] == sys.executable


def test_a_failing_worker_init_stays_the_job_s_end(tmp_path: Path, shell: str) -> None:
    done = job(lending(tmp_path), "exit 3", shell)
    assert (done.returncode, done.stdout) == (3, "")


def test_a_directory_that_cannot_be_written_ends_the_job_with_the_reason(
    tmp_path: Path, shell: str
) -> None:
    made = lending(tmp_path)
    (made.directory / f"block-{BLOCK}").write_text("in the way")
    done = job(made, "", shell)
    assert (done.returncode, done.stdout) == (78, "")
    assert "must see and write the endpoint's run_dir" in done.stderr


# -- the start ---------------------------------------------------------------------------------


def test_a_directory_that_is_cleared_away_as_it_is_made_is_made_again(
    tmp_path: Path, shell: str
) -> None:
    made = lending(tmp_path)
    once = tmp_path / "once"
    text = f'#!/bin/sh\n/bin/mkdir "$@" && [ -e {once} ] || {{ : >{once}; rmdir "$2"; }}\n'
    program(tmp_path / "bin" / "mkdir", text)
    done = job(made, f"PATH={tmp_path}/bin:$PATH", shell)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert once.exists()
    assert (made.directory / f"block-{BLOCK}" / "choice").exists()


def test_the_start_says_in_one_line_what_runs_and_why(tmp_path: Path, shell: str) -> None:
    made = lending(tmp_path)
    choice(made, "", shell)
    done = start(made, shell)
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[0]
    assert line.startswith(f"cep: tasks of block {BLOCK} run in {sys.executable} (Python 3.")
    assert line.endswith("worker_init put no Python in front, so it is the endpoint's own")
    assert "--block_id" in done.stdout  # the pool's help


def test_an_environment_that_lacks_the_worker_gets_it_lent(tmp_path: Path, shell: str) -> None:
    env = environment(tmp_path / "my env")
    made = lending(tmp_path, name="it's $HOME")
    choice(made, f". '{env}/bin/activate'", shell)
    done = start(made, shell)
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[0]
    assert f"prefix {env}): worker_init activated {env}; it lacks cep-endpoint, dill" in line
    assert f"lent from {made.files}/cep-" in line
    assert "--block_id" in done.stdout


def test_a_module_in_the_job_s_directory_does_not_stand_in_for_the_worker_s(
    tmp_path: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = lending(tmp_path)
    choice(made, "", shell)
    (tmp_path / "zmq.py").write_text("raise SystemExit('hidden')")
    monkeypatch.chdir(tmp_path)
    assert start(made, shell).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "it cannot be seen on host"),
        ("#!/bin/sh\necho broken >&2; exit 4\n", "it cannot be run on host"),
        (
            "#!/bin/sh\necho noise >&2\necho 2.7\n",
            "it is Python 2.7, and workers need one of 3.10 3.11",
        ),
        ("#!/nowhere/interpreter\n", "it cannot be run on host"),
        ("\x7fELF of another machine", "it cannot be run on host"),
    ],
)
def test_an_interpreter_that_cannot_do_is_refused_by_name(
    tmp_path: Path, shell: str, text: str | None, said: str
) -> None:
    python = tmp_path / "bin" / "python3"
    if text is not None:
        program(python, text)
    made = lending(tmp_path, str(python))
    choice(made, "", shell)
    told = refusal(made, start(made, shell), everywhere=text is not None and "2.7" in text)
    assert f"{python} (chosen because worker_python names it): {said}" in told


def test_a_block_without_a_choice_is_refused(tmp_path: Path, shell: str) -> None:
    made = lending(tmp_path)
    assert "choice cannot be read on host" in refusal(made, start(made, shell))


def test_a_new_block_forgets_what_an_older_one_of_its_number_left(tmp_path: Path) -> None:
    made = lending(tmp_path)
    start(made, "/bin/sh")
    assert made.refusal(BLOCK)
    made.forget(BLOCK)
    assert made.refusal(BLOCK) is None


# -- in a container ----------------------------------------------------------------------------


def test_inside_a_container_the_image_s_python_is_asked(tmp_path: Path, shell: str) -> None:
    folder = has_worker(tmp_path / "image")
    made = lending(tmp_path, inside=True)
    assert made.before_init() == made.after_init(BLOCK) == ""
    variables = {"PATH": f"{folder}:/usr/bin:/bin", "VIRTUAL_ENV": "/the/host's"}
    done = start(made, shell, verb="inside", **variables)
    assert done.returncode == 0, done.stderr
    assert f"run in {folder}/python3" in done.stdout
    assert "it is the python3 of the container's image" in done.stdout


def test_an_image_without_python_is_refused(tmp_path: Path, shell: str) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("uname", "mkdir", "mv", "sh"):
        (folder / name).symlink_to(f"/bin/{name}")
    made = lending(tmp_path, inside=True)
    done = start(made, shell, verb="inside", PATH=str(folder))
    assert "the container's image has no python3 on its PATH" in refusal(
        made, done, everywhere=True
    )


def test_the_words_of_the_command_need_no_shell_to_expand_them(tmp_path: Path) -> None:
    made = Lending(tmp_path / "a b" / "engine", "auto", tmp_path)
    words = made.command("3")
    assert words == f"/bin/sh '{tmp_path}/a b/engine/python/launch.sh' start 3 {POOL_MODULE}"
    assert not set(words) & set("$`\\")


def test_the_files_are_for_this_account_alone(tmp_path: Path) -> None:
    made = lending(tmp_path)
    assert {file.stat().st_mode & 0o777 for file in made.files.iterdir()} == {0o600}
    assert made.files.stat().st_mode & 0o777 == 0o700
    assert not [file for file in made.files.iterdir() if file.name.startswith(".")]
    assert os.access(made.launch_file, os.R_OK)
