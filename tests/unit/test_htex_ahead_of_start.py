"""The interchange loads while the endpoint registers, and is used or ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from cep.config.settings import HtexSettings
from cep.engines import htex_assembly
from cep.engines.base import EngineRun, LoadsAhead
from cep.engines.build import build_engine
from cep.engines.htex import GlobusComputeEngine
from cep.engines.interchange_process import InterchangeProcess
from cep.errors import EngineError


def test_an_interchange_that_is_not_needed_ends_without_a_word(tmp_path: Path) -> None:
    interchange = InterchangeProcess.of(tmp_path, HtexSettings())
    interchange.end(120.0)
    assert interchange.process.returncode == 0
    assert interchange.last_words() == ""


def test_an_engine_that_is_never_started_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = build_engine(HtexSettings())
    assert isinstance(engine, LoadsAhead)
    assert isinstance(engine, GlobusComputeEngine)
    engine.load_ahead(tmp_path)
    assert engine._ahead is not None
    process = engine._ahead.process
    engine.stop(5.0)
    assert process.returncode is not None
    engine.stop(5.0)


def test_the_first_session_gets_the_interchange_and_a_later_one_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[InterchangeProcess | None] = []

    def refuse(*parts: object) -> None:
        process = parts[-1]
        assert process is None or isinstance(process, InterchangeProcess)
        given.append(process)
        if process is not None:
            process.end(5.0)
        raise EngineError("No session in this test.")

    monkeypatch.setattr(htex_assembly, "open_session", refuse)
    engine = GlobusComputeEngine(HtexSettings(address="127.0.0.1"))
    engine.load_ahead(tmp_path)
    ahead = engine._ahead
    for _ in range(2):
        with pytest.raises(EngineError, match="No session"):
            engine.start(EngineRun("id", "name", tmp_path, None, tmp_path), print)
    assert given == [ahead, None]


def test_an_interchange_that_cannot_be_launched_is_told_by_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "cep.engines.interchange_process.COMMAND", (str(tmp_path / "no-such-python"),)
    )
    engine = GlobusComputeEngine(HtexSettings(address="127.0.0.1"))
    engine.load_ahead(tmp_path)
    with pytest.raises(EngineError, match="could not be started"):
        engine.start(EngineRun("id", "name", tmp_path, None, tmp_path), print)
    engine.stop(5.0)
