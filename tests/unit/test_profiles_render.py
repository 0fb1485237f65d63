"""Profiles: rendered in a sandbox, valid, equal to their golden files; wrong values are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cep.config.load import load_text
from cep.config.settings import HtexSettings
from cep.engines.containers import container_of
from cep.errors import ConfigError, DataError, InputMissing, SoftwareError, UsageError
from cep.profiles import catalog, reference
from cep.profiles.filters import as_block, as_yaml, home_path, quoted
from cep.profiles.render import difference
from cep.profiles.search import BUILT_IN, SearchPath
from cep.profiles.values import Values
from cep.profiles.variables import TYPES, Detected
from tests.unit import profile_goldens
from tests.unit.profile_goldens import SEARCH, full_values, least_values, profile_text
from tests.unit.test_config_load import PUBLISHED_DEFAULT

LOCAL = catalog.find("local")
SLURM = catalog.find("slurm", SEARCH)
PROFILES = [catalog.find(name, SEARCH) for name in catalog.names(SEARCH)]
GOLDENS = dict(profile_goldens.goldens())
DOCS = Path(__file__).resolve().parents[2] / "docs"


def rendered(values: dict[str, Any], **changes: Any) -> str:
    return profile_text(LOCAL, values, **changes)


def refusal(profile: catalog.Profile, given: dict[str, Any], **more: Any) -> str:
    values = Values(profile, **more)
    values.add(given)
    with pytest.raises(UsageError) as caught:
        values.finish()
    return str(caught.value)


def test_the_default_render_of_local_is_the_published_default_file() -> None:
    assert rendered({}) == PUBLISHED_DEFAULT


def test_the_profiles_that_are_promised_exist() -> None:
    promised = (
        "local slurm pbs container torque gridengine lsf htcondor kubernetes threads processes"
    )
    assert set(catalog.names(SEARCH)) == set(promised.split(" "))


@pytest.mark.parametrize("name", GOLDENS)
def test_every_profile_and_preset_renders_its_golden_file(name: str) -> None:
    # Rewritten by: python -m tests.unit.profile_goldens
    assert GOLDENS[name] == (profile_goldens.FOLDER / name).read_text()


def test_there_are_no_golden_files_of_nothing() -> None:
    folder = profile_goldens.FOLDER
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.yaml")} == set(GOLDENS)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_profile_renders_to_a_valid_file(profile: catalog.Profile) -> None:
    assert profile.summary.endswith(".")
    for values in (least_values(profile), full_values(profile)):
        assert load_text(profile_text(profile, values), "x").engine is not None


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_variable_is_described_and_has_an_example_where_it_needs_one(
    profile: catalog.Profile,
) -> None:
    for variable in profile.variables.values():
        assert variable.type in TYPES
        assert variable.description.endswith("."), variable.name
        assert variable.type != "choice" or variable.default in (None, *variable.options)
        assert variable.default is not None or variable.example is not None, variable.name


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_every_variable_reaches_the_file(profile: catalog.Profile) -> None:
    base = full_values(profile)
    whole = profile_text(profile, base)
    changed = {  # where leaving it out would not do
        "container_uri": "another.sif",
        "container_cmd_options": "-v /other:/other",
        "cores_per_block": 7,
        "cores_per_node": 7,
        "launcher": "MpiExecLauncher" if profile.name == "slurm" else "MpiRunLauncher",
        "high_assurance": True,
        "encrypted": True,
        "worker_init": "another",
        "engine": "ThreadPoolEngine",
    }
    for name in base:
        if name in ("container_type", "request_by_nodes") or profile.variables[name].required:
            continue  # others hang on them; their own tests are below
        other = {key: value for key, value in base.items() if key != name}
        if name in changed:
            other[name] = changed[name]
        if name == "launcher":
            other.pop("bind_command")
        if name == "high_assurance" and "encrypted" in base:
            other["encrypted"] = True
        assert profile_text(profile, other) != whole, name


@settings(database=None, deadline=None, max_examples=50)
@given(st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1))
def test_any_text_survives_the_way_through_template_and_yaml(text: str) -> None:
    assert yaml.safe_load(as_yaml(text)) == text
    assert "\n" not in as_yaml(text)
    found = load_text(rendered({"worker_init": text}), "x").engine
    assert found.provider.arguments["worker_init"] == text  # type: ignore[union-attr]


@settings(database=None, deadline=None, max_examples=50)
@given(st.lists(st.text(alphabet="ab #:-|>\t'\"{}$%&*!\\", max_size=8), max_size=6))
def test_any_script_survives_as_a_block(lines: list[str]) -> None:
    text = "\n".join(lines)
    assert yaml.safe_load(f"a:\n  b: {as_block(text, 4)}\n  c: 1\n") == {"a": {"b": text, "c": 1}}


@pytest.mark.parametrize("text", ["a\nb\n", "\n", " a\n  b", "#!/bin/sh\nmodule load 'x'\n", "\t"])
def test_scripts_of_several_lines_survive_too(text: str) -> None:
    found = load_text(rendered({"worker_init": text}), "x").engine
    assert found.provider.arguments["worker_init"] == text  # type: ignore[union-attr]


def test_a_script_of_several_lines_can_be_read_in_the_file() -> None:
    text = rendered({"worker_init": "module load a\nexport B='c'\n"})
    assert "    worker_init: |\n      module load a\n      export B='c'\n" in text


def test_shell_words_are_quoted() -> None:
    assert quoted("a b") == "'a b'"
    assert home_path("~/a-b") == '"$HOME"/a-b'
    assert home_path("/x") == "/x"


def test_values_that_do_not_fit_together_are_refused_before_anything_is_written() -> None:
    with pytest.raises(ConfigError, match="min_blocks"):
        rendered({"min_blocks": 5})


GUIDE_OPTIONS = "docker run -v {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} img {EXECUTOR_LAUNCH_CMD}"
CONTAINERS = [
    (["docker", "img", "-v /tmp:/tmp"], "docker run -v /tmp:/tmp -v /run:/run -t img CMD"),
    (["podman", "img", None], "podman run -v /run:/run -t img CMD"),
    (["podman-hpc", "img", "--gpu"], "podman-hpc run --gpu -v /run:/run -t img CMD"),
    (
        ["apptainer", "/x.sif", "-H /home/$USER"],
        "apptainer run -H /home/$USER --bind /run /x.sif CMD",
    ),
    (["singularity", "/x.sif", None], "singularity run --bind /run /x.sif CMD"),
    (["custom", None, GUIDE_OPTIONS], "docker run -v /run:/run img CMD"),
]


@pytest.mark.parametrize("profile", ["container", "slurm", "pbs", "torque", "lsf", "gridengine"])
@pytest.mark.parametrize(("chosen", "line"), CONTAINERS)
def test_any_container_goes_with_any_scheduler(
    profile: str, chosen: list[str | None], line: str
) -> None:
    names = ("container_type", "container_uri", "container_cmd_options")
    found = catalog.find(profile, SEARCH)
    text = profile_text(found, {**least_values(found), **dict(zip(names, chosen, strict=True))})
    engine = load_text(text, "x").engine
    assert isinstance(engine, HtexSettings)
    container = container_of(engine)
    assert container is not None
    assert container.wrap("CMD", "/run") == line


# -- templates that are wrong ------------------------------------------------------------------


def of_folder(folder: Path, text: str, origin: str = "here") -> catalog.Profile:
    (folder / "local.yaml.j2").write_text(text)
    return catalog.find("local", SearchPath(((origin, folder), *SEARCH.folders)))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("display_name: {{ nobody_knows }}\n", "nobody_knows"),
        ("{{ ().__class__.__base__.__subclasses__() }}", "unsafe"),
        ("display_name: {{ worker_init }}\n", "without a filter"),
        ("{% set x = [] %}{{ x.append(1) }}", "unsafe"),
        ("{% include 'nothing.j2' %}", "nothing.j2"),
        ("{% include '../local.schema.yaml' %}", "local.schema.yaml"),
        ("{% if %}", "Expected an expression"),
        ("{% include 'local.yaml.j2' %}", "recursion"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "range"),
        ("{{ max_blocks + none }}", "unsupported operand"),
        ("{{ max_blocks // 0 }}", "zero"),
        ("{{ display_name.upper() | yaml }}", "upper"),
    ],
)
def test_a_wrong_template_is_an_error_that_names_its_file(
    template: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        profile_text(of_folder(tmp_path, template), {"worker_init": "x"})
    assert said in str(caught.value)
    assert str(tmp_path / "local.yaml.j2") in str(caught.value)


def test_a_shipped_template_that_is_wrong_is_a_fault_of_ours(tmp_path: Path) -> None:
    broken = of_folder(tmp_path, "display_name: {{ nobody_knows }}\n", BUILT_IN)
    with pytest.raises(SoftwareError, match="nobody_knows"):
        profile_text(broken, {})


@pytest.mark.parametrize("text", ["{% if %}", "{{ nobody_knows }}\n", "{{ partition }}\n"])
def test_a_part_of_a_site_that_is_wrong_is_named_and_not_the_shipped_template(
    text: str, tmp_path: Path
) -> None:
    (tmp_path / "_blocks.yaml.j2").write_text(text)
    profile = catalog.find("slurm", SearchPath((("here", tmp_path), *SEARCH.folders)))
    with pytest.raises(ConfigError, match=r"_blocks\.yaml\.j2 is wrong"):
        profile_text(profile, {"partition": "p"})


def test_a_template_that_makes_a_wrong_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="from the profile local"):
        profile_text(of_folder(tmp_path, "engin: x\n"), {})


# -- wrong and missing values ------------------------------------------------------------------


def test_everything_that_is_missing_or_wrong_is_told_at_once() -> None:
    told = refusal(SLURM, {"walltime": "soon", "max_blcks": 3, "max_workers": "many"})
    assert "4 variables are missing or wrong" in told
    assert "partition is missing: Partition to submit to" in told
    assert "Example: debug." in told
    assert "walltime is 'soon', but it must be a time as HH:MM:SS" in told
    assert "max_workers is 'many', but it must be a whole number, 1 or more" in told
    assert "Did you mean max_blocks?" in told
    assert "cep profiles show slurm" in told


def test_what_was_found_on_this_host_is_told_and_not_taken() -> None:
    found = {"partition": Detected("batch", "the default partition that sinfo shows")}
    told = refusal(SLURM, {}, detected=found)
    assert "Found here: batch (the default partition that sinfo shows)." in told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"container_type": "docker"}, "container_uri is missing"),
        ({"container_type": "custom"}, "container_cmd_options is missing"),
        (
            {"container_type": "custom", "container_cmd_options": "docker run x"},
            "with container_type custom it must be the whole command, with {EXECUTOR_LAUNCH_CMD}",
        ),
        ({"interface": "ib0", "address": "host"}, "interface and address exclude each other"),
        ({"container_type": "lxc"}, "one of docker, podman"),
    ],
)
def test_variables_that_hang_on_each_other_are_checked(given: dict[str, Any], said: str) -> None:
    assert said in refusal(SLURM, {"partition": "p", **given})


def test_the_word_none_means_no_container() -> None:
    values = {"partition": "p", "container_type": "None"}
    assert "container" not in profile_text(SLURM, values)


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("max_blocks=4", "max_blocks", 4),
        ("high_assurance=yes", "high_assurance", True),
        ("high_assurance=False", "high_assurance", False),
        ("amqp_port=5671", "amqp_port", 5671),
        ("worker_init=a=b", "worker_init", "a=b"),
        ("display_name=", "display_name", None),
        ("display_name=null", "display_name", None),
        ("modules=a/1,b", "modules", ["a/1", "b"]),
        ("modules=[a/1, b]", "modules", ["a/1", "b"]),
        ("poll_seconds=7.5", "poll_seconds", 7.5),
        ("available_accelerators=4", "available_accelerators", ["4"]),
    ],
)
def test_words_become_values(word: str, name: str, value: Any) -> None:
    values = Values(SLURM)
    values.add_words([word])
    assert (values.given, values.problems) == ({name: value}, {})


@pytest.mark.parametrize(
    "word",
    [
        "max_blocks=-1",
        "max_blocks=٣",
        "amqp_port=80",
        "x=1",
        "=1",
        "modules=a,,b",
        "poll_seconds=1",
    ],
)
def test_wrong_words_are_refused(word: str) -> None:
    values = Values(SLURM)
    values.add_words([word])
    assert len(values.problems) == 1


def test_a_right_value_heals_a_wrong_one_that_was_given_before() -> None:
    values = Values(SLURM)
    values.add({"partition": "p", "walltime": "soon"})
    values.add_words(["walltime=01:00:00"])
    assert values.finish()["walltime"] == "01:00:00"


def test_a_file_gives_values_of_yaml_or_json_and_texts_are_taken_for_all(tmp_path: Path) -> None:
    file = tmp_path / "vars"
    for text in (
        "partition: 007\nmax_blocks: '3'\nexclusive: 'no'\nwalltime: 10:00:00\nmodules: [a]\n",
        json.dumps(
            {
                "partition": "007",
                "max_blocks": 3,
                "exclusive": False,
                "walltime": "10:00:00",
                "modules": ["a"],
                "account": "",
            }
        ),
    ):
        file.write_text(text)
        values = Values(SLURM)
        values.add_file(file)
        found = values.finish()
        assert (found["partition"], found["max_blocks"], found["exclusive"]) == ("007", 3, False)
        assert (found["walltime"], found["modules"], found["account"]) == ("10:00:00", ["a"], None)


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    values = Values(SLURM)
    with pytest.raises(InputMissing, match="nowhere"):
        values.add_file(tmp_path / "nowhere")
    (tmp_path / "list").write_text("[1]")
    with pytest.raises(DataError, match="list"):
        values.add_file(tmp_path / "list")


def test_a_schema_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "local.schema.yaml").write_text(
        "include: [endpoint]\nvariables: {x: {type: wrd, description: A.}}\n"
    )
    with pytest.raises(ConfigError, match="variable x: the type wrd is unknown"):
        catalog.find("local", SearchPath((("here", tmp_path), *SEARCH.folders)))


def test_the_tables_of_the_documentation_are_those_of_the_schemas() -> None:
    # Rewritten by: python -m cep.profiles.reference docs/profiles.md docs/sites.md
    for name, tables in (
        ("profiles.md", reference.profile_tables()),
        ("sites.md", reference.site_tables()),
    ):
        text = (DOCS / name).read_text()
        assert text == reference.updated(text, tables), name


def test_a_difference_is_empty_only_between_equal_texts() -> None:
    assert difference("a\n", "a\n", "x") == ""
    assert "+b\n" in difference("a\n", "b\n", "x")
