"""Logs are bounded, whoever fills them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from cep.agent import logs
from cep.config.settings import LogSettings
from cep.engines import worker_output

LIMIT = 8192


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    before = list(root.handlers)
    yield root
    for handler in root.handlers[:]:
        if handler not in before:
            root.removeHandler(handler)
            handler.close()


def log_file(path: Path, backups: int) -> logs.LogFile:
    return logs.LogFile(path, LogSettings(max_bytes=LIMIT, backups=backups), take_output=False)


def test_fault_17_a_process_that_has_the_log_open_goes_on_writing_into_it(tmp_path: Path) -> None:
    path = tmp_path / "endpoint.log"
    handler = log_file(path, 1)
    with path.open("ab", buffering=0) as worker:
        worker.write(b"w" * LIMIT)
        handler.handle(logging.makeLogRecord({"msg": "a line"}))
        worker.write(b"after the rotation")
        assert os.fstat(worker.fileno()).st_size < LIMIT
    handler.close()
    assert path.read_bytes().endswith(b"after the rotation")
    assert (tmp_path / "endpoint.log.1").stat().st_size == LIMIT
    assert (tmp_path / "endpoint.log.1").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("backups", [0, 1, 3])
def test_fault_17_a_looping_log_never_takes_more_than_its_files(
    tmp_path: Path, backups: int
) -> None:
    handler = log_file(tmp_path / "endpoint.log", backups)
    for _ in range(2000):
        handler.handle(logging.makeLogRecord({"msg": "again and again " * 4}))
    handler.close()
    files = list(tmp_path.iterdir())
    assert len(files) == 1 + backups
    assert all(file.stat().st_size <= LIMIT for file in files)


def test_what_workers_print_is_bounded_without_a_line_of_the_log(
    tmp_path: Path, root_logger: logging.Logger
) -> None:
    path = tmp_path / "endpoint.log"
    root_logger.addHandler(log_file(path, 1))
    logs.keep_bounded()
    assert path.stat().st_size == 0
    with path.open("ab") as worker:
        worker.write(b"w" * 3 * LIMIT)
    logs.keep_bounded()
    assert path.stat().st_size == 0
    assert (tmp_path / "endpoint.log.1").stat().st_size == LIMIT


def test_without_room_for_a_copy_the_old_content_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_source: IO[bytes], target: IO[bytes]) -> None:
        target.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    path = tmp_path / "endpoint.log"
    path.write_bytes(b"x" * LIMIT)
    logs.copy_and_empty(path, tmp_path / "endpoint.log.1", LIMIT)
    assert path.stat().st_size == 0
    assert [file.name for file in tmp_path.iterdir()] == ["endpoint.log"]


POOL = """
import subprocess, sys
from pathlib import Path
from cep.engines.worker_output import bounded_output
with bounded_output(Path(sys.argv[1])):
    worker = subprocess.Popen([sys.executable, "-c", sys.argv[2]])
print("the pool's own word", flush=True)
worker.wait()
"""
WORKER = """
import os
for number in range(400):
    os.write(1 + number % 2, b"p" * 50_000)
os.write(1, b"the last line")
"""


def test_fault_17_what_functions_print_on_a_node_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    pool = subprocess.run(
        [sys.executable, "-c", POOL, str(path), WORKER], stdout=subprocess.PIPE, check=True
    )
    assert pool.stdout == b"the pool's own word\n"
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["output.log", "output.log.1"]
    assert all(file.stat().st_size <= worker_output.MAX_BYTES for file in files)
