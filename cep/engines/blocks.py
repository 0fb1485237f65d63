"""Blocks as the endpoint sees them: their records, and how many are wanted.

Plain data and arithmetic without threads or Parsl; the block thread (`cep.engines.scaler`) uses it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from cep.engines.job_words import UNKNOWN, JobWord

#: A failed block whose workers lived longer than this says nothing about the next one.
HEALTHY_LIFE_S = 60.0


#: Workers of a job that runs usually come, or fail to, within this time.
STARTING_S = 60.0
#: The scheduler is asked no more often than this while its answers stay the same.
QUIET_PERIOD_S = 30.0


class BlockState(enum.Enum):
    """Where a block is in its life."""

    PENDING = "pending"  # submitted; no worker of it has come yet
    RUNNING = "running"  # at least one manager has registered
    RETIRING = "retiring"  # idle, and asked to take no more tasks
    ENDED = "ended"


@dataclass(slots=True)
class Block:
    """One block.

    Attributes:
        name: The number that Parsl's logs and job names have.
        job: The provider's id.
        submitted_at: Clock value in seconds.
        registered_at: When its first manager came, or None.
        managers: Names of managers connected now, with their workers.
        word: What the scheduler said of its job last.
    """

    name: str
    job: str
    submitted_at: float
    state: BlockState = BlockState.PENDING
    registered_at: float | None = None
    managers: dict[str, int] = field(default_factory=dict)
    word: JobWord = field(default_factory=JobWord)

    @property
    def is_starting(self) -> bool:
        """Whether its job has begun a short while ago, and no worker has come."""
        ran_s = self.word.ran_s
        return self.registered_at is None and ran_s is not None and 0 < ran_s < STARTING_S

    def describe(self) -> Mapping[str, Any]:
        """The block for `status`."""
        return {
            "block": self.name,
            "job": self.job,
            "state": self.state.value,
            "scheduler": None if self.word.state == UNKNOWN else self.word.state,
            "reason": self.word.reason,
            "nodes": self.word.nodes,
            "managers": len(self.managers),
            "workers": sum(self.managers.values()),
        }


@dataclass(frozen=True, slots=True)
class BlockEnd:
    """How a block ended.

    Attributes:
        name: Its number.
        job: The provider's id.
        word: The scheduler's last word.
        failed: It counted as a failure.
        at: Time of day in seconds.
        came: Workers of it had come.
        stderr: The last lines of the error output of a failed one.
    """

    name: str
    job: str
    word: JobWord
    failed: bool
    at: float
    came: bool
    stderr: str = ""

    def describe(self) -> Mapping[str, Any]:
        """The end for `status`."""
        return {
            "block": self.name,
            "job": self.job,
            "state": self.word.state,
            "reason": self.word.reason,
            "exit_code": self.word.exit_code,
            "signal": self.word.signal,
            "ran_s": self.word.ran_s,
            "nodes": self.word.nodes,
            "failed": self.failed,
            "workers_came": self.came,
            "ended": datetime.fromtimestamp(self.at, timezone.utc).isoformat(timespec="seconds"),
            "stderr": self.stderr,
        }


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """The numbers of the configuration.

    Attributes:
        init_blocks: Blocks to ask for at start.
        min_blocks: Blocks to keep.
        max_blocks: Blocks at most.
        parallelism: Slots per task that are wanted, 0 to 1.
        nodes_per_block: Nodes of one block.
        strategy: `none` asks for the first blocks only.
        max_idle_s: An idle block is given back after this time.
        period_s: Time between questions to the scheduler while something changes; it grows to
            `QUIET_PERIOD_S` while nothing does.
    """

    init_blocks: int
    min_blocks: int
    max_blocks: int
    parallelism: float
    nodes_per_block: int
    strategy: Literal["simple", "none"]
    max_idle_s: float
    period_s: float

    def wanted(self, demand: int, workers_per_node: int) -> int:
        """How many blocks there should be.

        Args:
            demand: Unfinished tasks, waiting and given.
            workers_per_node: As seen, or else as expected.
        """
        if self.strategy == "none":
            return 0
        needed = 0
        if demand > 0:
            per_block = max(1, self.nodes_per_block * workers_per_node)
            needed = max(1, math.ceil(demand * self.parallelism / per_block))
        return min(self.max_blocks, max(self.min_blocks, needed))
