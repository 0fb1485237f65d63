"""How long a run of the fault tests is, and its seed.

`LONG=1` in the environment asks for the long schedules, `SEED=n` for the plans of a seed; without
it each run draws a new one, which is printed at its end.
"""

from __future__ import annotations

import os
import random

LONG = bool(os.environ.get("LONG"))
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
