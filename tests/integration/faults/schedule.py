"""A plan of faults from one seed: the same seed gives the same plan, on every machine.

A plan is data only: sittings (one endpoint with one engine each), and in each its steps (one
fault each, with the tasks that are submitted around it). What the names mean is in `faults.py`;
who carries a plan out is `runner.py`. A plan fixes what is done and when, counted in answers and
arrivals; what the machine makes of it (which task a killed worker had) is never the same twice.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from cep.journal import crash

ENGINES = ("threads", "processes", "htex")
# An endpoint with HTEX takes seconds to start, so it gets fewer of the faults that all can have.
ENGINE_WEIGHTS = {"threads": 2, "processes": 2, "htex": 1}
WITH_PROCESSES = ("processes", "htex")

# Where the agent can be made to end itself: every commit point that it passes again and again.
AGENT_POINTS = ("acknowledged", "published", "handed-over")
# Reached once in a life: at the first start, or with a heartbeat.
ONCE = ("journal-created", "compact-vacuumed", "compacted")
# Reached only with bodies that the journal keeps in files of their own.
WITH_LARGE_BODIES = ("body-half-written", "bodies-written", "bodies-removed")
LARGE = 100_000  # bytes, such a body
POINTS = tuple(point for point in (*crash.POINTS, *AGENT_POINTS) if point not in ONCE)

KILL, BROKER, NETWORK, OTHER = "kill", "broker", "network", "other"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        name: As in the table.
        group: What it counts as: a kill, a broker fault, ...
        engines: Engines that can suffer it.
        weight: How often it is drawn in a long plan; those that take long are drawn less.
    """

    name: str
    group: str
    engines: Sequence[str] = ENGINES
    weight: int = 1


# A change here, or in what is drawn below, gives every seed another plan.
KINDS = (
    Kind("agent killed", KILL, weight=5),
    Kind("agent killed at a commit point", KILL, weight=9),
    Kind("agent killed, two started at once", KILL),
    Kind("agent killed while it drains", KILL),
    Kind("worker killed", KILL, WITH_PROCESSES, weight=8),
    Kind("pool process killed", KILL, ("processes",), weight=3),
    Kind("HTEX interchange killed", KILL, ("htex",), weight=3),
    Kind("HTEX manager killed", KILL, ("htex",), weight=3),
    Kind("SIGTERM in the middle", OTHER, weight=2),
    Kind("second agent for the endpoint", OTHER),
    Kind("agent suspended past the heartbeat", OTHER),
    Kind("broker stopped and started", BROKER, weight=2),
    Kind("broker killed", BROKER, weight=2),
    Kind("connections closed by the broker", BROKER, weight=4),
    Kind("channel closed by a protocol error", BROKER, weight=4),
    Kind("memory alarm", BROKER),
    Kind("disk alarm", BROKER),
    Kind("consumer time-out", BROKER),
    Kind("network cut", NETWORK, weight=2),
    Kind("network cut in a frame", NETWORK, weight=2),
    Kind("network cut before our acks", NETWORK, weight=2),
    Kind("network cut before the confirms", NETWORK, weight=2),
    Kind("network half open", NETWORK),
    Kind("network slow", NETWORK),
)
# The same, seen from a client behind a real hub.
HUB_KINDS = (
    Kind("hub killed", KILL, weight=2),
    Kind("hub: agent killed", KILL),
    Kind("hub: agent killed at a commit point", KILL, weight=2),
    Kind("hub: network cut", NETWORK),
    Kind("hub: network cut before the confirms", NETWORK, weight=2),
)
SLOW_PAIRS = (
    ("broker stopped and started", "broker killed"),
    ("network half open", "consumer time-out"),
    ("memory alarm", "disk alarm"),
    ("agent killed, two started at once", "agent killed while it drains"),
)


@dataclass(frozen=True, slots=True)
class Step:
    """One fault and the tasks around it.

    Attributes:
        fault: Its name in `KINDS`.
        tasks: How many are submitted, about two thirds before it and the rest while it lasts.
        after: It comes after so many of their answers.
        pause_ms: And so many milliseconds.
        lasts_ms: How long a fault lasts that can be ended at will.
        task_ms: How long each function takes.
        filling: Bytes of argument that each task carries.
        point: Named point of the agent, for a fault that needs one.
        arrival: The how manieth arrival there.
        pick: A number that chooses among what can be hit (workers, connections).
    """

    fault: str
    tasks: int
    after: int
    pause_ms: int
    lasts_ms: int
    task_ms: int
    filling: int
    point: str
    arrival: int
    pick: int


@dataclass(frozen=True, slots=True)
class Sitting:
    """One endpoint, started once, and its steps.

    Attributes:
        engine: A name of `ENGINES`.
        retries: `max_retries_on_system_failure`; above 0 with `on_restart: retry`.
        steps: In this order.
    """

    engine: str
    retries: int
    steps: Sequence[Step]


def step_of(kind: Kind, chance: random.Random, tasks: int) -> Step:
    """Draw everything about one fault."""
    point = chance.choice(POINTS)
    large = kind.name.endswith("at a commit point") and point in WITH_LARGE_BODIES
    return Step(
        fault=kind.name,
        tasks=tasks,
        after=chance.randrange(1, max(2, tasks // 3)),
        pause_ms=chance.choice((0, 0, 3, 10, 30)),
        lasts_ms=chance.randrange(50, 800),
        task_ms=chance.choice((0, 2, 5, 10)),
        filling=LARGE if large else chance.choice((0, 0, 0, 1000)),
        point=point,
        arrival=chance.choice((1, 1, 2, 3)),
        pick=chance.randrange(1_000_000),
    )


def short_plan(seed: int) -> list[Sitting]:
    """Each kind of fault once, but for `SLOW_PAIRS`, spread over the engines; a minute's work."""
    chance = random.Random(f"short {seed}")
    drawn: dict[str, list[Step]] = {engine: [] for engine in ENGINES}
    # These take long, so a short plan has one of each pair.
    left_out = {chance.choice(pair) for pair in SLOW_PAIRS}
    for kind in KINDS:
        if kind.name in left_out:
            continue
        engine = min(kind.engines, key=lambda name: (len(drawn[name]), chance.random()))
        drawn[engine].append(step_of(kind, chance, tasks=60))
    return _sittings(drawn, chance)


def long_plan(seed: int, *, tasks: int = 80) -> list[Sitting]:
    """A fifth of the long schedule: over 40 kills, over 10 broker faults, over 4,000 tasks."""
    chance = random.Random(f"long {seed}")
    drawn: dict[str, list[Step]] = {engine: [] for engine in ENGINES}
    for group, number in ((KILL, 42), (BROKER, 12), (NETWORK, 8), (OTHER, 4)):
        kinds = [kind for kind in KINDS if kind.group == group]
        once = kinds[: number if group == KILL else len(kinds)]
        more = chance.choices(kinds, [kind.weight for kind in kinds], k=max(0, number - len(once)))
        for kind in [*once, *more]:
            weights = [ENGINE_WEIGHTS[engine] for engine in kind.engines]
            (engine,) = chance.choices(kind.engines, weights)
            drawn[engine].append(step_of(kind, chance, tasks))
    return _sittings(drawn, chance)


def hub_plan(seed: int, number: int) -> Sitting:
    """So many faults at an endpoint behind a hub, each kind at least once."""
    chance = random.Random(f"hub {seed}")
    weights = [kind.weight for kind in HUB_KINDS]
    more = chance.choices(HUB_KINDS, weights, k=max(0, number - len(HUB_KINDS)))
    steps = [step_of(kind, chance, tasks=60) for kind in (*HUB_KINDS, *more)]
    chance.shuffle(steps)
    return Sitting("threads", 0, tuple(steps))


def _sittings(drawn: dict[str, list[Step]], chance: random.Random) -> list[Sitting]:
    sittings = []
    for engine, steps in drawn.items():
        chance.shuffle(steps)
        retries = chance.choice((0, 0, 2))
        sittings.append(Sitting(engine, retries, tuple(steps)))
    return sittings
