"""Writes the log from a thread of its own, so that a disk that hangs stops nobody who logs.

Everybody only puts into a queue; one thread writes. A log file may lie on a network file system: if
the thread that talks to the broker had to wait for it, the broker would close the connection.
"""

from __future__ import annotations

import logging
import logging.handlers
import queue
import threading

# Lines kept while the disk does not answer; at some 300 bytes each these are 3 MB.
KEPT_LINES = 10_000
FLUSH_S = 2.0  # at an end, the longest wait for lines that are not yet written


class LogWriter(logging.handlers.QueueHandler):
    """Takes records from any thread and gives them to a handler that may block.

    Args:
        target: Writes the records, on this writer's thread alone.

    Attributes:
        target: The same.
    """

    def __init__(self, target: logging.Handler) -> None:
        self._lines: queue.SimpleQueue[logging.LogRecord | threading.Event] = queue.SimpleQueue()
        super().__init__(self._lines)
        self.target = target
        self._dropped = 0
        # A daemon: a disk that hangs must not keep the process from ending.
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a record in line, or count it as dropped when the line is too long."""
        if self._lines.qsize() >= KEPT_LINES:
            self._dropped += 1
            return
        if self._dropped:
            self._lines.put(missing(self._dropped, "the log's disk did not answer"))
            self._dropped = 0
        self._lines.put(record)

    def flush(self) -> None:
        """Wait until what was logged before is written, but not for a disk that hangs."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(FLUSH_S)

    def close(self) -> None:
        """Write what is left; called at the end of the process."""
        self.flush()
        super().close()

    def _write(self) -> None:
        while True:
            item = self._lines.get()
            if isinstance(item, threading.Event):
                item.set()
            else:
                self.target.handle(item)


def missing(lines: int, why: str) -> logging.LogRecord:
    """Return a record that says how many lines are missing before it."""
    text = "%d lines are missing here: %s"
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lines, why), None)
