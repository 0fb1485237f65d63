"""The task time-out: an exception raised in the task's thread when its time is up.

`GC_TASK_TIMEOUT` (seconds) works as with the published endpoint: a timer thread asks the
interpreter to raise in the task's thread, so a task inside one long C call ends after that call.
"""

from __future__ import annotations

import ctypes
import threading
from types import TracebackType


class AppTimeout(Exception):
    """A task ran longer than GC_TASK_TIMEOUT."""


# Users and scripts look for the name the published endpoint shows in the traceback.
AppTimeout.__module__ = "parsl.app.errors"


def _raise_in(thread_id: int, exception: type[BaseException] | None) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread_id), None if exception is None else ctypes.py_object(exception)
    )


class TimeLimit:
    """A context in which this thread gets `AppTimeout` after some seconds.

    An exception that is due but not yet raised when the context ends is taken back, so it cannot
    hit the next task.

    Args:
        seconds: More than zero.
    """

    def __init__(self, seconds: float) -> None:
        self._thread_id = threading.get_ident()
        self._lock = threading.Lock()
        self._over = False
        self._timer = threading.Timer(seconds, self._fire)
        self._timer.daemon = True

    def _fire(self) -> None:
        with self._lock:
            if not self._over:
                _raise_in(self._thread_id, AppTimeout)

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._over = True
        self._timer.cancel()
        _raise_in(self._thread_id, None)
