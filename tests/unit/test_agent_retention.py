"""What the endpoint removes by itself: by age and by size, nothing in use, nothing outside."""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cep.agent import retention
from cep.agent.retention import InUse, Retention, Swept, clean_up, working_directory
from cep.agent.sweep import DEEPEST, Removed, Stopped
from cep.config.settings import (
    DAY_S,
    EndpointSettings,
    Keep,
    ProcessPoolSettings,
    RetentionSettings,
)
from cep.journal.memory import key_of
from cep.paths import EndpointPaths

LOGS = "here-HighThroughputExecutor"
WEEK = Keep(7 * DAY_S, 0)
FOR_EVER = Keep(0, 0)


class Scene:
    """An endpoint's directory, in which time passes only by `later`."""

    def __init__(self, root: Path) -> None:
        self.paths = EndpointPaths.of(root)
        self.root = root
        root.mkdir()
        self.settings = EndpointSettings(engine=ProcessPoolSettings(run_in_sandbox=True))
        self.tasks: set[str] = set()
        self.blocks: set[str] = set()
        self.blocks_since = 0.0

    def keep(self, **kinds: Keep) -> None:
        everything = dict.fromkeys(RetentionSettings.__slots__, FOR_EVER)
        kept = RetentionSettings(**{**everything, **kinds})
        self.settings = replace(self.settings, retention=kept)

    def file(self, *names: str, size: int = 8192) -> Path:
        path = self.root.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
        return path

    def later(self, days: float) -> dict[str, Removed]:
        now = time.time() + days * DAY_S
        keys = frozenset(filter(None, map(key_of, self.tasks)))
        in_use = InUse(now, keys, frozenset(self.blocks), self.blocks_since)
        return clean_up(self.paths, self.settings, in_use, stopped=lambda: False, now=now)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "ep")


def a_task() -> str:
    return str(uuid.uuid4())


def worker_log(scene: Scene) -> Path:
    return scene.file(LOGS, "block-0", "0123abcd", "manager.log").parent


def submit_script(scene: Scene) -> Path:
    scene.file("submit_scripts", "parsl.here.block-0.1764.5.sh.out")
    return scene.file("submit_scripts", "parsl.here.block-0.1764.5.sh")


def sandbox(scene: Scene) -> Path:
    return scene.file("tasks_working_dir", a_task(), "deep", "result.txt").parents[1]


def loose_file(scene: Scene) -> Path:
    return scene.file("tasks_working_dir", "notes.txt")


def oversized(scene: Scene) -> Path:
    return scene.file("oversized_results", a_task())


def backup(scene: Scene) -> Path:
    return scene.file("journal.db.v1.bak")


KINDS: dict[str, Callable[[Scene], Path]] = {
    "worker_logs": worker_log,
    "submit_scripts": submit_script,
    "sandboxes": sandbox,
    "working_dir": loose_file,
    "oversized_results": oversized,
    "journal_backups": backup,
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_goes_when_it_is_older_than_its_age_and_not_before(
    scene: Scene, kind: str
) -> None:
    scene.keep(**{kind: WEEK})
    thing = KINDS[kind](scene)
    assert scene.later(6)[kind] == Removed()
    assert thing.exists()
    removed = scene.later(8)[kind]
    assert not thing.exists()
    assert removed.things == 1
    assert removed.size_bytes >= 8192
    assert removed.failures == 0


@pytest.mark.parametrize("kind", KINDS)
def test_zero_keeps_for_ever(scene: Scene, kind: str) -> None:
    scene.keep()
    thing = KINDS[kind](scene)
    assert not any(removed.things for removed in scene.later(10_000).values())
    assert thing.exists()


def test_every_kind_has_a_default_and_user_files_are_kept_longest() -> None:
    keep = RetentionSettings()
    assert keep.working_dir == FOR_EVER
    assert keep.sandboxes.max_age == 30 * DAY_S
    assert set(KINDS) == set(RetentionSettings.__slots__)


def make_newer(thing: Path, than: Path) -> None:
    """Write a thing again until its time is a later one: clocks of file systems may be coarse."""

    def changed(one: Path) -> int:
        return max(each.stat().st_ctime_ns for each in (one, *one.rglob("*")))

    files = [one for one in (thing, *thing.rglob("*")) if one.is_file()]
    while changed(thing) <= changed(than):
        for one in files:
            one.write_bytes(one.read_bytes())


@pytest.mark.parametrize("kind", ["worker_logs", "oversized_results", "sandboxes"])
def test_above_its_size_the_oldest_of_a_kind_go_first_but_nothing_of_the_last_hour(
    scene: Scene, kind: str
) -> None:
    scene.keep(**{kind: Keep(0, 30_000)})
    things = [KINDS[kind](scene)]
    for number in range(5):
        thing = KINDS["oversized_results"](scene) if kind == "oversized_results" else None
        if thing is None and kind == "sandboxes":
            thing = sandbox(scene)
        elif thing is None:
            thing = scene.file(LOGS, "block-1", f"pool-{number}", "manager.log").parent
        make_newer(thing, things[-1])
        things.append(thing)
    assert scene.later(0.5 / 24)[kind].things == 0
    removed = scene.later(1)[kind]
    assert 0 < removed.things < 6
    alive = [thing.exists() for thing in things]
    assert alive == sorted(alive)  # all that went came before all that stayed


def test_a_running_tasks_sandbox_and_an_unconfirmed_answers_bytes_are_kept(scene: Scene) -> None:
    scene.keep(sandboxes=WEEK, oversized_results=WEEK)
    box, result = sandbox(scene), oversized(scene)
    scene.tasks = {box.name, result.name}
    scene.later(100)
    assert box.exists()
    assert result.exists()
    scene.tasks = {result.name}
    scene.later(100)
    assert not box.exists()


def test_what_changed_after_the_loop_had_asked_is_kept(scene: Scene) -> None:
    """A task that began meanwhile is not in the list of the running ones."""
    scene.keep(sandboxes=Keep(1, 0))
    box = sandbox(scene)
    now = time.time()
    early = InUse(now - 60, frozenset(), frozenset(), 0.0)
    clean_up(scene.paths, scene.settings, early, stopped=lambda: False, now=now + 1000)
    assert box.exists()


def test_files_of_a_block_that_lives_are_kept_however_old(scene: Scene) -> None:
    scene.keep(worker_logs=WEEK, submit_scripts=WEEK)
    log_directory, script = worker_log(scene), submit_script(scene)
    launched = scene.file("submit_scripts", "cmd_cep.0b3e1a52-3f3a-4d1e-9d1c-0a1b2c3d4e5f.5.0.sh")
    scene.blocks = {"0"}
    scene.later(100)
    assert log_directory.exists()
    assert script.exists()
    assert launched.exists()
    # An earlier life used the same number; its files are not those of the block that lives.
    scene.blocks_since = time.time() + DAY_S
    scene.later(100)
    assert not log_directory.exists()
    assert not script.exists()
    assert not launched.exists()


def test_a_file_that_a_process_has_open_is_kept(scene: Scene) -> None:
    scene.keep(worker_logs=WEEK, working_dir=WEEK)
    log_directory, loose = worker_log(scene), loose_file(scene)
    workshop = scene.root / "tasks_working_dir" / "workshop"
    workshop.mkdir()
    with (log_directory / "manager.log").open("a") as open_log:
        holder = subprocess.Popen(
            [sys.executable, "-c", "import sys; print('here', flush=True); sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open_log,
            cwd=workshop,
        )
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == b"here\n"
        scene.later(100)
        assert log_directory.exists()
        assert workshop.exists()
        assert not loose.exists()
        holder.stdin.close()  # type: ignore[union-attr]
    scene.later(100)
    assert not log_directory.exists()
    assert not workshop.exists()


@pytest.mark.parametrize("kind", ["sandboxes", "worker_logs", "oversized_results"])
def test_links_are_never_followed(scene: Scene, tmp_path: Path, kind: str) -> None:
    scene.keep(**{kind: WEEK})
    precious = tmp_path / "precious"
    (precious / "data").mkdir(parents=True)
    (precious / "data" / "thesis").write_text("years of work")
    thing = KINDS[kind](scene)
    if thing.is_dir():
        (thing / "link").symlink_to(precious)
        (thing / "file-link").symlink_to(precious / "data" / "thesis")
    (thing.parent / a_task()).symlink_to(precious)
    scene.later(100)
    assert not thing.exists()
    assert (precious / "data" / "thesis").read_text() == "years of work"


@pytest.mark.parametrize(
    "place", ["tasks_working_dir", "submit_scripts", "oversized_results", LOGS]
)
def test_a_directory_that_is_a_link_to_elsewhere_is_not_entered(
    scene: Scene, tmp_path: Path, place: str
) -> None:
    scene.keep(**dict.fromkeys(KINDS, WEEK))
    elsewhere = tmp_path / "elsewhere"
    for names in (
        (a_task(), "x"),
        ("parsl.here.block-0.1764.5.sh",),
        ("block-0", "0123abcd", "manager.log"),
    ):
        path = elsewhere.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("not ours")
    before = sorted(elsewhere.rglob("*"))
    (scene.root / place).symlink_to(elsewhere)
    scene.later(100)
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("directory", [".", "..", "/", "../..", "../elsewhere", "/var/tmp/none"])
def test_a_working_directory_that_is_not_the_endpoints_own_is_left_alone(
    scene: Scene, tmp_path: Path, directory: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data").write_text("not ours")
    scene.file("config.yaml")
    engine = ProcessPoolSettings(working_dir=directory)
    scene.settings = replace(scene.settings, engine=engine)
    scene.keep(working_dir=WEEK, sandboxes=WEEK)
    assert working_directory(scene.paths, scene.settings) is None
    scene.later(1000)
    assert (scene.root / "config.yaml").exists()
    assert (tmp_path / "elsewhere" / "data").exists()


def test_directories_with_the_form_of_an_id_are_users_own_without_sandboxes(scene: Scene) -> None:
    scene.settings = replace(scene.settings, engine=ProcessPoolSettings())
    scene.keep(sandboxes=WEEK)
    mine = sandbox(scene)
    scene.later(1000)
    assert mine.exists()


def test_the_empty_directory_of_a_block_goes_when_it_is_old(scene: Scene) -> None:
    scene.keep()
    folder = scene.root / LOGS / "block-0"
    folder.mkdir(parents=True)
    scene.later(0)  # the block may just have made it, and not have been known when this was asked
    assert folder.exists()
    scene.blocks = {"0"}
    scene.later(1)
    assert folder.exists()
    scene.blocks = set()
    scene.later(1)
    assert not folder.exists()


def test_nothing_else_in_the_endpoints_directory_is_touched(scene: Scene) -> None:
    scene.keep(**dict.fromkeys(KINDS, Keep(1, 1)))
    kept = [
        scene.file(*names)
        for names in (
            ("config.yaml",),
            ("endpoint.json",),
            ("endpoint.log.1",),
            ("journal.db",),
            ("journal.db.v1.bak.mine",),
            ("journal-bodies", "1.task"),
            (LOGS, "interchange.log"),
            (LOGS, "certificates", "server.key"),
            ("submit_scripts", "my-notes.txt"),
            ("start-slots", "worker-0.slots"),
        )
    ]
    scene.later(1000)
    assert all(path.exists() for path in kept)


def test_a_tree_that_cannot_be_removed_is_counted_and_the_others_go(scene: Scene) -> None:
    scene.keep(sandboxes=WEEK)
    stubborn, easy = sandbox(scene), sandbox(scene)
    deep = stubborn
    for _ in range(DEEPEST + 2):
        deep = deep / "d"
    deep.mkdir(parents=True)
    removed = scene.later(100)["sandboxes"]
    assert (removed.things, removed.failures) == (1, 1)
    assert stubborn.name in removed.first_failure
    assert not easy.exists()
    assert stubborn.exists()


def test_a_clean_up_ends_when_the_agent_stops(scene: Scene) -> None:
    scene.keep(sandboxes=WEEK)
    box = sandbox(scene)
    now = time.time() + 100 * DAY_S
    in_use = InUse(now, frozenset(), frozenset(), 0.0)
    with pytest.raises(Stopped):
        clean_up(scene.paths, scene.settings, in_use, stopped=lambda: True, now=now)
    assert box.exists()


def test_the_loop_is_told_and_says_what_went_at_most_once_an_hour(
    scene: Scene, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    scene.keep(oversized_results=WEEK)
    oversized(scene)
    told: queue.SimpleQueue[Swept] = queue.SimpleQueue()
    asked: list[str] = []

    def tasks() -> frozenset[bytes]:
        asked.append("tasks")
        return frozenset()

    one = Retention(scene.paths, scene.settings, told.put, clock=lambda: time.time() + 100 * DAY_S)
    one.beat(tasks, set)
    one.beat(tasks, set)  # the first goes on
    one.swept(told.get(timeout=30))
    one.beat(tasks, set)  # and was not long ago
    assert asked == ["tasks"]
    assert "removed 1 old oversized results, 8192 bytes" in caplog.text
    monkeypatch.setattr(retention, "PERIOD_S", 0.0)
    one.beat(tasks, set)
    assert told.get(timeout=30).removed["oversized_results"].things == 0
    one.stop()
    one.swept(Swept())
    one.beat(tasks, set)
    assert asked == ["tasks", "tasks"]


def test_another_accounts_processes_do_not_end_the_look(scene: Scene) -> None:
    """Reading /proc meets processes that end meanwhile and those of others; neither matters."""
    from cep.agent.sweep import open_paths

    with (scene.root / "held").open("w") as held:
        assert held.name in open_paths()
    assert str(Path.cwd()) in open_paths()
