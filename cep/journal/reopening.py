"""Compare an opened-anew database with what the journal remembers.

After a failed commit nobody knows whether its rows reached the disk. Memory is right about what
should be there: rows that it does not know are deleted with the next commit (their tasks went back
to the broker, and must not run from here as well); rows that it misses mean that this is another
file, or an older state of it. Owns no state; runs on the agent's main thread.
"""

from __future__ import annotations

from collections.abc import Set

from cep.errors import JournalError
from cep.journal.batch import Batch
from cep.journal.memory import Memory


def compare(tasks: Set[int], results: Set[int], memory: Memory, batch: Batch) -> None:
    """Mark rows that nobody knows for deletion.

    Args:
        tasks: Numbers of the tasks on disk.
        results: Numbers of the results on disk.
        memory: What the journal remembers, the uncommitted batch included.
        batch: What is not committed, or perhaps is.

    Raises:
        JournalError: Rows that were committed are not there.
    """
    unfinished, unsent = set(), set()
    for seq, live in memory.live.items():
        if not live.committed:
            continue
        if not live.finished:
            unfinished.add(seq)
        elif seq not in batch.results:
            unsent.add(seq)
    missing = len(unfinished - tasks) + len(unsent - results)
    if missing:
        raise JournalError(
            f"The journal has lost {missing} tasks and results that were committed: its file was "
            "replaced, or set back, while the agent worked. Restore it before the next start."
        )
    batch.finished += sorted(tasks - unfinished - batch.accepted.keys() - set(batch.finished))
    batch.settled += sorted(results - unsent - batch.results.keys() - set(batch.settled))
