"""No value of a variable breaks out of its place: YAML, a directive of a job, a shell line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cep.config.load import load_text
from cep.config.settings import HtexSettings
from cep.errors import UsageError
from cep.profiles import catalog
from cep.profiles.catalog import Profile
from cep.profiles.values import Values
from cep.profiles.variables import WrongVariable
from tests.unit.profile_goldens import SEARCH, full_values, least_values, profile_text

PROFILES = [catalog.find(name, SEARCH) for name in catalog.names(SEARCH)]
SLURM = catalog.find("slurm", SEARCH)
# What a shell, a directive, YAML or jinja would act on.
HOSTILE = [
    "a\n#SBATCH --uid=0",
    "a\nrm -rf ~",
    "a; touch /tmp/x",
    "a && true",
    "a | b",
    "$(id)",
    "`id`",
    "${HOME}",
    "$HOME",
    "a b",
    "a\tb",
    "'",
    '"',
    'a" --uid=0 "',
    "a\\",
    "> /etc/x",
    "-x",
    "--uid=0",
    "a\0b",
    "a\x1b[31m",
    "a\r",
    "a\x85b",
    "a\u2028b",
    "a\n",
    "\na",
    "é",
    "a #b",
    "{{ 7*7 }}",
    "{% raw %}",
    "!!python/object:os.system",
    "&anchor",
    "*alias",
    "*",
    "?",
    "~",
    "!x",
    "<SET account>",
]
WORDS = [
    (profile, name)
    for profile in PROFILES
    for name, variable in profile.variables.items()
    if variable.type in ("word", "path", "uuid", "walltime") and name != "constraint"
]


def given_to(profile: Profile, name: str, value: Any) -> str | None:
    """The file when the value is taken, None when it is refused."""
    values = Values(profile)
    values.add({**least_values(profile), name: value})
    try:
        values.finish()
    except UsageError:
        return None
    return profile_text(profile, {**least_values(profile), name: value})


def is_taken(profile: Profile, name: str, value: Any) -> bool:
    try:
        return profile.variables[name].read(value) is not None
    except WrongVariable:
        return False


@pytest.mark.parametrize("value", HOSTILE)
def test_a_word_takes_nothing_that_a_shell_or_a_directive_would_act_on(value: str) -> None:
    for profile, name in WORDS:
        if value == "~" and (name == "container_uri" or profile.variables[name].type == "path"):
            continue  # the home directory, which is a path
        if value in ("-x", "--uid=0") and name == "bind_command":
            continue  # an option by intent, and one word at most
        assert not is_taken(profile, name, value), (profile.name, name)


@pytest.mark.parametrize("value", HOSTILE)
def test_items_of_a_list_are_no_wider(value: str) -> None:
    for profile in PROFILES:
        for name, variable in profile.variables.items():
            if variable.type == "list" and not (value == "~" and variable.item == "path"):
                assert not is_taken(profile, name, ["ok", value]), (profile.name, name)


@pytest.mark.parametrize("value", ["a&b", "[rack1|rack2]", "a*2", "(a|b)&c"])
def test_a_constraint_of_slurm_may_combine_features(value: str) -> None:
    assert given_to(SLURM, "constraint", value) is not None


@pytest.mark.parametrize("value", [*HOSTILE[:3], "$(id)", "`id`", "a b", "'", '"', "a;b", "a\n"])
def test_a_constraint_of_slurm_breaks_out_of_no_directive(value: str) -> None:
    assert given_to(SLURM, "constraint", value) is None


@pytest.mark.parametrize("value", [*HOSTILE, "null", "yes", " a", "007", "1e3", "- a", "a: b"])
def test_a_text_is_refused_or_comes_back_as_it_was(value: str) -> None:
    for profile in (SLURM, catalog.find("local", SEARCH)):
        text = given_to(profile, "display_name", value)
        control = any(ord(char) < 32 and char != "\t" for char in value)
        assert (text is None) == (control or "\x85" in value or "\u2028" in value), profile.name
        if text is not None:
            found = load_text(text, "x", unset_allowed=True)
            assert found.display_name == value
            plain = profile_text(profile, least_values(profile))
            assert found.engine == load_text(plain, "x").engine


@pytest.mark.parametrize(
    "line",
    ["echo hello", "#SBATCH --a\necho x", "\n#SBATCH --a", "#SBATCH --a\n\nrm x", "# SBATCH --a"],
)
def test_lines_for_the_head_of_a_script_are_nothing_else(line: str) -> None:
    assert given_to(SLURM, "scheduler_options", line) is None


def test_several_lines_for_the_head_of_a_script_are_taken() -> None:
    text = given_to(SLURM, "scheduler_options", "#SBATCH --a=1\n#SBATCH --b=2\n")
    assert text is not None


@pytest.mark.parametrize(
    "line",
    ["queue 5", "Queue", "a", "+x = 1\nqueue", "$(x)", "include command : x=1", "if x = 1", "@=a"],
)
def test_a_submit_description_of_htcondor_gets_attributes_and_no_commands(line: str) -> None:
    condor = catalog.find("htcondor", SEARCH)
    assert given_to(condor, "scheduler_options", line) is None


BAD_OPTIONS = [
    "-v a:b; id",
    "a | b",
    "a & b",
    "a > b",
    "$(id)",
    "`id`",
    '"$(id)"',
    '"`id`"',
    "a\nb",
    "'open",
    '"open',
    "a # b",
    "a\\",
    "${x:-$(id)}",
    "(a)",
    "$((1))",
]


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_options_of_a_command_stay_options_of_that_command(options: str) -> None:
    docker = {"container_type": "docker", "container_uri": "x"}
    for more in ({**docker, "container_cmd_options": options}, {"launcher_options": options}):
        values = Values(SLURM)
        values.add({"partition": "p", **more})
        with pytest.raises(UsageError):
            values.finish()


@pytest.mark.parametrize(
    "options",
    [
        "-v /a:/b --network=host",
        "-H /home/$USER",
        "--env 'A=b c'",
        '-e "X=${HOME}/y"',
        "--gpus=all",
    ],
)
def test_options_that_people_need_are_taken(options: str) -> None:
    docker = {"container_type": "docker", "container_uri": "x", "container_cmd_options": options}
    engine = load_text(profile_text(SLURM, {"partition": "p", **docker}), "x").engine
    assert isinstance(engine, HtexSettings)
    assert engine.container_cmd_options == options


def test_a_custom_container_s_command_is_a_command_by_intent() -> None:
    command = "module load x && docker run {EXECUTOR_LAUNCH_CMD}"
    custom = {"container_type": "custom", "container_cmd_options": command}
    engine = load_text(profile_text(SLURM, {"partition": "p", **custom}), "x").engine
    assert isinstance(engine, HtexSettings)
    assert engine.container_cmd_options == command


@pytest.mark.parametrize("value", ["a\0b", "a\rb", "\x1b[31m", "a\x7f", "a\u2028b", "\ud800"])
def test_control_characters_are_refused_even_in_a_script(value: str) -> None:
    values = Values(SLURM)
    values.add({"partition": "p", "worker_init": value})
    with pytest.raises(UsageError, match=r"without the character U\+"):
        values.finish()


@settings(database=None, deadline=None, max_examples=100)
@given(st.text(max_size=20))
def test_whatever_is_taken_as_a_partition_is_one_plain_word(value: str) -> None:
    text = given_to(SLURM, "partition", value)
    if text is not None:
        engine = load_text(text, "x").engine
        assert isinstance(engine, HtexSettings)
        assert engine.provider.arguments["partition"] == value
        assert value.isascii()
        assert not set(value) & set(" \t\n'\"`$\\;|&<>(){}*?!#~[]")
        assert not value.startswith("-")


@pytest.mark.parametrize("wrong", [["a"], {"a": 1}, True, 1.5])
def test_a_value_of_another_type_is_refused_and_no_text_is_made_of_it(wrong: Any) -> None:
    for name in ("partition", "worker_init", "max_blocks", "walltime"):
        if (name, wrong) == ("partition", 1.5):
            continue  # a number is text as it is written
        if (name, wrong) == ("worker_init", 1.5):
            continue
        assert given_to(SLURM, name, wrong) is None, name


# -- the lines for modules, run by a real shell ------------------------------------------------


def run_init(tmp_path: Path, values: dict[str, Any], **environment: str) -> tuple[int, str]:
    """Run a rendered worker_init as a job that came from a bare environment would."""
    engine = load_text(profile_text(SLURM, {"partition": "p", **values}), "x").engine
    assert isinstance(engine, HtexSettings)
    script = str(engine.provider.arguments["worker_init"]) + "\necho done\n"
    done = subprocess.run(
        ["/bin/bash", "--noprofile", "--norc"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), **environment},
    )
    return done.returncode, done.stdout + done.stderr


STAND_IN = 'module() { echo "module $*"; [ "$2" != broken ]; }\n'  # for a site's init file


@pytest.mark.parametrize("variable", ["LMOD_PKG", "MODULESHOME", "module_init", "~"])
def test_modules_are_loaded_where_nothing_has_defined_module(variable: str, tmp_path: Path) -> None:
    (tmp_path / "init").mkdir()
    (tmp_path / "init" / "bash").write_text(STAND_IN)
    values: dict[str, Any] = {"modules": ["gcc/13", "py"], "module_paths": ["~/mods", "/soft"]}
    environment = {}
    if variable == "module_init":
        values["module_init"] = f"{tmp_path}/init/bash"
    elif variable == "~":
        values["module_init"] = "~/init/bash"
    else:
        environment[variable] = str(tmp_path)
    code, said = run_init(tmp_path, {**values, "worker_init": "echo mine\n"}, **environment)
    assert code == 0, said
    assert said.splitlines() == [
        f"module use {tmp_path}/mods",
        "module use /soft",
        "module load gcc/13",
        "module load py",
        "mine",
        "done",
    ]


def test_a_module_that_cannot_be_loaded_ends_the_block_and_says_which(tmp_path: Path) -> None:
    (tmp_path / "bash").write_text(STAND_IN)
    values = {"modules": ["broken", "py"], "module_init": f"{tmp_path}/bash"}
    code, said = run_init(tmp_path, values)
    assert code == 1
    assert "module load failed: broken" in said
    assert "done" not in said


def test_without_a_module_command_the_block_ends_and_says_what_to_set(tmp_path: Path) -> None:
    values = {"modules": ["py"], "module_init": "/nowhere/init"}
    code, said = run_init(tmp_path, values)
    assert code == 1
    assert "set module_init" in said


def test_the_full_files_hold_a_script_that_bash_can_read() -> None:
    engine = load_text(profile_text(SLURM, full_values(SLURM)), "x").engine
    assert isinstance(engine, HtexSettings)
    script = str(engine.provider.arguments["worker_init"])
    done = subprocess.run(["/bin/bash", "-n"], input=script, text=True, check=False, timeout=100)
    assert done.returncode == 0
