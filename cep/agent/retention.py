"""What the endpoint leaves behind, and when it goes: by age and by size, never while in use.

The main loop asks with `beat`; the work is done on a thread of its own, which ends with it, and its
findings come back through the mailbox. What is in use is known from four sides: tasks that are not
answered (the journal), blocks that live (the engine), files that processes of this account have
open (this host), and whatever changed after the loop had asked.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cep.agent.sweep import YOUNG_S, Removed, Stopped, Thing, entries, folder, open_paths, sweep
from cep.config.settings import EndpointSettings
from cep.engines.worker_logs import (
    EXECUTOR_SUFFIX,
    SCRIPTS,
    block_of_directory,
    block_of_launched,
    script_of,
)
from cep.journal.memory import key_of
from cep.paths import EndpointPaths

log = logging.getLogger(__name__)

PERIOD_S = 3600.0  # between two looks at most; the heartbeat brings them
STOP_S = 2.0
_TASK_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PART = re.compile(r"(.+?)(?:\.\d+\.part)?")
_BACKUP = re.compile(r"journal\.db\.v\d+\.bak")


@dataclass(frozen=True, slots=True)
class Swept:
    """A look at everything is over; for the main loop.

    Attributes:
        removed: By kind, as in `retention:`.
        error: Why it ended early, or nothing.
    """

    removed: Mapping[str, Removed] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True, slots=True)
class InUse:
    """What the main thread knew to be needed when it asked.

    Attributes:
        asked_at: Seconds since 1970.
        tasks: The 16 bytes of each id of a task without a confirmed answer.
        blocks: Ids of blocks that live.
        blocks_since: Since when blocks of these ids have been this life's, seconds since 1970.
    """

    asked_at: float
    tasks: frozenset[bytes]
    blocks: frozenset[str]
    blocks_since: float


class Retention:
    """Asks for a clean-up now and then. Belongs to the main thread.

    Args:
        paths: The endpoint's files.
        settings: Its configuration.
        put: Takes the `Swept`; called on the clean-up thread.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        paths: EndpointPaths,
        settings: EndpointSettings,
        put: Callable[[Swept], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._put = put
        self._clock = clock
        self._began_at = clock()
        self._asked_at: float | None = None  # monotonic, so that a clock that jumps does no harm
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._complained = ""

    def change(self, settings: EndpointSettings) -> None:
        """Use these from the next clean-up on, which the next heartbeat may begin."""
        if settings.retention != self._settings.retention:
            self._asked_at = None
        self._settings = settings

    def beat(self, tasks: Callable[[], frozenset[bytes]], blocks: Callable[[], set[str]]) -> None:
        """Begin a clean-up, unless the last one is too young or goes on.

        Args:
            tasks: Returns the keys of the tasks without a confirmed answer.
            blocks: Returns the ids of the blocks that live.
        """
        now = time.monotonic()
        recent = self._asked_at is not None and now - self._asked_at < PERIOD_S
        if recent or self._thread is not None or self._stopped.is_set():
            return
        self._asked_at = now
        in_use = InUse(self._clock(), tasks(), frozenset(blocks()), self._began_at - YOUNG_S)
        # A daemon: a file system that hangs must not keep the agent from ending.
        self._thread = threading.Thread(
            target=self._work, args=(in_use,), name="clean-up", daemon=True
        )
        self._thread.start()

    def swept(self, event: Swept) -> None:
        """Say what was removed; the next `beat` may begin again."""
        self._thread = None
        for kind, removed in event.removed.items():
            if removed.things:
                log.info(
                    "removed %d old %s, %d bytes",
                    removed.things,
                    kind.replace("_", " "),
                    removed.size_bytes,
                    extra={"event": "retention.removed", "kind": kind},
                )
        complaint = event.error or next(
            (one.first_failure for one in event.removed.values() if one.failures), ""
        )
        if complaint:
            level = logging.DEBUG if complaint == self._complained else logging.WARNING
            log.log(level, "not everything that is old could be removed: %s", complaint)
        self._complained = complaint

    def stop(self) -> None:
        """End a clean-up that goes on; what it has not come to waits for the next start."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def _work(self, in_use: InUse) -> None:
        try:
            removed = clean_up(
                self._paths, self._settings, in_use, stopped=self._stopped.is_set, now=self._clock()
            )
        except Stopped:
            self._put(Swept())
        except Exception as error:
            log.exception("the clean-up failed", extra={"event": "retention.failed"})
            self._put(Swept(error=repr(error)))
        else:
            self._put(Swept(removed))


def clean_up(
    paths: EndpointPaths,
    settings: EndpointSettings,
    in_use: InUse,
    *,
    stopped: Callable[[], bool],
    now: float,
) -> dict[str, Removed]:
    """Look at everything once and remove what its time has come for.

    Args:
        paths: The endpoint's files; nothing outside of its three directories is touched.
        settings: Says how long and how much.
        in_use: What is needed.
        stopped: Whether to end early.
        now: Seconds since 1970.

    Returns:
        What was removed, by kind.

    Raises:
        Stopped: It was ended early.
        OSError: A directory cannot be read.
    """
    opened = open_paths()
    keep = settings.retention
    results = _below(paths, paths.oversized_results)
    work = working_directory(paths, settings)
    sandboxed = settings.engine.run_in_sandbox
    work_base = paths.run if work is None else work[0]
    results_base = paths.run if results is None else results[0]
    wanted = {
        "worker_logs": (keep.worker_logs, paths.run, _worker_logs(paths.run)),
        "submit_scripts": (keep.submit_scripts, paths.run, _scripts(paths.run)),
        "sandboxes": (keep.sandboxes, work_base, _sandboxes(work, sandboxed)),
        "working_dir": (keep.working_dir, work_base, _rest(work, sandboxed)),
        "oversized_results": (keep.oversized_results, results_base, _results(results)),
        "journal_backups": (keep.journal_backups, paths.state, _backups(paths.state)),
    }
    removed = {}
    for kind, (how, base, things) in wanted.items():
        real = base.resolve()

        def needed(thing: Thing, changed_at: float, real: Path = real) -> bool:
            return _is_needed(thing, changed_at, in_use) or _is_open(thing, real, opened)

        removed[kind] = sweep(
            base,
            things,
            how,
            now=now,
            before=in_use.asked_at,
            in_use=needed,
            stopped=stopped,
        )
    _remove_empty_blocks(paths.run, in_use)
    return removed


def working_directory(
    paths: EndpointPaths, settings: EndpointSettings
) -> tuple[Path, tuple[str, ...]] | None:
    """Where tasks run, as a base and names below it, or None when it is not ours to clean.

    It is ours when it lies inside one of the endpoint's directories and holds none of them.
    """
    place = paths.run / Path(settings.engine.working_dir).expanduser()
    return _below(paths, Path(os.path.normpath(place)))


def _below(paths: EndpointPaths, place: Path) -> tuple[Path, tuple[str, ...]] | None:
    halves = (paths.run, paths.root, paths.state)
    if any(half == place or half.is_relative_to(place) for half in halves):
        return None
    for half in halves:
        if place.is_relative_to(half):
            return half, place.relative_to(half).parts
    return None


def _is_needed(thing: Thing, changed_at: float, in_use: InUse) -> bool:
    if thing.task_key is not None and thing.task_key in in_use.tasks:
        return True
    # Block numbers begin anew in each life: an old log may carry the number of a block that lives.
    return thing.block in in_use.blocks and changed_at >= in_use.blocks_since


def _is_open(thing: Thing, base: Path, opened: set[str]) -> bool:
    place = base.joinpath(*thing.folder)
    for name in thing.names:
        path = str(place / name)
        if path in opened or any(one.startswith(path + "/") for one in opened):
            return True
    return False


def _worker_logs(run: Path) -> Iterator[Thing]:
    for executor, is_directory in entries(run, ()):
        if not (is_directory and executor.endswith(EXECUTOR_SUFFIX)):
            continue
        for block_name, _ in entries(run, (executor,)):
            block = block_of_directory(block_name)
            if block is None:
                continue
            for pool, _ in entries(run, (executor, block_name)):
                yield Thing((executor, block_name), (pool,), block=block)


def _scripts(run: Path) -> Iterator[Thing]:
    scripts: dict[tuple[str, str], list[str]] = {}
    for name, is_directory in entries(run, (SCRIPTS,)):
        launched = block_of_launched(name)
        found = script_of(name) if launched is None else (name, launched)
        if found is not None and not is_directory:
            scripts.setdefault(found, []).append(name)
    for (_, block), names in scripts.items():
        yield Thing((SCRIPTS,), tuple(names), block=block)


def _sandboxes(work: tuple[Path, tuple[str, ...]] | None, sandboxed: bool) -> Iterator[Thing]:
    if work is None or not sandboxed:
        return
    for name, is_directory in entries(*work):
        if is_directory and _TASK_ID.fullmatch(name):
            yield Thing(work[1], (name,), task_key=key_of(name))


def _rest(work: tuple[Path, tuple[str, ...]] | None, sandboxed: bool) -> Iterator[Thing]:
    if work is None:
        return
    for name, is_directory in entries(*work):
        if not (sandboxed and is_directory and _TASK_ID.fullmatch(name)):
            yield Thing(work[1], (name,))


def _results(place: tuple[Path, tuple[str, ...]] | None) -> Iterator[Thing]:
    if place is None:
        return
    for name, is_directory in entries(*place):
        match = _PART.fullmatch(name)
        if match is not None and not is_directory:
            yield Thing(place[1], (name,), task_key=key_of(match[1]))


def _backups(state: Path) -> Iterator[Thing]:
    for name, is_directory in entries(state, ()):
        if not is_directory and _BACKUP.fullmatch(name):
            yield Thing((), (name,))


def _remove_empty_blocks(run: Path, in_use: InUse) -> None:
    """Directories of blocks that hold no pool's logs any more.

    A block that was asked for meanwhile has one that is young.
    """
    for executor, is_directory in entries(run, ()):
        if not (is_directory and executor.endswith(EXECUTOR_SUFFIX)):
            continue
        with folder(run, (executor,)) as descriptor:
            for name, _ in entries(run, (executor,)):
                block = block_of_directory(name)
                if descriptor is None or block is None or block in in_use.blocks:
                    continue
                with suppress(OSError):
                    info = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                    if info.st_mtime < in_use.asked_at - YOUNG_S:
                        os.rmdir(name, dir_fd=descriptor)
