"""Waiting for an account's own service manager, whose socket comes with its directories."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest

from cep.boot.user_manager import wait_for


def test_a_manager_that_is_there_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        (tmp_path / "systemd").mkdir()
        server.bind(str(tmp_path / "systemd" / "private"))
        server.listen()
        assert wait_for(tmp_path, 0.0)


def test_one_that_never_comes_is_given_up(tmp_path: Path) -> None:
    assert not wait_for(tmp_path / "run" / "user" / "1000", 0.01)


def test_one_that_comes_is_heard_directory_by_directory(tmp_path: Path) -> None:
    runtime = tmp_path / "user" / "1000"
    with socket.socket(socket.AF_UNIX) as server:

        def come_up() -> None:
            (runtime / "systemd").mkdir(parents=True)
            server.bind(str(runtime / "systemd" / "private"))
            server.listen()
            (runtime / "bus").touch()  # as systemd does after it

        thread = threading.Timer(0.2, come_up)
        thread.start()
        assert wait_for(runtime, 60.0)
        thread.join()


@pytest.mark.parametrize("parent", [True, False])
def test_directories_that_appear_while_they_are_looked_for_are_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parent: bool
) -> None:
    runtime = tmp_path / "user" / "1000"
    moment = runtime.parent if parent else runtime
    encode = os.fsencode
    with socket.socket(socket.AF_UNIX) as server:

        def come_up() -> None:
            server.bind(str(runtime / "systemd" / "private"))
            server.listen()
            (runtime / "bus").touch()

        thread = threading.Timer(0.2, come_up)

        def looked_for(folder: Path) -> bytes:
            if folder == moment and not runtime.exists():
                (runtime / "systemd").mkdir(parents=True)
                thread.start()
            return encode(folder)

        monkeypatch.setattr(os, "fsencode", looked_for)
        assert wait_for(runtime, 20.0)
        thread.join()
