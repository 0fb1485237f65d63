"""How tasks may travel: learned from the run times of each function.

A task alone costs a fixed effort on its way to a worker, so tiny tasks go together, up to 20 ms of
expected work. A function counts as tiny after 20 runs of which none took 5 ms; one slow run starts
the count again. In the same way a function counts as short while no run takes 200 ms: the way of
its tasks to a worker is worth shortening, and none waits long behind one. Not thread-safe: one
owner per object.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

DISPATCH_S = 0.020  # expected work that may travel together
_TINY_S = 0.005
_SHORT_S = 0.2  # the way to a worker takes less than a hundredth of what is longer
_RUNS = 20
_LARGEST = 64  # tasks that travel together at most; a power of two
_AS_GOOD_AS_NOTHING_S = DISPATCH_S / _LARGEST
_FUNCTIONS = 1000  # functions remembered


@dataclass(slots=True)
class _Runs:
    """What is known of one function.

    Attributes:
        mean: Of its run times, the late ones counting more, in seconds.
        tiny: Runs since one that was not tiny.
        short: Runs since one that was not short.
    """

    mean: float
    tiny: int = 0
    short: int = 0

    def size(self) -> int:
        if self.tiny < _RUNS:
            return 1
        if self.mean <= _AS_GOOD_AS_NOTHING_S:
            return _LARGEST
        return 1 << (max(1, int(DISPATCH_S / self.mean)).bit_length() - 1)


class Pace:
    """Run times per function.

    Args:
        enabled: The engine's `coalesce` key; when false every size is 1, and nothing is short.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._known: OrderedDict[str, _Runs] = OrderedDict()

    def ran(self, function_id: str, seconds: float) -> int:
        """Note how long a run took.

        Returns:
            How many tasks of this function may travel together from now on; see `size`.
        """
        if not self._enabled:
            return 1
        runs = self._known.get(function_id)
        if runs is None:
            runs = self._known[function_id] = _Runs(seconds)
            if len(self._known) > _FUNCTIONS:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(function_id)
        runs.tiny = runs.tiny + 1 if seconds < _TINY_S else 0
        runs.short = runs.short + 1 if seconds < _SHORT_S else 0
        runs.mean += (seconds - runs.mean) / min(max(runs.tiny, 1), _RUNS)
        return runs.size()

    def size(self, function_id: str) -> int:
        """Return how many tasks of this function may travel together: 1 to 64, a power of two."""
        runs = self._known.get(function_id)
        return 1 if runs is None else runs.size()

    def short(self, function_id: str) -> bool:
        """Return whether this function has proved short."""
        runs = self._known.get(function_id)
        return runs is not None and runs.short >= _RUNS
