"""Left-overs of this endpoint are ended, and nothing else is touched."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cep.engines import leftovers
from cep.engines.leftovers import MARK, end_leftovers
from cep.errors import EngineError

ENDPOINT_ID = "1f0e9a52-0000-4000-8000-000000000001"
STUBBORN = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"], start_new_session=True) if sys.argv[1:] else None
print(child.pid if child else "up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start fake left-overs; what still lives is killed at the end."""
    started: list[subprocess.Popen[str]] = []

    def begin(mark: str | None, *args: str) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if key != MARK}
        if mark is not None:
            environment[MARK] = mark
        process = subprocess.Popen(
            [sys.executable, "-c", STUBBORN, *args],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_only_the_processes_of_this_endpoint_are_ended(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    mine, other = tmp_path / "one", tmp_path / "one-more"
    mine.mkdir()
    other.mkdir()
    left = [start(str(mine)), start(str(mine))]
    spared = [start(str(other)), start(None), start(str(tmp_path)), start(f"{mine}/sub")]
    for process in [*left, *spared]:
        assert first_line(process) == "up"
    assert sorted(end_leftovers(mine, ENDPOINT_ID, "one")) == sorted(one.pid for one in left)
    assert [one.wait(60) for one in left] == [-9, -9]
    assert [one.poll() for one in spared] == [None] * 4
    assert end_leftovers(mine, ENDPOINT_ID, "one") == []


def test_children_in_sessions_of_their_own_are_ended_too(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    parent = start(str(tmp_path), "with-child")
    child = int(first_line(parent))
    assert set(end_leftovers(tmp_path, ENDPOINT_ID, "one")) == {parent.pid, child}
    with contextlib.suppress(psutil.NoSuchProcess):  # nobody's child any more, reaped at any moment
        assert psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_path_through_a_link_means_the_same_endpoint(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    process = start(str(real))
    first_line(process)
    assert end_leftovers(tmp_path / "link", ENDPOINT_ID, "one") == [process.pid]


def test_the_agent_and_its_ancestors_are_spared(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from cep.engines.leftovers import end_leftovers\n"
        f"print(end_leftovers(Path(sys.argv[1]), {ENDPOINT_ID!r}, 'one'))\n"
    )
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" "$2"; echo survived', sys.executable, program, str(tmp_path)],
        env={**os.environ, MARK: str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\nsurvived\n"


def test_a_process_that_does_not_end_is_an_error_that_names_it(
    start: Callable[..., subprocess.Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = start(str(tmp_path))
    first_line(process)
    monkeypatch.setattr(leftovers, "_DEADLINE_S", 0.05)
    monkeypatch.setattr(leftovers.signal, "pidfd_send_signal", lambda *_args: None)
    with pytest.raises(EngineError, match=str(process.pid)):
        end_leftovers(tmp_path, ENDPOINT_ID, "one")
