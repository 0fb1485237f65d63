"""`cep start` and its child: nothing begins before the command has said so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cep.agent import launch
from cep.agent.options import StartOptions
from cep.errors import ConfigError, TemporaryFailure


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that `launch` starts."""
    started: list[subprocess.Popen[bytes]] = []

    class Noted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            started.append(self)

    monkeypatch.setattr(launch.subprocess, "Popen", Noted)
    return started


def test_a_child_ends_without_having_begun_when_something_is_not_in_order(
    tmp_path: Path, children: list[subprocess.Popen[bytes]]
) -> None:
    (tmp_path / "one").mkdir()

    def refuse() -> None:
        assert children[0].poll() is None  # it loads meanwhile, and waits
        raise ConfigError("The configuration is wrong.")

    with pytest.raises(ConfigError, match="is wrong"):
        launch.start(tmp_path, "one", StartOptions(), before=refuse)
    assert children[0].returncode == -9
    assert list((tmp_path / "one").iterdir()) == []


def test_a_child_whose_command_was_killed_does_not_begin(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    read_end, write_end = os.pipe()
    done = subprocess.run(
        [sys.executable, "-m", "cep.agent", tmp_path, "one", str(write_end), "{}"],
        input=b"",
        pass_fds=(write_end,),
        check=False,
        timeout=60,
    )
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        (word,) = [json.loads(line) for line in pipe]
    assert done.returncode == TemporaryFailure.exit_code
    assert "ended before" in word["error"]
    assert list((tmp_path / "one").iterdir()) == []
