"""Credentials leave the environment: os.environ, /proc/PID/environ, and every child's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cep.agent import credentials, launch
from cep.agent.options import StartOptions
from cep.errors import ConfigError, NotAllowed

SECRETS = {
    "GLOBUS_COMPUTE_CLIENT_ID": "the-id",
    "GLOBUS_COMPUTE_CLIENT_SECRET": "hunter2",
    "FUNCX_SDK_CLIENT_SECRET": "hunter2",
    "GLOBUS_SDK_ACCESS_TOKEN": "hunter2",
    "CEP_HUB_SECRET": "hunter2",
    "CREDENTIALS_DIRECTORY": "/run/credentials/hunter2",
    "NOTIFY_SOCKET": "/run/hunter2",
    "WATCHDOG_USEC": "1",
}
PLAIN = {
    "CEP_ENDPOINT_DIR": "/x",
    "GLOBUS_SDK_ENVIRONMENT": "local",
    "AWS_SECRET_ACCESS_KEY": "the user's own",
    "PATH": os.environ["PATH"],
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_credential_is_known_by_its_name(name: str) -> None:
    assert credentials.is_credential(name)


def test_what_must_not_be_written_are_the_secrets_and_not_paths_or_ids() -> None:
    assert set(credentials.secrets_in(SECRETS)) == {"hunter2"}


@pytest.mark.parametrize("name", PLAIN)
def test_what_tasks_need_is_left_to_them(name: str) -> None:
    assert not credentials.is_credential(name)


PROGRAM = """
import json, os, subprocess
from pathlib import Path
from cep.agent import credentials
before = Path("/proc/self/environ").read_text()
taken = credentials.take()
child = subprocess.run(["cat", "/proc/self/environ"], capture_output=True, text=True).stdout
print(json.dumps({
    "before": before, "taken": taken, "here": dict(os.environ), "child": child,
    "shown": Path("/proc/self/environ").read_text(), "bytes": os.environb.get(b"PATH", b"").decode()
}))
"""


def test_taken_credentials_are_nowhere_to_be_seen() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**PLAIN, **SECRETS},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout)
    assert "hunter2" in said["before"]  # the test sees what others would
    assert said["taken"] == SECRETS
    for place in ("here", "child", "shown"):
        assert "hunter2" not in str(said[place]), place
        assert "AWS_SECRET_ACCESS_KEY" in str(said[place]), place
    assert said["bytes"] == PLAIN["PATH"]


def test_the_detached_agent_is_started_without_credentials_in_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the place of Python looks at how it was started, and tells it to a file."""
    seen = tmp_path / "seen"
    program = tmp_path / "python"
    program.write_text(
        f'#!/bin/sh\ncat /proc/$$/environ > {seen}; cat >> {seen}; echo "$@" >> {seen}\n'
        'for last; do :; done; eval "pipe=\\${$(($# - 1))}"\n'
        'echo \'{"error": "no", "hint": null, "kind": "ConfigError"}\' > /dev/fd/$pipe\n'
    )
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError):
        launch.start(tmp_path, "one", StartOptions())
    environ, _, rest = seen.read_text().rpartition("\0")
    handed, _, argv = rest.partition("}")
    assert "hunter2" not in environ
    assert json.loads(handed + "}") == SECRETS
    assert "hunter2" not in argv


def test_credentials_of_the_service_manager_stand_for_the_variables(tmp_path: Path) -> None:
    (tmp_path / "client-id").write_text("the-id\n")
    (tmp_path / "client-secret").write_text("the-secret\n")
    assert credentials.from_directory({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == {
        "GLOBUS_COMPUTE_CLIENT_ID": "the-id",
        "GLOBUS_COMPUTE_CLIENT_SECRET": "the-secret",
    }


def test_without_credentials_of_the_service_manager_there_are_none(tmp_path: Path) -> None:
    assert credentials.from_directory({}) == {}
    assert credentials.from_directory({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == {}


def test_a_credential_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "client-secret").mkdir()
    with pytest.raises(NotAllowed, match="client-secret"):
        credentials.from_directory({"CREDENTIALS_DIRECTORY": str(tmp_path)})
