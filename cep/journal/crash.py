"""Named moments at which a test may kill the process; in production nothing happens there.

A test's own entry module replaces `reach` before it starts the agent. Nothing here reads the
environment or a file, so an installed agent cannot be made to die this way. Runs on whichever
thread reaches the point, today always the agent's main thread.
"""

from __future__ import annotations

from collections.abc import Callable

# Every point, in the order in which a task passes them. `X-before-commit` stands before anything
# of the transaction is written, `X-committed` right after it is on disk, both only when the
# transaction holds something of the kind X.
POINTS = (
    "journal-created",  # the new database is written, but not yet under its name
    "accepted-before-commit",
    "given-before-commit",
    "finished-before-commit",
    "settled-before-commit",
    "body-half-written",  # a large body's file holds one half
    "bodies-written",  # all files of the transaction are on disk, no row names them yet
    "rows-written",  # inside the transaction, before COMMIT
    "accepted-committed",
    "given-committed",
    "finished-committed",
    "settled-committed",
    "bodies-removed",  # the files that nobody needs any more are gone, or about to be
    "compact-vacuumed",  # pages given back, write-ahead log not yet truncated
    "compacted",
)

# And the points of a migration, which a journal passes once in a version's life.
MIGRATION_POINTS = (
    "copy-written",  # the copy of the old journal is whole, but not yet under its name
    "copied",
    "step-before-commit",
    "step-committed",
    "migrated",  # the write-ahead log is in the database
)


def _nothing(name: str) -> None:
    """Do nothing: what `reach` is outside tests."""


reach: Callable[[str], None] = _nothing
