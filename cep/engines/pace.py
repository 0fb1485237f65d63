"""How tasks may travel: learned from the run times of each function.

A task alone costs a fixed effort on its way to a worker, so tiny tasks go together, up to 20 ms of
expected work. A function counts as tiny after 20 runs of which none took 5 ms; one slow run starts
the count again. In the same way a function counts as short while no run takes 200 ms: the way of
its tasks to a worker is worth shortening, and none waits long behind one. Not thread-safe: one
owner per object.
"""

from __future__ import annotations

from collections import OrderedDict

DISPATCH_S = 0.020  # expected work that may travel together
_TINY_S = 0.005
_SHORT_S = 0.2  # the way to a worker takes less than a hundredth of what is longer
_RUNS = 20
_LARGEST = 64  # tasks that travel together at most
_FUNCTIONS = 1000  # functions remembered


class Pace:
    """Run times per function.

    Args:
        enabled: The engine's `coalesce` key; when false every size is 1, and nothing is short.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        # function -> tiny runs and short runs since one that was not, mean seconds
        self._known: OrderedDict[str, tuple[int, int, float]] = OrderedDict()

    def ran(self, function_id: str, seconds: float) -> None:
        """Note how long a run took."""
        if not self._enabled:
            return
        tiny, short, mean = self._known.pop(function_id, (0, 0, seconds))
        tiny = tiny + 1 if seconds < _TINY_S else 0
        short = short + 1 if seconds < _SHORT_S else 0
        mean += (seconds - mean) / min(max(tiny, 1), _RUNS)
        self._known[function_id] = (tiny, short, mean)
        if len(self._known) > _FUNCTIONS:
            self._known.popitem(last=False)

    def size(self, function_id: str) -> int:
        """Return how many tasks of this function may travel together: 1 to 64, a power of two."""
        tiny, _, mean = self._known.get(function_id, (0, 0, 0.0))
        if tiny < _RUNS:
            return 1
        fitting = int(DISPATCH_S / max(mean, DISPATCH_S / _LARGEST))
        return 1 << (max(1, min(fitting, _LARGEST)).bit_length() - 1)

    def short(self, function_id: str) -> bool:
        """Return whether this function has proved short."""
        _, short, _ = self._known.get(function_id, (0, 0, 0.0))
        return short >= _RUNS
