"""How many tasks may travel together: learned from the run times of each function.

A task alone costs a fixed effort on its way to a worker, so tiny tasks go together, up to 20 ms of
expected work. A function counts as tiny after 20 runs of which none took 5 ms; one slow run starts
the count again. Not thread-safe: one owner per object.
"""

from __future__ import annotations

from collections import OrderedDict

DISPATCH_S = 0.020  # expected work that may travel together
_TINY_S = 0.005
_RUNS = 20
_LARGEST = 64  # tasks that travel together at most
_FUNCTIONS = 1000  # functions remembered


class Pace:
    """Run times per function.

    Args:
        enabled: The engine's `coalesce` key; when false every size is 1.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()  # fast runs, mean seconds

    def ran(self, function_id: str, seconds: float) -> None:
        """Note how long a run took."""
        if not self._enabled:
            return
        runs, mean = self._known.pop(function_id, (0, seconds))
        if seconds >= _TINY_S:
            runs = 0
        else:
            runs += 1
        self._known[function_id] = (runs, mean + (seconds - mean) / min(max(runs, 1), _RUNS))
        if len(self._known) > _FUNCTIONS:
            self._known.popitem(last=False)

    def size(self, function_id: str) -> int:
        """Return how many tasks of this function may travel together: 1 to 64, a power of two."""
        runs, mean = self._known.get(function_id, (0, 0.0))
        if runs < _RUNS:
            return 1
        fitting = int(DISPATCH_S / max(mean, DISPATCH_S / _LARGEST))
        return 1 << (max(1, min(fitting, _LARGEST)).bit_length() - 1)
