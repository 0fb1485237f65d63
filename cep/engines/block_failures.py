"""What failed blocks mean: when the next one may come, whether tasks have hope, what to tell.

Part of the block thread (`cep.engines.scaler`), which owns it. Failures are counted by the breaker;
tasks that were answered between two of them are progress.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from cep.engines.blocks import HEALTHY_LIFE_S, Block, BlockEnd
from cep.engines.breaker import BlockBreaker
from cep.engines.lending import Refusal

log = logging.getLogger(__name__)


class BlockFailures:
    """See the module's docstring.

    Args:
        breaker: Counts failures and decides on pauses.
        blocks: The blocks that live, by number; the block thread's own.
        refusal_of: Says why the Python of a block cannot run tasks, if the block has told.
        clock: Seconds, monotonic.

    Attributes:
        answered: Tasks answered so far; other threads write it.
        refused: The reason for which waiting tasks are refused now; empty when they are not.
    """

    def __init__(
        self,
        breaker: BlockBreaker,
        blocks: Mapping[str, Block],
        *,
        refusal_of: Callable[[str], Refusal | None],
        clock: Callable[[], float],
    ) -> None:
        self._breaker = breaker
        self._blocks = blocks
        self._refusal_of = refusal_of
        self._clock = clock
        self._answered_before = 0  # when a block failed last
        self.answered = 0
        self.refused = ""

    def judge(self, block: Block, end: BlockEnd) -> None:
        """Count a block that ended as it should not have, with what is known of the reason."""
        refusal = None if end.came else self._refusal_of(block.name)
        story = end.word.story(block.job) if refusal is None else refusal.reason
        if not end.came and refusal is None:
            story = f"no worker of it came before its job ended: {story}"
        lived_s = 0.0 if block.registered_at is None else self._clock() - block.registered_at
        healthy = lived_s > HEALTHY_LIFE_S
        hopeless = refusal is not None and refusal.everywhere
        self.count(block.name, story, progress=healthy, hopeless=hopeless)

    def count(self, name: str, reason: str, *, progress: bool, hopeless: bool = False) -> None:
        """Count a failure.

        Args:
            name: The block's number.
            reason: Why, for people.
            progress: It says nothing about the next block. Tasks answered since the last failure
                say the same.
            hopeless: The next block cannot do better.
        """
        progress = progress or self.answered > self._answered_before
        self._answered_before = self.answered
        delay_s = self._breaker.failed(self._clock(), reason, progress=progress, hopeless=hopeless)
        log.warning(
            "block %s failed (%d in a row), next block in %.0f s at the earliest: %s",
            name,
            self._breaker.failures,
            delay_s,
            reason,
            extra={"event": "blocks.failed", "block": name},
        )

    def note_progress(self) -> None:
        """Tell the breaker when tasks were answered since the last failure."""
        if self._breaker.failures and self.answered > self._answered_before:
            self._breaker.worked(self._clock())

    def judge_hope(self) -> str | None:
        """While the breaker has tripped and nothing lives, waiting for a block is in vain.

        Returns:
            None when that is as before; else the reason for which waiting tasks have no hope, empty
            when they have some again.
        """
        breaker = self._breaker
        hopeless = breaker.tripped and not breaker.by_hand and not self._blocks
        reason = breaker.reason if hopeless and breaker.wait_s(self._clock()) > 0 else ""
        if reason == self.refused:
            return None
        self.refused = reason
        count = f"{breaker.failures} blocks in a row failed. The last one: "
        return reason and f"{'' if breaker.hopeless else count}{reason}"

    def trouble(self, silence: str, *, next_wanted: bool) -> str:
        """What is wrong with the blocks now, in a few words; empty when nothing is.

        Args:
            silence: Why the scheduler does not answer; empty when it does.
            next_wanted: Another block would be asked for if it might.
        """
        breaker = self._breaker
        quiet = self.answered == self._answered_before
        if breaker.by_hand:
            return "paused by hand"
        if breaker.failures and quiet and not any(b.managers for b in self._blocks.values()):
            wait_s = breaker.wait_s(self._clock())
            state = "paused after" if breaker.tripped else "after"
            trouble = f"{state} {breaker.failures} failed in a row"
            if wait_s > 0 and (next_wanted or self.refused):
                trouble += f", next in {wait_s:.0f} s"
            return f"{trouble}: {breaker.reason}"
        return f"the scheduler does not answer: {silence}" if silence else ""
