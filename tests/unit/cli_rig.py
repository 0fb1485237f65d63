"""Runs the command line in this process, in a user directory of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cep.cli.main import run
from cep.service import trust

FOREIGN = (
    "GLOBUS_SDK_ENVIRONMENT",
    "GLOBUS_SDK_SERVICE_URL_AUTH",
    "GLOBUS_SDK_SERVICE_URL_COMPUTE",
    "GLOBUS_COMPUTE_CLIENT_ID",
    "GLOBUS_COMPUTE_CLIENT_SECRET",
    "GLOBUS_COMPUTE_SCOPE",
    *trust.VARIABLES,
)


@dataclass
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


class Rig:
    """One user directory and the program on it."""

    def __init__(self, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.base = base
        self._capsys = capsys

    def run(self, *words: str) -> Done:
        """Run one command; its standard input is no terminal (pytest closes it)."""
        self._capsys.readouterr()
        code = run(words)
        out, err = self._capsys.readouterr()
        return Done(code, out, err)

    def endpoint(self, name: str = "ep", text: str = "engine: {type: ThreadPoolEngine}\n") -> Path:
        """Make an endpoint's directory."""
        root = self.base / name
        root.mkdir(parents=True, mode=0o700)
        (root / "config.yaml").write_text(text)
        return root


@pytest.fixture
def rig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Rig]:
    """A rig; shell variables of the person who runs the tests do not reach it."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    base = tmp_path / "users dir"
    monkeypatch.setenv("GLOBUS_COMPUTE_USER_DIR", str(base))
    logger = logging.getLogger("cep")
    before = (list(logger.handlers), logger.level)
    yield Rig(base, capsys)
    logger.handlers[:], logger.level = before
