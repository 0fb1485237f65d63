"""What `start`, `stop` and `delete` do about the containers of an agent that is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cep.agent.leftover_jobs import cancel_leftover_jobs
from cep.config.settings import HtexSettings
from cep.engines.container_leftovers import warn_of_unknown
from cep.errors import EngineError
from cep.paths import EndpointPaths

CONFIGURATION = """\
engine:
  type: GlobusComputeEngine
  container_type: docker
  container_uri: img
  provider: {type: LocalProvider}
"""


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EndpointPaths:
    """An endpoint with docker, and a stand-in for docker that keeps its words."""
    root = tmp_path / "ep"
    root.mkdir()
    (root / "config.yaml").write_text(CONFIGURATION)
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/words\n[ $1 != ps ] || echo 0123abcd\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return EndpointPaths.of(root)


def test_its_containers_are_removed(endpoint: EndpointPaths, tmp_path: Path) -> None:
    assert cancel_leftover_jobs(endpoint, "ID") == ["0123abcd"]
    assert (tmp_path / "words").read_text().splitlines() == [
        "ps --all --quiet --filter label=cep.endpoint=ID",
        "rm --force --volumes 0123abcd",
    ]


def test_an_endpoint_that_was_never_registered_has_none(
    endpoint: EndpointPaths, tmp_path: Path
) -> None:
    assert cancel_leftover_jobs(endpoint, None) == []
    assert not (tmp_path / "words").exists()


def test_an_engine_that_does_not_answer_leaves_it_open(
    endpoint: EndpointPaths, tmp_path: Path
) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\necho no daemon >&2; exit 1\n")
    with pytest.raises(EngineError, match="no daemon"):
        cancel_leftover_jobs(endpoint, "ID")


def test_a_start_says_what_it_cannot_look_for(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unknown(HtexSettings(container_type="docker", container_uri="img"))
    assert caplog.records == []
    command = "docker run --rm -e TOKEN=secret img {EXECUTOR_LAUNCH_CMD}"
    warn_of_unknown(HtexSettings(container_type="custom", container_cmd_options=command))
    (record,) = caplog.records
    assert record.__dict__["event"] == "recovery.custom-containers"
    assert "engine.container_cmd_options" in record.getMessage()
    assert "secret" not in record.getMessage()
