"""What an engine is: five verbs, a sign of life, and the events it sends to the agent's mailbox.

An engine runs tasks somewhere. It owns its threads and child processes; the agent calls them
from its main thread only, and they never block on the work itself. Everything the engine
has to say arrives through the `deliver` callable it was built with, from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

from cep.config.settings import HtexSettings
from cep.model import EngineStatus, Outcome, Task


class Outcomes(NamedTuple):
    """Some tasks have come to an end (or back); a batch, in any order."""

    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class SlotsChanged:
    """The engine now wants to hold at most this many tasks (given and unfinished).

    Attributes:
        slots: How many.
        firm: So many of them whatever their size. The others are there because tasks of late were
            tiny; large ones may be held back. None: all.
    """

    slots: int
    firm: int | None = None


@dataclass(frozen=True, slots=True)
class EngineDown:
    """The engine as a whole broke (its interchange died, say).

    When `rebuilding` is true the engine mends itself: it still reports an outcome for every task,
    also for those handed to it meanwhile, and a `SlotsChanged` follows. When false it is finished,
    and the agent stops with exit code 70; tasks without an outcome until then are possibly started.
    """

    reason: str
    rebuilding: bool


@dataclass(frozen=True, slots=True)
class WaitingRefused:
    """Tasks that wait have no hope of being run, for this reason; an empty one: they have again.

    What was handed over is not meant; it has an outcome of its own.
    """

    reason: str


EngineEvent: TypeAlias = Outcomes | SlotsChanged | EngineDown | WaitingRefused


@dataclass(frozen=True, slots=True)
class EngineRun:
    """What an engine needs to know about the endpoint it works for.

    Attributes:
        endpoint_id: UUID, goes into each result's details.
        endpoint_name: For labels and process titles.
        run_dir: The shared half of the endpoint's directory.
        start_slots: Directory for the workers' begun-task marks (local disk), or None when
            workers may run on other hosts.
        oversized_results: Where a worker keeps a result above the limit.
        life: Names this life of the endpoint, for whoever finds what it left; no secret.
        blocks_file: Where the engine keeps what it learned about failing blocks, or None.
        worker_sets: Where the account's worker sets are; None: there are none.
    """

    endpoint_id: str
    endpoint_name: str
    run_dir: Path
    start_slots: Path | None
    oversized_results: Path
    life: str = ""
    blocks_file: Path | None = None
    worker_sets: Path | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch handed over, and how many more wait in the journal (the demand for blocks)."""

    tasks: Sequence[Task] = field(default_factory=tuple)
    waiting: int = 0


@runtime_checkable
class HasBlocks(Protocol):
    """What an engine with blocks can do beyond the five verbs. From the main thread; at once."""

    def pause_blocks(self, paused: bool) -> None:
        """Ask for no more blocks, or ask for them again, whatever failed before."""

    def rescale(self, settings: HtexSettings) -> None:
        """Use other numbers of blocks and other times for them; blocks that live go on."""


@runtime_checkable
class LoadsAhead(Protocol):
    """An engine with a process of its own whose code takes long to load."""

    def load_ahead(self, run_dir: Path) -> None:
        """Have it load from now on, while the endpoint registers; `start` or `stop` follows.

        From the main thread; at once. What goes wrong here, `start` says.

        Args:
            run_dir: As in the `EngineRun` that follows.
        """


class Engine(Protocol):
    """Five verbs. See the module's docstring for threads."""

    def start(self, run: EngineRun, deliver: Callable[[EngineEvent], None]) -> None:
        """Start threads and processes; return when `submit` may be called.

        A `SlotsChanged` is delivered as soon as the engine wants tasks.

        Raises:
            EngineError: It cannot be started; nothing of it is left behind.
            ConfigError: The settings cannot work on this host.
        """

    def submit(self, submission: Submission) -> None:
        """Take tasks; each gets exactly one outcome (or an `EngineDown`). Never blocks.

        An empty batch is allowed: it tells a changed backlog.
        """

    def cancel(self, seqs: Sequence[int]) -> None:
        """Give back tasks not yet begun (as NOT_BEGUN); those that run go on. Asynchronous."""

    def status(self) -> EngineStatus:
        """A picture of now; cheap, no round trip to other processes."""

    def beat(self, echo: Callable[[], None]) -> None:
        """Call `echo`, from any thread, once the thread that all tasks pass through comes round.

        For the watchdog: an engine that mends itself is alive, one whose thread is stuck is not.
        Never blocks; an engine that has ended need not answer.
        """

    def stop(self, deadline_s: float) -> None:
        """End workers and blocks; running tasks become LOST. Returns within the deadline.

        Idempotent, and safe after a failed `start`. No event is delivered afterwards.
        """
