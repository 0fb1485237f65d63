"""When to stop asking for blocks: after several in a row that failed or whose workers never came.

A block whose nodes say that no other one could do better counts for all of them.

Owned by the block thread. What it knows is kept in a small file, so that a restart does not begin
the loop again; a changed configuration does begin anew. Arithmetic on the clock of the caller, the
file holds the time of day.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cep.safety.files import replace_text

log = logging.getLogger(__name__)

FAILURES_TO_PAUSE = 3  # consecutive blocks
FIRST_DELAY_S = 1.0  # after one failed block, doubled by the next
FIRST_PAUSE_S = 600.0  # after FAILURES_TO_PAUSE of them, doubled by each further one
LONGEST_PAUSE_S = 14400.0
_LONGEST_REASON = 2000  # characters


class BlockBreaker:
    """See the module's docstring.

    Args:
        file: Where to keep it, or None.
        fingerprint: Says which configuration it is about.
        wall: The time of day in seconds.

    Attributes:
        failures: Failed blocks in a row.
        hopeless: The last one said that the next would fail as well.
        reason: What went wrong with the last one, as a phrase.
        retry_at: Clock value before which no block may be asked for.
        by_hand: Somebody paused it; only `resume` ends that.
        proven: Workers of a block of this configuration have come at least once.
    """

    def __init__(
        self,
        file: Path | None = None,
        fingerprint: str = "",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._fingerprint = fingerprint
        self._wall = wall
        self._clear()
        self.by_hand = False
        self.proven = False

    def _clear(self) -> None:
        self.failures = 0
        self.hopeless = False
        self.reason = ""
        self.retry_at = 0.0

    # -- what happens --------------------------------------------------------------------------

    def failed(self, now: float, reason: str, *, progress: bool, hopeless: bool = False) -> float:
        """Count a failed block.

        Args:
            now: Clock value in seconds.
            reason: What went wrong, as a phrase.
            progress: Tasks were answered, or the block lived well, since the last failure.
            hopeless: The next block would fail as well, so one is enough.

        Returns:
            Seconds to wait before the next block.
        """
        self.failures = 1 if progress else self.failures + 1
        self.hopeless = hopeless
        self.reason = reason[:_LONGEST_REASON]
        first = 1 if hopeless else FAILURES_TO_PAUSE
        if self.failures < first:
            delay_s = FIRST_DELAY_S * 2.0 ** (self.failures - 1)
        else:
            delay_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(10, self.failures - first))
        self.retry_at = now + delay_s
        self._save(now)
        return delay_s

    def came(self, now: float) -> None:
        """Workers of a block have come; whether they are of any use is another question."""
        if not self.proven:
            self.proven = True
            self._save(now)

    def worked(self, now: float) -> None:
        """Tasks were answered since the last failure: failures count from the beginning."""
        if self.failures:
            self._clear()
            self._save(now)

    def pause(self, now: float) -> None:
        """Ask for no more blocks until `resume`."""
        self.by_hand = True
        self._save(now)

    def resume(self, now: float) -> None:
        """Forget failures and pauses."""
        self._clear()
        self.by_hand = False
        self._save(now)

    # -- what follows --------------------------------------------------------------------------

    @property
    def tripped(self) -> bool:
        """Whether several blocks in a row failed, or one without hope for the next."""
        return self.failures >= FAILURES_TO_PAUSE or self.hopeless

    def wait_s(self, now: float) -> float:
        """Seconds until a block may be submitted; 0 when now."""
        return max(0.0, self.retry_at - now)

    def may_try(self, now: float, untried: int) -> bool:
        """Whether another block may be submitted now.

        Until workers of some block have come, not more are tried than would be too many failures;
        after a failure, so many fewer.

        Args:
            now: Clock value in seconds.
            untried: Blocks that were submitted and whose workers have not come.
        """
        if self.by_hand or self.wait_s(now) > 0:
            return False
        if self.proven and not self.failures:
            return True
        return untried < max(1, FAILURES_TO_PAUSE - self.failures)

    def describe(self, now: float) -> dict[str, Any]:
        """The breaker for `status` and `blocks`."""
        waits = self.wait_s(now)
        paused = self.by_hand or (self.tripped and waits > 0)
        return {
            "paused": paused,
            "by": "" if not paused else "hand" if self.by_hand else "failures",
            "failures": self.failures,
            "reason": self.reason,
            "retry_in_s": None if self.by_hand or not waits else round(waits),
        }

    # -- the file ------------------------------------------------------------------------------

    def load(self, now: float) -> None:
        """Take over what an earlier life has kept; nothing when it was about something else."""
        if self._file is None:
            return
        try:
            kept = json.loads(self._file.read_text(encoding="utf-8"))
            self.by_hand = bool(kept["by_hand"])
            if kept["fingerprint"] != self._fingerprint:
                return
            self.failures = max(0, int(kept["failures"]))
            self.hopeless = bool(kept.get("hopeless", False))
            self.reason = str(kept["reason"])[:_LONGEST_REASON]
            self.proven = bool(kept["proven"])
            left_s = float(kept["retry_at"]) - self._wall()
            self.retry_at = now + min(max(0.0, left_s), LONGEST_PAUSE_S)
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
            log.warning(
                "%s cannot be read, so blocks are counted anew: %s",
                self._file,
                error,
                extra={"event": "blocks.breaker-unreadable"},
            )

    def _save(self, now: float) -> None:
        if self._file is None:
            return
        content = {
            "fingerprint": self._fingerprint,
            "failures": self.failures,
            "hopeless": self.hopeless,
            "reason": self.reason,
            "proven": self.proven,
            "by_hand": self.by_hand,
            "retry_at": self._wall() + self.wait_s(now),
        }
        try:
            replace_text(self._file, json.dumps(content), synced=False)
        except OSError as error:
            log.warning(
                "%s cannot be written: %s",
                self._file,
                error,
                extra={"event": "blocks.breaker-unwritten"},
            )
