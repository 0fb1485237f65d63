"""The workers' command in each kind of container."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cep.config.container import CONTAINER_TYPES
from cep.config.load import load_text, read_text
from cep.config.settings import HtexSettings
from cep.config.tables import HTEX_FIELDS
from cep.engines.containers import Container, container_of
from cep.errors import ConfigError

# Word for word from the published guide, "Containerized Environments".
GUIDE_DOCKER = """\
display_name: Docker
engine:
  type: GlobusComputeEngine
  container_type: docker
  container_uri: funcx/kube-endpoint:main-3.10
  container_cmd_options: -v /tmp:/tmp
  provider:
    init_blocks: 1
    max_blocks: 1
    min_blocks: 0
    type: LocalProvider
"""
GUIDE_CUSTOM = """\
display_name: Docker Custom
engine:
  type: GlobusComputeEngine
  container_type: custom
  container_cmd_options: docker run -v {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR} \
funcx/kube-endpoint:main-3.10 {EXECUTOR_LAUNCH_CMD}
  provider:
    init_blocks: 1
    max_blocks: 1
    min_blocks: 0
    type: LocalProvider
"""
RUN_DIR = "/home/me/.globus_compute/docker"


def settings(kind: str | None, **more: Any) -> HtexSettings:
    return HtexSettings(container_type=kind, **more)


def wrapped(text: str, command: str, run_dir: str = RUN_DIR) -> str:
    engine = load_text(text, "guide").engine
    assert isinstance(engine, HtexSettings)
    container = container_of(engine)
    assert container is not None
    return container.wrap(command, run_dir)


def custom(template: str, command: str = "pool -x", run_dir: str = "/run") -> str:
    return Container("custom", "", template).wrap(command, run_dir)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            GUIDE_DOCKER,
            f"docker run -v /tmp:/tmp -v {RUN_DIR}:{RUN_DIR} -t funcx/kube-endpoint:main-3.10 "
            "process_worker_pool.py --block_id=0",
        ),
        (
            GUIDE_CUSTOM,
            f"docker run -v {RUN_DIR}:{RUN_DIR} funcx/kube-endpoint:main-3.10 "
            "process_worker_pool.py --block_id=0",
        ),
    ],
)
def test_the_published_guides_two_examples(text: str, line: str) -> None:
    assert wrapped(text, "process_worker_pool.py --block_id=0") == line


@pytest.mark.parametrize("kind", ["docker", "podman", "podman-hpc"])
def test_docker_and_its_kin_mount_the_run_directory(kind: str) -> None:
    container = container_of(settings(kind, container_uri="img:1", container_cmd_options="-v a:b"))
    assert container is not None
    assert container.wrap("pool -x", "/run dir") == (
        f"{kind} run -v a:b -v '/run dir':'/run dir' -t img:1 pool -x"
    )


@pytest.mark.parametrize("kind", ["apptainer", "singularity"])
def test_apptainer_and_singularity_run_the_image_with_the_run_directory_bound(kind: str) -> None:
    container = container_of(settings(kind, container_uri="/x.sif", container_cmd_options="--nv"))
    assert container is not None
    assert container.wrap("pool -x", "/run dir") == (
        f"{kind} run --nv --bind '/run dir' /x.sif pool -x"
    )


@pytest.mark.parametrize(
    ("kind", "run_dir"), [("docker", "/a:b"), ("podman", "/a:b"), ("apptainer", "/a,b")]
)
def test_a_run_directory_that_cannot_be_mounted_is_refused(kind: str, run_dir: str) -> None:
    with pytest.raises(ConfigError, match="cannot mount") as caught:
        Container(kind, "img", "").check_mount(run_dir, "run_dir")
    assert "Set run_dir" in str(caught.value.hint)
    Container(kind, "img", "").check_mount("/a b'c", "run_dir")
    Container("custom", "", "x").check_mount(run_dir, "run_dir")


def test_worker_sets_are_mounted_read_only() -> None:
    sets = ["/the sets"]
    line = Container("podman", "img", "").wrap("pool", "/run", read_only=sets)
    assert line == "podman run -v '/the sets':'/the sets':ro -v /run:/run -t img pool"
    line = Container("apptainer", "img", "").wrap("pool", "/run", read_only=sets)
    assert line == "apptainer run --bind '/the sets':'/the sets':ro --bind /run img pool"


def test_custom_fills_in_both_fields_and_joins_lines() -> None:
    options = "my run -d {EXECUTOR_RUNDIR} \\\n -- {EXECUTOR_LAUNCH_CMD}\n--end"
    assert custom(options, "pool").split() == ["my", "run", "-d", "/run", "--", "pool", "--end"]


def test_other_braces_pass_untouched() -> None:
    template = "run {} {{x}} {EXECUTOR_RUNDIR }${HOME} {EXECUTOR_LAUNCH_CMD} %s {0}"
    assert custom(template) == "run {} {{x}} {EXECUTOR_RUNDIR }${HOME} pool -x %s {0}"


HOSTILE = "/a b'c\"d$HOME`id`\\e{EXECUTOR_LAUNCH_CMD}"
COMMAND = "printf '%s\\n' 'a b' \"$0\" --end"


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize(
    ("template", "field"),
    [
        ("printf '%s|' {EXECUTOR_RUNDIR} # {EXECUTOR_LAUNCH_CMD}", f"{HOSTILE}|"),
        ("printf '%s|' {EXECUTOR_RUNDIR}:{EXECUTOR_RUNDIR}", f"{HOSTILE}:{HOSTILE}|"),
        ("printf '%s|' \"{EXECUTOR_RUNDIR}:x\"", f"{HOSTILE}:x|"),
        ("printf '%s|' 'y:{EXECUTOR_RUNDIR}:x'", f"y:{HOSTILE}:x|"),
        ("printf '%s|' \\'{EXECUTOR_RUNDIR}", f"'{HOSTILE}|"),
    ],
)
def test_a_strange_run_directory_arrives_as_it_is_whatever_quotes_it_stands_in(
    shell: str, template: str, field: str
) -> None:
    line = custom(template, "true", HOSTILE)
    done = subprocess.run([shell, "-c", line], check=True, capture_output=True, text=True)
    assert done.stdout == field


@pytest.mark.parametrize(
    "template",
    [
        "{EXECUTOR_LAUNCH_CMD}",
        'sh -c "{EXECUTOR_LAUNCH_CMD}"',
        "sh -c 'true; {EXECUTOR_LAUNCH_CMD}'",
    ],
)
def test_the_command_runs_the_same_in_the_quotes_of_an_inner_shell(template: str) -> None:
    plain = subprocess.run(["sh", "-c", COMMAND], check=True, capture_output=True, text=True)
    line = custom(template, COMMAND)
    done = subprocess.run(["sh", "-c", line], check=True, capture_output=True, text=True)
    assert done.stdout == plain.stdout


@pytest.mark.parametrize(
    ("uri", "word"),
    [
        ("docker://python:3.11-slim", "docker://python:3.11-slim"),
        ("~/images/x.sif", "~/images/x.sif"),
        ("~/my images/x.sif", "~/'my images/x.sif'"),
        ("$SCRATCH/x.sif", '"$SCRATCH/x.sif"'),
        ("${SCRATCH}/a b`id`.sif", '"${SCRATCH}/a b\\`id\\`.sif"'),
        ("img; rm -rf /", "'img; rm -rf /'"),
        ("$(id)", "'$(id)'"),
    ],
)
def test_an_image_is_one_word_in_which_only_variables_and_the_home_mean_something(
    uri: str, word: str
) -> None:
    line = Container("apptainer", uri, "").wrap("pool", "/run")
    assert line == f"apptainer run --bind /run {word} pool"


def test_no_type_means_no_container() -> None:
    assert container_of(settings(None)) is None


@pytest.mark.parametrize("word", ["None", "none", "null", "~", ""])
def test_the_word_none_and_nothing_mean_no_container(word: str) -> None:
    text = f"engine: {{type: GlobusComputeEngine, container_type: {word}}}"
    engine = load_text(text, "x").engine
    assert isinstance(engine, HtexSettings)
    assert container_of(engine) is None


@pytest.mark.parametrize(
    ("kind", "more", "part"),
    [
        ("docker", {}, "container_uri"),
        ("apptainer", {"container_cmd_options": "-v a:b"}, "container_uri"),
        ("custom", {}, "{EXECUTOR_LAUNCH_CMD}"),
        ("custom", {"container_cmd_options": "run it"}, "{EXECUTOR_LAUNCH_CMD}"),
        ("rocket", {"container_uri": "x"}, "apptainer"),
    ],
)
def test_what_is_missing_is_named(kind: str, more: dict[str, str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        container_of(settings(kind, **more))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "shared"),
    [
        ("docker", "", False),
        ("docker", "--network host -v a:b", True),
        ("podman", "--net=host", True),
        ("docker", "--network mine", False),
        ("apptainer", "", True),
        ("apptainer", "--net --network none", False),
        ("custom", "x {EXECUTOR_LAUNCH_CMD}", False),
        ("custom", "x 'y {EXECUTOR_LAUNCH_CMD}", False),
    ],
)
def test_whether_loopback_reaches_the_host(kind: str, options: str, shared: bool) -> None:
    assert Container(kind, "img", options).shares_network is shared


@pytest.mark.parametrize("kind", ["docker", "apptainer"])
def test_the_page_shows_the_lines_that_are_run(kind: str) -> None:
    line = Container(kind, "IMAGE", "OPTIONS").wrap("COMMAND", "RUNDIR")
    page = Path(__file__).resolve().parents[2] / "docs" / "containers.md"
    assert f"`{line}`" in page.read_text(encoding="utf-8")


# -- at load -------------------------------------------------------------------------------------


def htex(**keys: str) -> str:
    lines = "".join(f"  {name}: {value!r}\n" for name, value in keys.items())
    return f"engine:\n  type: GlobusComputeEngine\n{lines}"


def test_the_table_of_keys_knows_the_same_types() -> None:
    (kind,) = (key.kind for key in HTEX_FIELDS if key.name == "container_type")
    assert getattr(kind, "options", None) == CONTAINER_TYPES


@pytest.mark.parametrize("engine", ["ThreadPoolEngine", "ProcessPoolEngine"])
@pytest.mark.parametrize("value", ["docker", "None", "null"])
@pytest.mark.parametrize("key", ["container_type", "container_uri", "container_cmd_options"])
def test_each_key_is_refused_by_name_with_another_engine(key: str, value: str, engine: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(f"engine: {{type: {engine}, {key}: {value}}}", "x")
    assert caught.value.exit_code == 78
    assert f"engine.{key}: is not a key of {engine}" in str(caught.value)
    assert "belongs to engine of type GlobusComputeEngine" in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"container_type": "custom", "container_cmd_options": "run {x}"}, "LAUNCH_CMD}"),
        ({"container_type": "custom"}, "is missing; a custom container needs"),
        ({"container_type": "docker"}, "docker needs an image"),
        ({"container_type": "docker", "container_uri": " "}, "docker needs an image"),
        ({"container_type": "docker", "container_uri": "a`id`"}, "is no image"),
        ({"container_type": "apptainer", "container_uri": "/x$(id).sif"}, "is no image"),
        (
            {"container_type": "docker", "container_uri": "i", "container_cmd_options": "-e 'x"},
            "no closing quotation",
        ),
        (
            {"container_type": "podman", "container_uri": "i", "container_cmd_options": "-v a # b"},
            "begins a comment",
        ),
        (
            {"container_type": "docker", "container_uri": "i", "container_cmd_options": "-d"},
            "-d cannot be used",
        ),
    ],
)
def test_what_cannot_work_is_refused_at_load(keys: dict[str, str], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(htex(**keys), "x")
    assert caught.value.exit_code == 78
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        (
            {"container_type": "custom", "container_cmd_options": "run {EXECUTOR_LAUNCH_CMD}"},
            "has no {EXECUTOR_RUNDIR}",
        ),
        ({"container_uri": "img"}, "engine.container_uri has no effect"),
        ({"container_cmd_options": "-x"}, "engine.container_cmd_options has no effect"),
        (
            {
                "container_type": "custom",
                "container_uri": "img",
                "container_cmd_options": "run {EXECUTOR_RUNDIR} {EXECUTOR_LAUNCH_CMD}",
            },
            "engine.container_uri has no effect",
        ),
    ],
)
def test_what_works_and_may_not_be_meant_is_warned_about(keys: dict[str, str], part: str) -> None:
    (warning,) = read_text(htex(**keys), "x").warnings
    assert part in warning


def test_what_is_right_is_not_warned_about() -> None:
    assert read_text(GUIDE_DOCKER, "x").warnings == ()
    assert read_text(GUIDE_CUSTOM, "x").warnings == ()


def test_options_with_variables_stay_as_they_are() -> None:
    options = "-H /home/$USER --env 'A=b # c' -u $(id -u):$(id -g)"
    text = htex(container_type="docker", container_uri="i", container_cmd_options=options)
    line = wrapped(text, "pool", "/run")
    assert line == f"docker run {options} -v /run:/run -t i pool"
    assert shlex.split(line)[:2] == ["docker", "run"]
