"""What the journal says about itself: frozen values for the agent, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A task in the journal without a result.

    Attributes:
        seq: Its sequence number.
        task_id: UUID text.
        function_id: UUID text.
        size: Bytes of its body.
        attempts: How often it was handed to an engine and not handed back untouched.
        given: Whether it was in an engine's hands: possibly started.
    """

    seq: int
    task_id: str
    function_id: str
    size: int
    attempts: int
    given: bool


@dataclass(frozen=True, slots=True)
class Recovered:
    """What an opened journal holds.

    Attributes:
        unfinished: In order of acceptance.
        unsent: (seq, bytes) of results that no broker has confirmed, in order.
        tombstones: How many answered tasks are remembered.
        damaged: (seq, task id) of tasks or results whose body file somebody removed or cut; they
            are in neither list above, and wait for a `finish` with an error result.
    """

    unfinished: list[Unfinished]
    unsent: list[tuple[int, int]]
    tombstones: int
    damaged: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class JournalCounts:
    """How much is in the journal now, uncommitted changes included.

    Attributes:
        unfinished: Tasks without a result.
        unsent: Results without a confirm.
        tombstones: Remembered ids of answered tasks.
        unfinished_bytes: Bodies of the unfinished tasks.
        file_bytes: What the journal takes on disk.
    """

    unfinished: int
    unsent: int
    tombstones: int
    unfinished_bytes: int
    file_bytes: int
