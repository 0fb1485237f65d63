"""Ask for blocks and give them back: one thread that submits, watches and cancels.

Owns the provider and the blocks. Everything that happens is put into its queue (`tell`), so there
are no locks; it waits without a time-out unless a block has to be asked about, an idle time runs
out, or a pause after failures ends. `picture` is a finished value that any thread may read.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cep.engines.blocks import HEALTHY_LIFE_S, Block, BlockBreaker, BlockState, ScalingRules

log = logging.getLogger(__name__)

_LAST_LINES = 5
_LAST_BYTES = 4096


class JobStatus(Protocol):
    """What a provider says of a job."""

    terminal: bool
    status_name: str
    exit_code: int | None
    message: str | None
    stderr_path: str | None


class BlockSource(Protocol):
    """Where blocks come from; see `cep.engines.htex_executor.Executor`."""

    def launch_block(self, block: str) -> str:
        """Submit; returns the job's id."""

    def job_statuses(self, jobs: Sequence[str]) -> Sequence[JobStatus]:
        """Ask about jobs, all at once."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The blocks at one moment, for `status`."""

    blocks: Sequence[Mapping[str, Any]] = ()
    active: int = 0
    ever: int = 0
    trouble: str = ""


class Scaler:
    """See the module's docstring.

    Args:
        rules: How many blocks when.
        source: Submits blocks and knows their state.
        cancel: Cancels jobs by id.
        forget: Called with a job id after its end.
        request: Asks the interchange for something, asynchronously.
        failed: Called with a sentence when the thread itself fails.
        watched: Ends of blocks are told (`ended`), so the provider need not be asked.
        expected_workers_per_node: Until the first node has come.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        rules: ScalingRules,
        source: BlockSource,
        *,
        cancel: Callable[[Sequence[str]], object],
        forget: Callable[[str], None],
        request: Callable[..., None],
        failed: Callable[[str], None],
        watched: bool,
        expected_workers_per_node: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._source = source
        self._cancel = cancel
        self._forget = forget
        self._request = request
        self._failed = failed
        self._watched = watched
        self._workers_per_node = max(1, expected_workers_per_node)
        self._clock = clock
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._blocks: dict[str, Block] = {}
        self._count = 0
        self._initial = rules.init_blocks
        self._breaker = BlockBreaker()
        self._demand = 0
        self._idle_since: float | None = None
        self._next_poll: float | None = None
        self._answered = 0
        self._answered_at_failure = 0
        self._told: tuple[bool, int] = (False, 0)
        self._stopping = False
        self._mute = False  # the provider's failure to answer was logged
        self.picture = Picture()

    # -- from other threads --------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; the first blocks are asked for at once."""
        self._thread = threading.Thread(target=self._run, name="htex-blocks")
        self._thread.start()

    def tell(self, what: str, value: Any = None) -> None:
        """Put an event into the queue.

        `ended` (job), `registered` ((manager, block, workers)), `gone` (manager), `retired`
        (blocks), `look` (None): ask the provider now.
        """
        self._inbox.put((what, value))

    def tell_demand(self, demand: int, answered: int) -> None:
        """Say how many tasks are unfinished; wakes the thread only when that changes anything.

        Called by the threads that change the demand, under the session's lock.

        Args:
            demand: Unfinished tasks, waiting and given.
            answered: Tasks answered so far.
        """
        self._answered = answered
        self._demand = demand
        told = (demand > 0, self._rules.wanted(demand, self._workers_per_node))
        if told != self._told:
            self._told = told
            self._inbox.put(("demand", None))

    def stop(self, timeout_s: float) -> bool:
        """Cancel all blocks and end the thread.

        Returns:
            False when the provider takes longer than that; the thread goes on by itself.
        """
        self._inbox.put(("stop", None))
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # -- the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._idle_since = self._clock()
            self._step()
            while not self._stopping:
                try:
                    what, value = self._inbox.get(timeout=self._patience_s())
                    self._note(what, value)
                except queue.Empty:
                    pass
                if not self._stopping:
                    self._step()
        except Exception as error:
            log.exception("the block thread failed", extra={"event": "blocks.thread-failed"})
            self._failed(f"The thread that keeps the blocks failed: {error!r}.")
        finally:
            self._cancel_all()

    def _note(self, what: str, value: Any) -> None:
        if what == "stop":
            self._stopping = True
        elif what == "ended":
            self._look([block for block in self._blocks.values() if block.job == value])
        elif what == "registered":
            self._note_registered(*value)
        elif what == "gone":
            for block in self._blocks.values():
                block.managers.pop(value, None)
        elif what == "retired":
            self._end_retired(value)
        elif what == "look":
            self._next_poll = self._clock()

    def _note_registered(self, manager: str, name: str, workers: int) -> None:
        block = self._blocks.get(name)
        self._workers_per_node = max(1, workers)
        if block is None:
            return
        block.managers[manager] = workers
        if block.registered_at is None:
            block.registered_at = self._clock()
            block.state = BlockState.RUNNING
            log.info(
                "first workers of block %s came",
                name,
                extra={"event": "blocks.registered", "block": name},
            )

    def _step(self) -> None:
        now = self._clock()
        if self._next_poll is not None and now >= self._next_poll:
            self._look(list(self._blocks.values()))
        if self._demand > 0:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        self._scale_out()
        if self._idle_for(now) >= self._rules.max_idle_s:
            self._scale_in()
        self._next_poll = self._poll_time(now)
        self._paint()

    def _poll_time(self, now: float) -> float | None:
        if self._watched or not self._blocks:
            return None
        if self._next_poll is None or self._next_poll <= now:
            return now + self._rules.period_s
        return self._next_poll

    def _idle_for(self, now: float) -> float:
        return 0.0 if self._idle_since is None else now - self._idle_since

    def _patience_s(self) -> float | None:
        """Seconds until something is due by itself, None when nothing is."""
        now = self._clock()
        due: list[float] = []
        if self._next_poll is not None:
            due.append(self._next_poll - now)
        if self._idle_since is not None and self._excess() > 0:
            due.append(self._idle_since + self._rules.max_idle_s - now)
        if self._missing() > 0:
            due.append(self._breaker.wait_s(now))
        return max(0.0, min(due)) if due else None

    # -- more blocks ---------------------------------------------------------------------------

    def _active(self) -> list[Block]:
        return [b for b in self._blocks.values() if b.state is not BlockState.RETIRING]

    def _missing(self) -> int:
        wanted = self._rules.wanted(self._demand, self._workers_per_node)
        if self._initial:
            wanted = min(max(wanted, self._initial), self._rules.max_blocks)
        return wanted - len(self._active())

    def _scale_out(self) -> None:
        while self._missing() > 0 and self._breaker.wait_s(self._clock()) == 0:
            self._launch()
        if self._missing() <= 0 or self._breaker.failures:
            self._initial = 0

    def _launch(self) -> None:
        name = str(self._count)
        self._count += 1
        now = self._clock()
        try:
            job = self._source.launch_block(name)
        except Exception as error:
            self._fail(name, f"it could not be submitted: {error}", progress=False)
            return
        self._blocks[name] = Block(name, job, now)
        log.info(
            "block %s submitted as job %s",
            name,
            job,
            extra={"event": "blocks.submitted", "block": name, "job": job},
        )

    # -- fewer blocks --------------------------------------------------------------------------

    def _excess(self) -> int:
        if self._rules.strategy == "none" or self._demand > 0:
            return 0
        return len(self._active()) - self._rules.min_blocks

    def _scale_in(self) -> None:
        excess = self._excess()
        if excess <= 0:
            return
        chosen = [block.name for block in self._active()][-excess:]
        for name in chosen:
            self._blocks[name].state = BlockState.RETIRING
        self._request("retire", blocks=chosen)

    def _end_retired(self, names: Sequence[str]) -> None:
        """The interchange holds these blocks; those it did not name were busy after all."""
        ended = [block for name in names if (block := self._blocks.pop(name, None)) is not None]
        self._cancel_jobs(ended)
        for block in self._blocks.values():
            if block.state is BlockState.RETIRING:
                block.state = BlockState.RUNNING if block.managers else BlockState.PENDING
                self._idle_since = self._clock()
        for block in ended:
            log.info(
                "block %s given back, it was idle",
                block.name,
                extra={"event": "blocks.retired", "block": block.name},
            )

    def _cancel_jobs(self, blocks: Sequence[Block]) -> None:
        jobs = [block.job for block in blocks]
        if not jobs:
            return
        try:
            self._cancel(jobs)
        except Exception as error:
            log.warning(
                "cancelling jobs %s failed: %s",
                ", ".join(jobs),
                error,
                extra={"event": "blocks.cancel-failed"},
            )
        for block in blocks:
            self._request("ended", block=block.name)
            self._forget(block.job)

    def _cancel_all(self) -> None:
        blocks, self._blocks = list(self._blocks.values()), {}
        self._cancel_jobs(blocks)
        self._paint()

    # -- blocks that end -----------------------------------------------------------------------

    def _look(self, blocks: Sequence[Block]) -> None:
        if not blocks:
            return
        try:
            statuses = self._source.job_statuses([block.job for block in blocks])
        except Exception as error:
            log.log(
                logging.DEBUG if self._mute else logging.WARNING,
                "the provider does not say how its jobs are: %s",
                error,
                extra={"event": "blocks.status-failed"},
            )
            self._mute = True
            return
        self._mute = False
        for block, status in zip(blocks, statuses, strict=True):
            self._judge(block, status)

    def _judge(self, block: Block, status: JobStatus) -> None:
        if not status.terminal or block.state is BlockState.ENDED:
            return
        retiring = block.state is BlockState.RETIRING
        block.state = BlockState.ENDED
        self._blocks.pop(block.name, None)
        self._request("ended", block=block.name)
        now = self._clock()
        lived_s = 0.0 if block.registered_at is None else now - block.registered_at
        failed = block.registered_at is None or status.status_name in ("FAILED", "MISSING")
        if failed and not retiring:
            self._fail(block.name, _what_happened(status), progress=lived_s > HEALTHY_LIFE_S)
        else:
            log.info(
                "block %s ended (%s)",
                block.name,
                status.status_name.lower(),
                extra={"event": "blocks.ended", "block": block.name},
            )
        self._forget(block.job)

    def _fail(self, name: str, reason: str, *, progress: bool) -> None:
        progress = progress or self._answered > self._answered_at_failure
        self._answered_at_failure = self._answered
        delay_s = self._breaker.failed(self._clock(), reason, progress=progress)
        log.warning(
            "block %s failed (%d in a row), next block in %.0f s at the earliest: %s",
            name,
            self._breaker.failures,
            delay_s,
            reason,
            extra={"event": "blocks.failed", "block": name},
        )

    def _paint(self) -> None:
        trouble = ""
        quiet = self._answered == self._answered_at_failure
        if self._breaker.failures and quiet and not any(b.managers for b in self._blocks.values()):
            wait_s = self._breaker.wait_s(self._clock())
            state = "paused after" if self._breaker.paused else "after"
            trouble = f"{state} {self._breaker.failures} failed in a row"
            if wait_s > 0 and self._missing() > 0:
                trouble += f", next in {wait_s:.0f} s"
            trouble += f": {self._breaker.reason}"
        self.picture = Picture(
            blocks=tuple(block.describe() for block in self._blocks.values()),
            active=len(self._blocks),
            ever=self._count,
            trouble=trouble,
        )


def _what_happened(status: JobStatus) -> str:
    parts = [f"its job ended as {status.status_name.lower()}"]
    if status.exit_code is not None:
        parts[0] += f" with exit status {status.exit_code}"
    if status.message:
        parts.append(str(status.message))
    if lines := _last_lines(status.stderr_path):
        parts.append(f"last lines of its error output: {lines}")
    return "; ".join(parts)


def _last_lines(path: str | None) -> str:
    if path is None:
        return ""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _LAST_BYTES))
        text = file.read().decode(errors="replace")
        return " / ".join(line.strip() for line in text.strip().splitlines()[-_LAST_LINES:])
    return ""
