"""Blocks as the endpoint sees them: their records, how many are wanted, and when to stop trying.

Plain data and arithmetic without threads or Parsl; the block thread (`cep.engines.scaler`) uses it.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

FAILURES_TO_PAUSE = 3  # consecutive blocks
FIRST_DELAY_S = 1.0  # after one failed block, doubled by the next
FIRST_PAUSE_S = 30.0  # after FAILURES_TO_PAUSE of them, doubled by each further one
LONGEST_PAUSE_S = 900.0
#: A failed block whose workers lived longer than this says nothing about the next one.
HEALTHY_LIFE_S = 60.0


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
        told_ended: The interchange knows that the provider says it is over.
    """

    name: str
    job: str
    submitted_at: float
    state: BlockState = BlockState.PENDING
    registered_at: float | None = None
    managers: dict[str, int] = field(default_factory=dict)
    told_ended: bool = False

    def describe(self) -> Mapping[str, Any]:
        """The block for `status`."""
        return {
            "block": self.name,
            "job": self.job,
            "state": self.state.value,
            "managers": len(self.managers),
            "workers": sum(self.managers.values()),
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
        period_s: Time between questions to the provider while there are blocks.
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


class BlockBreaker:
    """Slows down after failing blocks, and pauses after several in a row."""

    def __init__(self) -> None:
        self.failures = 0
        self.reason = ""
        self.retry_at = 0.0

    def failed(self, now: float, reason: str, *, progress: bool) -> float:
        """Count a failed block.

        Args:
            now: Clock value in seconds.
            reason: What went wrong, as a phrase.
            progress: Tasks were answered, or the block lived well, since the last failure.

        Returns:
            Seconds to wait before the next block.
        """
        self.failures = 1 if progress else self.failures + 1
        self.reason = reason
        if self.failures < FAILURES_TO_PAUSE:
            delay_s = FIRST_DELAY_S * 2.0 ** (self.failures - 1)
        else:
            delay_s = min(
                LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(10, self.failures - FAILURES_TO_PAUSE)
            )
        self.retry_at = now + delay_s
        return delay_s

    @property
    def paused(self) -> bool:
        """Whether several blocks in a row failed."""
        return self.failures >= FAILURES_TO_PAUSE

    def wait_s(self, now: float) -> float:
        """Seconds until a block may be submitted; 0 when now."""
        return max(0.0, self.retry_at - now)
