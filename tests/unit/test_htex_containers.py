"""The workers' command in each kind of container."""

from __future__ import annotations

from typing import Any

import pytest

from cep.config.settings import HtexSettings
from cep.engines.containers import Container, container_of
from cep.errors import ConfigError


def settings(kind: str | None, **more: Any) -> HtexSettings:
    return HtexSettings(container_type=kind, **more)


@pytest.mark.parametrize("kind", ["docker", "podman", "podman-hpc"])
def test_docker_and_its_kin_mount_the_run_directory(kind: str) -> None:
    container = container_of(settings(kind, container_uri="img:1", container_cmd_options="-v a:b"))
    assert container is not None
    assert container.wrap("pool -x", "/run dir") == (
        f"{kind} run -v a:b -v '/run dir':'/run dir' -t img:1 pool -x"
    )


@pytest.mark.parametrize("kind", ["apptainer", "singularity"])
def test_apptainer_and_singularity_run_the_image(kind: str) -> None:
    container = container_of(settings(kind, container_uri="/x.sif"))
    assert container is not None
    assert container.wrap("pool -x", "/run") == f"{kind} run /x.sif pool -x"


def test_custom_fills_in_both_fields() -> None:
    options = "my run -d {EXECUTOR_RUNDIR} \\\n -- {EXECUTOR_LAUNCH_CMD} --end"
    container = container_of(settings("custom", container_cmd_options=options))
    assert container is not None
    assert container.wrap("pool", "/run").split() == [
        *("my", "run", "-d", "/run", "\\", "--", "pool", "--end")
    ]


def test_no_type_means_no_container() -> None:
    assert container_of(settings(None)) is None


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
        ("custom", "x {EXECUTOR_LAUNCH_CMD}", False),
    ],
)
def test_whether_loopback_reaches_the_host(kind: str, options: str, shared: bool) -> None:
    assert Container(kind, "img", options).shares_network is shared
