"""How much is measured: the whole benchmark, and the quick form of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of one run.

    Attributes:
        rounds: How often the main table's figures are measured again, from the start on.
        turns: How often in each round for ours and the echo beside it.
        burst: No-op tasks published to an idle endpoint.
        bursts: How often, one after another, in each life of an endpoint; payloads of 1 MB as well.
        backlog: No-op tasks that wait before the echo or our endpoint starts; 0 leaves that out.
        published_backlog: The same of the published endpoints.
        singles: Tasks sent one at a time to endpoints that answer within milliseconds.
        slow_singles: The same to those that need half a second for each.
        large: Tasks with a payload of 1 MB.
        naps: Tasks of 50 ms for GlobusComputeEngine; a multiple of the workers.
        settle_s: Idle seconds before memory is read.
        idle_s: Seconds over which an idle endpoint's CPU time is read.
        commands: Runs of each command that only talks.
        overhead: No-ops through a worker's wrapper alone.
        queue_lengths: Of the series over the length of the queue; may be empty. Of the published
            endpoints only those up to `published_backlog`.
        payload_bytes: Of the series over the size of the payload; may be empty.
        worker_counts: Of the series over the number of workers; may be empty.
    """

    rounds: int
    turns: int
    burst: int
    bursts: int
    backlog: int
    published_backlog: int
    singles: int
    slow_singles: int
    large: int
    naps: int
    settle_s: float
    idle_s: float
    commands: int
    overhead: int
    queue_lengths: tuple[int, ...] = ()
    payload_bytes: tuple[int, ...] = ()
    worker_counts: tuple[int, ...] = ()


# Takes half an hour. Figures that hardly move are measured in the first round only.
FULL = Sizes(
    rounds=2,
    turns=2,
    burst=10_000,
    bursts=2,
    backlog=50_000,
    published_backlog=20_000,
    singles=300,
    slow_singles=12,
    large=30,
    naps=1_000,
    settle_s=5.0,
    idle_s=60.0,
    commands=5,
    overhead=20_000,
    queue_lengths=(10_000, 200_000),
    payload_bytes=(1_000, 10_000, 100_000, 1_000_000),
    worker_counts=(1, 2, 4, 8),
)
# Shows that everything works and what is grossly wrong. Its bursts are so short that the half
# second for which the published endpoints wait weighs more than it does in the full form.
QUICK = Sizes(
    rounds=1,
    turns=1,
    burst=3_000,
    bursts=1,
    backlog=0,
    published_backlog=0,
    singles=100,
    slow_singles=2,
    large=10,
    naps=100,
    settle_s=1.0,
    idle_s=10.0,
    commands=3,
    overhead=3_000,
)
# Each part once and as small as can be: whether it works, table, pictures and all; no figures.
TRIAL = Sizes(
    rounds=1,
    turns=1,
    burst=200,
    bursts=1,
    backlog=300,
    published_backlog=300,
    singles=10,
    slow_singles=2,
    large=2,
    naps=8,
    settle_s=0.1,
    idle_s=1.0,
    commands=1,
    overhead=200,
    queue_lengths=(300, 600),
    payload_bytes=(1_000, 100_000),
    worker_counts=(1, 2),
)
