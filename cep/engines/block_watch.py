"""Ask the scheduler about blocks: when, and what its answers mean for them.

Part of the block thread (`cep.engines.scaler`), which owns it. A scheduler that does not answer
changes nothing: blocks stay as they were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

from cep.engines.blocks import QUIET_PERIOD_S, Block, BlockEnd, BlockState
from cep.engines.job_words import CRASHED, GONE, UNKNOWN, JobWord, last_lines

log = logging.getLogger(__name__)

ENDS_KEPT = 10
#: So long somebody waits for the reason of a lost block; longer while the batch system clears away
#: after its job, which takes an epilog's time. The scheduler is asked every so often.
REASON_WITHIN_S = 12.0
ENDING_WITHIN_S = 60.0
REASON_EVERY_S = 2.0


class BlockWatch:
    """See the module's docstring.

    Args:
        blocks: The blocks that live, by number; the block thread's own.
        ask: Asks about jobs, all at once.
        ended: Takes the end of a block, which is in `blocks` no more.
        explain: Takes a lost block's number and how it ended, which may be empty.
        end_workers: Takes the job of a block without managers; from then on none of its workers
            begins a task, where the provider can see to that.
        period_s: Time between questions while something changes.
        watched: Ends of blocks are told, so nobody need be asked.
        clock: Seconds, monotonic.

    Attributes:
        ends: The last ends, by block number, oldest first.
        silence: Why the scheduler did not answer the last question; empty when it did.
        due_at: Clock value of the next question, None when none is due by itself.
    """

    def __init__(
        self,
        blocks: dict[str, Block],
        *,
        ask: Callable[[Sequence[str]], Sequence[JobWord]],
        ended: Callable[[Block, BlockEnd], None],
        explain: Callable[[str, str], None],
        end_workers: Callable[[str], None],
        period_s: float,
        watched: bool,
        clock: Callable[[], float],
    ) -> None:
        self._blocks = blocks
        self._ask = ask
        self._ended = ended
        self._explain = explain
        self._end_workers = end_workers
        self._period_s = period_s
        self._watched = watched
        self._clock = clock
        self._pace_s = period_s
        self._wanted: dict[str, float] = {}  # lost block -> clock value since when
        self.ends: dict[str, BlockEnd] = {}
        self.silence = ""
        self.due_at: float | None = None

    # -- when ----------------------------------------------------------------------------------

    def changed(self) -> None:
        """Something is new about the blocks, so the next questions come sooner."""
        self._pace_s = self._period_s

    def ask_every(self, period_s: float) -> None:
        """Another time between questions."""
        self._period_s = self._pace_s = period_s

    def soon(self) -> None:
        """Ask with the next `work`."""
        self.due_at = self._clock()

    def want_reason(self, block: str) -> None:
        """Somebody has lost this block and waits to know why."""
        self._wanted[block] = self._clock()

    def work(self) -> None:
        """Ask when it is time, and give the reasons that are known."""
        if self.due_at is not None and self._clock() >= self.due_at:
            self.look(list(self._blocks.values()))
            self.due_at = None
        self._give_reasons()

    def plan(self) -> None:
        """Set `due_at`; sooner where somebody waits for a reason."""
        if self._watched or not self._blocks:
            self.due_at = None
            return
        now = self._clock()
        if self.due_at is None:
            self.due_at = now + self._pace_s
        if self._wanted and not self.silence:
            self.due_at = min(self.due_at, now + REASON_EVERY_S)

    def due(self) -> list[float]:
        """Clock values at which `work` has something to do."""
        due = [self._reason_until(name) for name in self._wanted]
        return due if self.due_at is None else [*due, self.due_at]

    def _slower_s(self) -> float:
        """The next pause between questions when the last one brought nothing new.

        While the workers of a block are about to come, or to fail, it stays short.
        """
        if any(block.is_starting for block in self._blocks.values()):
            return self._period_s
        return min(max(1.0, 2 * self._pace_s), max(self._period_s, QUIET_PERIOD_S))

    # -- what ----------------------------------------------------------------------------------

    def look(self, blocks: Sequence[Block]) -> None:
        """Ask about these blocks now."""
        if not blocks:
            return
        try:
            words = self._ask([block.job for block in blocks])
        except Exception as error:
            self.note_silence(str(error))
            self._pace_s = self._slower_s()
            return
        self.silence = ""
        before = [(block.word.state, block.word.reason) for block in blocks]
        for block, word in zip(blocks, words, strict=True):
            self._judge(block, word)
        unchanged = before == [(block.word.state, block.word.reason) for block in blocks]
        self._pace_s = self._slower_s() if unchanged else self._period_s

    def note_silence(self, why: str) -> None:
        """The scheduler did not answer; said once, until it has answered again."""
        log.log(
            logging.DEBUG if self.silence else logging.WARNING,
            "the scheduler does not answer: %s",
            why,
            extra={"event": "blocks.status-failed"},
        )
        self.silence = why

    def _judge(self, block: Block, word: JobWord) -> None:
        believed = word.ended and not (word.state == GONE and block.managers)
        if not believed or block.state is BlockState.ENDED:
            if word.state not in (UNKNOWN, GONE):
                block.word = word
            return
        block.word = word
        came = block.registered_at is not None
        failed = block.state is not BlockState.RETIRING and (not came or word.state in CRASHED)
        block.state = BlockState.ENDED
        self._blocks.pop(block.name, None)
        stderr = last_lines(word.stderr_path) if failed else ""
        end = BlockEnd(block.name, block.job, word, failed, time.time(), came, stderr)
        self.keep(end)
        self._ended(block, end)

    def keep(self, end: BlockEnd) -> None:
        """Remember an end for a while."""
        self.ends[end.name] = end
        while len(self.ends) > ENDS_KEPT:
            del self.ends[next(iter(self.ends))]

    def _give_reasons(self) -> None:
        """Tell why blocks were lost, as soon as it is known, or when it has taken too long."""
        now = self._clock()
        for name in list(self._wanted):
            block, end = self._blocks.get(name), self.ends.get(name)
            in_time = now < self._reason_until(name)
            if end is None and block is not None and in_time and not self.silence:
                if not self._watched:
                    continue
                self.look([block])
                end = self.ends.get(name)
            del self._wanted[name]
            if block is not None and not block.managers:
                self._end_workers(block.job)
            self._explain(name, "" if end is None else end.word.end_with_advice(end.job))

    def _reason_until(self, name: str) -> float:
        block = self._blocks.get(name)
        ending = block is not None and block.word.ending
        return self._wanted[name] + (ENDING_WITHIN_S if ending else REASON_WITHIN_S)

    def describe_ends(self) -> tuple[Mapping[str, object], ...]:
        """The ends for `status`."""
        return tuple(end.describe() for end in self.ends.values())
