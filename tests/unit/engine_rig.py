"""`Rig` plays the agent for one engine in tests; see `engine_contract`."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cep.engines.base import (
    Engine,
    EngineDown,
    EngineEvent,
    EngineRun,
    Outcomes,
    SlotsChanged,
    Submission,
)
from cep.model import Outcome, OutcomeKind, Task
from cep.wire.result import unpack_result
from tests.unit.task_payloads import make_task, value_of

ENDPOINT_ID = "1f0e9a52-0000-4000-8000-000000000001"
MARK = "CEP_ENDPOINT_DIR"


class Rig:
    """Plays the agent for one engine.

    Args:
        engine: Not yet started.
        run_dir: The endpoint's directory.
        deadline_s: How long any wait may last.
    """

    def __init__(self, engine: Engine, run_dir: Path, deadline_s: float) -> None:
        self.engine = engine
        self.run = EngineRun(
            endpoint_id=ENDPOINT_ID,
            endpoint_name="contract",
            run_dir=run_dir,
            start_slots=run_dir / "start-slots",
            oversized_results=run_dir / "oversized_results",
        )
        self.deadline_s = deadline_s
        self.events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self.slots = 0
        self.given: dict[int, Task] = {}
        self.backlog: deque[Task] = deque()
        self.outcomes: dict[int, Outcome] = {}
        self.order: list[int] = []
        self.downs: list[EngineDown] = []
        self.give_back_again = True
        self._seq = 0

    def start(self) -> Rig:
        self.engine.start(self.run, self.events.put)
        return self

    def task(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Task:
        self._seq += 1
        return make_task(self._seq, function, *args, **kwargs)

    def add(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> int:
        """Put a task into the backlog; return its sequence number."""
        task = self.task(function, *args, **kwargs)
        self.backlog.append(task)
        return task.seq

    def feed(self) -> None:
        """Give as much of the backlog as the engine's slots allow."""
        room = max(0, self.slots - len(self.given))
        batch = [self.backlog.popleft() for _ in range(min(room, len(self.backlog)))]
        self.given.update((task.seq, task) for task in batch)
        if batch or self.backlog:
            self.engine.submit(Submission(tuple(batch), waiting=len(self.backlog)))

    def pump_until(self, done: Callable[[], bool], what: str) -> None:
        """Handle events until something is so, or fail at the deadline."""
        until = time.monotonic() + self.deadline_s
        self.feed()
        while not done():
            left = until - time.monotonic()
            try:
                if left <= 0:
                    raise queue.Empty
                self.handle(self.events.get(timeout=left))
            except queue.Empty:
                pytest.fail(
                    f"no {what} within {self.deadline_s} s; status {self.engine.status()}, "
                    f"given {sorted(self.given)}, backlog {len(self.backlog)}, {self.downs}"
                )
            self.feed()

    def handle(self, event: EngineEvent) -> None:
        if isinstance(event, SlotsChanged):
            self.slots = event.slots
        elif isinstance(event, EngineDown):
            self.downs.append(event)
        else:
            self._take(event)

    def _take(self, event: Outcomes) -> None:
        for outcome in event.outcomes:
            task = self.given.pop(outcome.seq, None)
            assert task is not None, f"an outcome for task {outcome.seq}, which is not given"
            if outcome.kind is OutcomeKind.NOT_BEGUN and self.give_back_again:
                self.backlog.appendleft(task)
                continue
            assert outcome.seq not in self.outcomes, f"a second outcome for {outcome.seq}"
            self.outcomes[outcome.seq] = outcome
            self.order.append(outcome.seq)

    def wait_for(self, seqs: Sequence[int]) -> list[Outcome]:
        """Wait for the outcomes of these tasks, in their order."""
        self.pump_until(
            lambda: all(seq in self.outcomes for seq in seqs), f"outcome of {list(seqs)[:5]}"
        )
        return [self.outcomes[seq] for seq in seqs]

    def call(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Outcome:
        """Run one task to its end."""
        return self.wait_for([self.add(function, *args, **kwargs)])[0]

    def value(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Run one task and return what it returned."""
        outcome = self.call(function, *args, **kwargs)
        assert outcome.kind is OutcomeKind.DONE, outcome
        return value_of(outcome.result)

    def error(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> Any:
        """Run one task and return its error result."""
        outcome = self.call(function, *args, **kwargs)
        assert outcome.kind is OutcomeKind.DONE, outcome
        opened = unpack_result(outcome.result)
        assert opened.is_error
        return opened

    def wait_for_file(self, path: Path) -> str:
        """Pump events until a task has written this file; return its text."""
        until = time.monotonic() + self.deadline_s
        self.feed()
        while not (path.exists() and path.read_text()):
            assert time.monotonic() < until, f"{path.name} was not written"
            with contextlib.suppress(queue.Empty):
                self.handle(self.events.get(timeout=0.02))
            self.feed()
        return path.read_text()

    def drain_events(self) -> list[EngineEvent]:
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.events.get_nowait())
        return found


def marked_processes(run_dir: Path) -> list[psutil.Process]:
    """All processes that carry the endpoint's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(run_dir.resolve()):
                found.append(process)
    return found


def wait_until(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Wait for what only a look at it tells, such as an engine's status."""
    done = threading.Event()
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "it did not come so within the deadline"
        done.wait(0.02)
