"""What one commit will write: plain containers, filled by the journal between two commits.

Owns nothing on disk; runs on the agent's main thread.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cep.model import Task


@dataclass(slots=True)
class Batch:
    """Changes that are in memory only; each kind is keyed by the sequence number.

    Attributes:
        accepted: Tasks to insert.
        marks: (attempts, given) of tasks handed to an engine or handed back.
        results: (id, result) to insert.
        finished: Tasks on disk whose rows go, because their result comes in.
        settled: Results on disk whose rows go.
        tombstones: (id, moment) to insert.
        dropped: Tombstones on disk to delete.
    """

    accepted: dict[int, Task] = field(default_factory=dict)
    marks: dict[int, tuple[int, bool]] = field(default_factory=dict)
    results: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    finished: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    tombstones: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)

    def kinds(self) -> list[str]:
        """Return the names of the kinds of change this batch holds, in the order of a task's life.

        An empty list means that there is nothing to write.
        """
        kinds = []
        if self.accepted:
            kinds.append("accepted")
        if self.marks:
            kinds.append("given")
        if self.results or self.finished:
            kinds.append("finished")
        if self.settled or self.tombstones or self.dropped:
            kinds.append("settled")
        return kinds
