"""Ask for blocks and give them back: one thread that submits, watches and cancels.

Owns the provider, the blocks and the breaker. Everything that happens is put into its queue
(`tell`), so there are no locks; it waits without a time-out unless the scheduler has to be asked,
an idle time runs out, or a pause after failures ends. `picture` is a finished value that any thread
may read. What the scheduler says of blocks is judged in `cep.engines.block_watch`, what their
failures mean in `cep.engines.block_failures`, how many are wanted in `cep.engines.block_demand`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cep.engines.block_demand import BlockDemand
from cep.engines.block_failures import BlockFailures
from cep.engines.block_watch import BlockWatch
from cep.engines.blocks import QUIET_PERIOD_S, Block, BlockEnd, BlockState, ScalingRules
from cep.engines.breaker import BlockBreaker
from cep.engines.job_words import JobWord
from cep.engines.lending import Refusal
from cep.engines.scheduler_command import SchedulerSilent

log = logging.getLogger(__name__)

_FIRST_SILENCE_S = 10.0  # before a submission that got no answer is tried again; doubles
_LONGEST_SILENCE_S = 60.0


class BlockSource(Protocol):
    """Where blocks come from; see `cep.engines.htex_executor.Executor`."""

    def launch_block(self, block: str) -> str:
        """Submit; returns the job's id."""

    def job_words(self, jobs: Sequence[str]) -> Sequence[JobWord]:
        """Ask about jobs, all at once."""

    def end_leftovers(self) -> None:
        """Cancel jobs of earlier lives, once."""

    def refusal_of(self, block: str) -> Refusal | None:
        """Why the Python of a block cannot run tasks, if it has said so."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The blocks at one moment, for `status`."""

    blocks: Sequence[Mapping[str, Any]] = ()
    ended: Sequence[Mapping[str, Any]] = ()
    breaker: Mapping[str, Any] | None = None
    active: int = 0
    ever: int = 0
    trouble: str = ""
    silence: str = ""


@dataclass(frozen=True, slots=True)
class Wires:
    """What the scaler calls, on its own thread.

    Attributes:
        cancel: Cancels jobs by id.
        forget: Takes a job id after its end.
        request: Asks the interchange for something, asynchronously.
        refuse: Takes the reason for which waiting tasks have no hope; an empty one: they have.
        explain: Takes a lost block's number and how it ended, which may be empty.
        end_workers: As `cep.engines.block_watch` has it.
        failed: Takes a sentence when the thread itself fails.
    """

    cancel: Callable[[Sequence[str]], object]
    forget: Callable[[str], None]
    request: Callable[..., None]
    refuse: Callable[[str], None]
    explain: Callable[[str, str], None]
    end_workers: Callable[[str], None]
    failed: Callable[[str], None]


class Scaler:
    """See the module's docstring.

    Args:
        rules: How many blocks when.
        source: Submits blocks and knows their state.
        breaker: Not loaded yet.
        wires: What is called.
        watched: Ends of blocks are told (`ended`), so the provider need not be asked.
        expected_workers_per_node: Until the first node has come.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        rules: ScalingRules,
        source: BlockSource,
        breaker: BlockBreaker,
        wires: Wires,
        *,
        watched: bool,
        expected_workers_per_node: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._breaker = breaker
        self._wires = wires
        self._clock = clock
        self._inbox: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._blocks: dict[str, Block] = {}
        self._watch = BlockWatch(
            self._blocks,
            ask=source.job_words,
            ended=self._ended,
            explain=wires.explain,
            end_workers=wires.end_workers,
            period_s=rules.period_s,
            watched=watched,
            clock=clock,
        )
        self._failures = BlockFailures(
            breaker, self._blocks, refusal_of=source.refusal_of, clock=clock
        )
        self._demand = BlockDemand(rules, expected_workers_per_node)
        self._count = 0
        self._clean_at: float | None = None
        self._submit_at = 0.0
        self._silence_s = 0.0
        self._stopping = False
        self.picture = Picture()

    # -- from other threads --------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; the first blocks are asked for at once."""
        self._thread = threading.Thread(target=self._run, name="htex-blocks")
        self._thread.start()

    def tell(self, what: str, value: Any = None) -> None:
        """Put an event into the queue.

        `ended` (job), `registered` ((manager, block, workers)), `gone` (manager), `lost` (block):
        somebody wants to know why; `retired` (blocks), `look` (None): ask the provider now;
        `pause`, `resume` (None): by hand; `rules` (rules): others hold from now on.
        """
        self._inbox.put((what, value))

    def tell_demand(self, demand: int, answered: int) -> None:
        """Say how many tasks are unfinished; wakes the thread only when that changes anything.

        Called by the threads that change the demand, under the session's lock.

        Args:
            demand: Unfinished tasks, waiting and given.
            answered: Tasks answered so far.
        """
        self._failures.answered = answered
        if self._demand.tell(demand):
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
            self._begin()
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
            self._wires.failed(f"The thread that keeps the blocks failed: {error!r}.")
        finally:
            self._cancel_all()

    def _begin(self) -> None:
        self._clean_at = now = self._clock()
        self._demand.note_time(now)
        self._breaker.load(now)
        self._step()

    def _note(self, what: str, value: Any) -> None:
        if what == "stop":
            self._stopping = True
        elif what == "ended":
            self._watch.look([block for block in self._blocks.values() if block.job == value])
        elif what == "registered":
            self._note_registered(*value)
        elif what == "gone":
            for block in self._blocks.values():
                block.managers.pop(value, None)
        elif what == "lost":
            self._watch.want_reason(value)
        elif what == "retired":
            self._end_retired(value)
        elif what == "look":
            self._watch.soon()
        elif what == "rules":
            self._demand.rules = value
            self._watch.ask_every(value.period_s)
        elif what == "pause":
            self._breaker.pause(self._clock())
        elif what == "resume":
            self._breaker.resume(self._clock())
            self._submit_at = 0.0

    def _note_registered(self, manager: str, name: str, workers: int) -> None:
        block = self._blocks.get(name)
        self._demand.note_workers(workers)
        if block is None:
            return
        block.managers[manager] = workers
        self._breaker.came(self._clock())
        if block.registered_at is None:
            block.registered_at = self._clock()
            block.state = BlockState.RUNNING
            self._watch.changed()
            log.info(
                "first workers of block %s came",
                name,
                extra={"event": "blocks.registered", "block": name},
            )

    def _step(self) -> None:
        now = self._clock()
        if self._clean_at is not None and now >= self._clean_at:
            self._clean()
        self._watch.work()
        self._failures.note_progress()
        self._demand.note_time(now)
        self._scale_out()
        idle_at = self._demand.idle_at()
        if idle_at is not None and now >= idle_at:
            self._scale_in()
        self._watch.plan()
        hope = self._failures.judge_hope()
        self._paint()  # whoever hears of it finds it in the picture
        if hope is not None:
            self._wires.refuse(hope)

    def _clean(self) -> None:
        """Cancel what earlier lives have left; while the scheduler is silent, later."""
        try:
            self._source.end_leftovers()
            self._clean_at = None
        except Exception as error:
            self._clean_at = self._clock() + QUIET_PERIOD_S
            log.warning(
                "jobs of an earlier life cannot be looked for: %s",
                error,
                extra={"event": "blocks.leftovers-unknown"},
            )

    def _patience_s(self) -> float | None:
        """Seconds until something is due by itself, None when nothing is."""
        now = self._clock()
        due = self._watch.due()
        if self._clean_at is not None:
            due.append(self._clean_at)
        idle_at = self._demand.idle_at()
        if idle_at is not None and self._excess() > 0:
            due.append(idle_at)
        if self._missing() > 0 or self._failures.refused:
            due += [at for at in (self._breaker.retry_at, self._submit_at) if at > now]
        return max(0.0, min(due) - now) if due else None

    # -- more blocks ---------------------------------------------------------------------------

    def _active(self) -> list[Block]:
        return [b for b in self._blocks.values() if b.state is not BlockState.RETIRING]

    def _missing(self) -> int:
        return self._demand.missing(len(self._active()))

    def _scale_out(self) -> None:
        while self._missing() > 0 and self._may_launch():
            self._launch()
        if self._missing() <= 0 or self._breaker.failures:
            self._demand.forget_initial()

    def _may_launch(self) -> bool:
        now = self._clock()
        untried = sum(block.registered_at is None for block in self._blocks.values())
        return now >= self._submit_at and self._breaker.may_try(now, untried)

    def _launch(self) -> None:
        name = str(self._count)
        self._count += 1
        try:
            job = self._source.launch_block(name)
        except SchedulerSilent as error:
            self._wait_for_scheduler(error)
            return
        except Exception as error:
            self._watch.keep(
                BlockEnd(name, "", JobWord("REFUSED", str(error)), True, time.time(), False)
            )
            self._failures.count(name, f"it could not be submitted: {error}", progress=False)
            return
        self._silence_s = 0.0
        self._blocks[name] = Block(name, job, self._clock())
        self._watch.changed()
        self._watch.due_at = None
        log.info(
            "block %s submitted as job %s",
            name,
            job,
            extra={"event": "blocks.submitted", "block": name, "job": job},
        )

    def _wait_for_scheduler(self, error: SchedulerSilent) -> None:
        """A submission without an answer says nothing about the block; later, then."""
        self._silence_s = min(max(_FIRST_SILENCE_S, 2 * self._silence_s), _LONGEST_SILENCE_S)
        self._submit_at = self._clock() + self._silence_s
        self._watch.note_silence(str(error))

    # -- fewer blocks --------------------------------------------------------------------------

    def _excess(self) -> int:
        return self._demand.excess(len(self._active()))

    def _scale_in(self) -> None:
        excess = self._excess()
        if excess <= 0:
            return
        chosen = [block.name for block in self._active()][-excess:]
        for name in chosen:
            self._blocks[name].state = BlockState.RETIRING
        self._wires.request("retire", blocks=chosen)

    def _end_retired(self, names: Sequence[str]) -> None:
        """The interchange holds these blocks; those it did not name were busy after all."""
        ended = [block for name in names if (block := self._blocks.pop(name, None)) is not None]
        self._cancel_jobs(ended)
        for block in self._blocks.values():
            if block.state is BlockState.RETIRING:
                block.state = BlockState.RUNNING if block.managers else BlockState.PENDING
                self._demand.idle_since = self._clock()
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
            self._wires.cancel(jobs)
        except Exception as error:
            log.warning(
                "cancelling jobs %s failed: %s",
                ", ".join(jobs),
                error,
                extra={"event": "blocks.cancel-failed"},
            )
        for block in blocks:
            self._wires.request("ended", block=block.name)
            self._wires.forget(block.job)

    def _cancel_all(self) -> None:
        blocks = list(self._blocks.values())
        self._blocks.clear()
        self._cancel_jobs(blocks)
        self._paint()

    # -- blocks that end -----------------------------------------------------------------------

    def _ended(self, block: Block, end: BlockEnd) -> None:
        """The scheduler says that a block is over."""
        self._wires.request("ended", block=block.name)
        if end.failed:
            self._failures.judge(block, end)
        else:
            log.info(
                "block %s ended: %s",
                block.name,
                end.word.end(block.job),
                extra={"event": "blocks.ended", "block": block.name},
            )
        self._wires.forget(block.job)
        self._paint()  # before the tasks that it took are answered

    def _paint(self) -> None:
        silence = self._watch.silence
        self.picture = Picture(
            blocks=tuple(block.describe() for block in self._blocks.values()),
            ended=self._watch.describe_ends(),
            breaker=self._breaker.describe(self._clock()),
            active=len(self._blocks),
            ever=self._count,
            trouble=self._failures.trouble(silence, next_wanted=self._missing() > 0),
            silence=silence,
        )
