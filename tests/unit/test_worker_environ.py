"""Threads that run tasks see their own task variables and directory, and nobody else does."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from os import environ as imported_before
from pathlib import Path

import pytest

from cep.worker import environ


@pytest.fixture
def view() -> Iterator[None]:
    """The view, installed for one test."""
    environ.install()
    yield
    environ.uninstall()


def in_thread(work: Callable[[], object]) -> object:
    """Run something in a thread and return what it returned."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(30)
    assert found, "the thread failed"
    return found[0]


def test_where_a_thread_is_can_be_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, other = tmp_path / "hére", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    monkeypatch.chdir(here)
    assert environ.is_in(str(here))
    assert not environ.is_in(str(other))
    assert not environ.is_in(f"{here}/x")
    here.rmdir()
    assert not environ.is_in(str(here))
    here.mkdir()  # another one of the same name
    assert not environ.is_in(str(here))


@pytest.mark.usefixtures("view")
def test_each_thread_sees_its_own_variables_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=30)

    def look(name: str) -> object:
        environ.set_task(name, f"/box/{name}", in_thread=True)
        both.wait()
        seen = (
            os.environ["GC_TASK_UUID"],
            os.getenv("GC_TASK_SANDBOX_DIR"),
            imported_before.get("GC_TASK_UUID"),
            os.environ.copy()["GC_TASK_UUID"],
            dict(os.environ)["GC_TASK_UUID"],
            subprocess.check_output(["sh", "-c", "printf %s $GC_TASK_UUID"], text=True),
            subprocess.check_output("printf %s $GC_TASK_SANDBOX_DIR", shell=True, text=True),
            subprocess.check_output(["env"], env={}, text=True),
        )
        both.wait()
        return seen

    found: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda n=name: found.update({n: look(n)}))
        for name in ("one", "two")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for name in ("one", "two"):
        box = f"/box/{name}"
        assert found[name] == (name, box, name, name, name, name, box, "")
    assert "GC_TASK_UUID" not in os.environ


@pytest.mark.usefixtures("view")
def test_other_variables_stay_shared_and_the_view_is_a_whole_mapping() -> None:
    def change() -> object:
        environ.set_task("id", None, in_thread=True)
        os.environ["CEP_TEST_SHARED"] = "yes"
        assert "GC_TASK_SANDBOX_DIR" not in os.environ
        assert len(os.environ) == len(list(os.environ)) == len(os.environ.copy())
        os.environ["GC_TASK_SANDBOX_DIR"] = "/mine"
        assert os.environ.pop("GC_TASK_SANDBOX_DIR") == "/mine"
        environ.clear_task()
        return os.environ.get("GC_TASK_UUID")

    assert in_thread(change) is None
    assert os.environ.pop("CEP_TEST_SHARED") == "yes"


def test_the_view_goes_away_with_its_last_owner() -> None:
    kind, init = type(os.environ), subprocess.Popen.__init__
    environ.install()
    environ.install()
    environ.uninstall()
    assert type(os.environ) is not kind
    environ.uninstall()
    assert type(os.environ) is kind
    assert subprocess.Popen.__init__ is init


def test_a_thread_with_a_directory_of_its_own_moves_no_other(tmp_path: Path) -> None:
    here = Path.cwd()

    def move() -> object:
        if not environ.own_directory():
            return None
        os.chdir(tmp_path)
        assert environ.may_change_directory(in_thread=True)
        return subprocess.check_output(["pwd"], text=True).strip()

    seen = in_thread(move)
    assert seen in (None, str(tmp_path))  # None: this kernel or container refuses
    assert Path.cwd() == here
    assert environ.may_change_directory(in_thread=False)
    assert not environ.may_change_directory(in_thread=True)


@pytest.fixture
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (environ.TASK_UUID, environ.SANDBOX_DIR):
        monkeypatch.setenv(name, "before")


def seen_by_all() -> set[str | None]:
    """The task's id as this process, its C library and a process that it starts see it."""
    name = environ.TASK_UUID
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    here = getenv(name.encode())
    there = subprocess.run(["printenv", name], stdout=subprocess.PIPE, text=True, check=False)
    return {os.environ.get(name), here and here.decode(), there.stdout.strip() or None}


@pytest.mark.usefixtures("_as_before")
def test_a_process_and_what_it_starts_see_the_variables_of_its_task() -> None:
    for number in range(3):
        environ.set_task(f"task-{number}", None, in_thread=False)
        assert seen_by_all() == {f"task-{number}"}
        assert environ.SANDBOX_DIR not in os.environ
    os.environ[environ.TASK_UUID] = "by the task"
    assert seen_by_all() == {"by the task"}
    environ.set_task("next", None, in_thread=False)
    assert seen_by_all() == {"next"}
    del os.environ[environ.TASK_UUID]
    assert seen_by_all() == {None}
    environ.set_task("last", "/where/ever", in_thread=False)
    assert seen_by_all() == {"last"}
    assert os.environ[environ.SANDBOX_DIR] == "/where/ever"
    long = "/" + "d" * 5000
    environ.set_task("last", long, in_thread=False)
    assert os.environ[environ.SANDBOX_DIR] == long


def test_a_task_that_puts_another_mapping_in_its_place_harms_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"OTHER": "1"})
    environ.set_task("next", "/some/where", in_thread=False)
    here = {environ.TASK_UUID: "next", environ.SANDBOX_DIR: "/some/where"}
    assert os.environ == {"OTHER": "1", **here}


@pytest.mark.usefixtures("_as_before")
def test_a_process_does_not_grow_with_its_tasks() -> None:
    names = [f"00000000-0000-4000-8000-{number:012d}" for number in range(50_000)]

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    environ.set_task(names[0], None, in_thread=False)
    before = pages()
    for name in names:
        environ.set_task(name, None, in_thread=False)
    # The C library would have kept 4.5 MiB of texts.
    assert (pages() - before) * resource.getpagesize() < 1024 * 1024
