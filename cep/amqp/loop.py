"""The AMQP thread: one pika I/O loop that runs every link of the process.

`AmqpLoop` owns the thread and the loop. Anything that touches a link runs in it: other threads hand
functions over with `call`, which wakes the loop; nothing polls.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from pika.adapters.select_connection import IOLoop

log = logging.getLogger(__name__)

JOIN_AT_LEAST_S = 5.0


class AmqpLoop:
    """One thread named `amqp` with one I/O loop. `stop()` closes both."""

    def __init__(self) -> None:
        self._ioloop: Any = None
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._guard = threading.Lock()
        self._early: list[Callable[[], None]] = []  # calls before the start

    def start(self) -> None:
        """Start the thread; a second call does nothing."""
        with self._guard:
            if self._thread is not None:
                return
            quieten_pika()
            self._ioloop = IOLoop()
            for function in self._early:
                self._ioloop.add_callback_threadsafe(_guarded(function))
            self._early.clear()
            self._thread = threading.Thread(target=self._run, name="amqp", daemon=False)
            self._thread.start()

    @property
    def ioloop(self) -> Any:
        """pika's loop; only code that already runs in the AMQP thread may use it."""
        return self._ioloop

    def call(self, function: Callable[[], None]) -> None:
        """Run a function in the AMQP thread, soon and in order of calls; from any thread.

        Before `start()` it waits for the start. A stopped loop drops it: its links are closed and
        there is nothing left to do.
        """
        with self._guard:
            if self._stopping:
                log.debug("a call after the end of the AMQP loop is dropped")
            elif self._thread is None:
                self._early.append(function)
            else:
                self._ioloop.add_callback_threadsafe(_guarded(function))

    def call_later(self, delay_s: float, function: Callable[[], None]) -> Any:
        """Run a function after a while; only from the AMQP thread.

        With 0 s it runs at the end of the present turn, after all that was ready was read.

        Returns:
            A handle for `cancel`.
        """
        return self._ioloop.call_later(delay_s, _guarded(function))

    def cancel(self, handle: Any) -> None:
        """Take a delayed call back; only from the AMQP thread."""
        self._ioloop.remove_timeout(handle)

    def stop(self, deadline_s: float) -> None:
        """End the thread. Stop the links first: what is still open is cut off.

        Args:
            deadline_s: Seconds to wait for the thread; at least a few are allowed in any case.
        """
        with self._guard:
            thread = self._thread
            if thread is None or self._stopping:
                return
            self._stopping = True
            self._ioloop.add_callback_threadsafe(self._ioloop.stop)
        thread.join(max(deadline_s, JOIN_AT_LEAST_S))
        if thread.is_alive():
            log.error("the AMQP thread does not end", extra={"event": "amqp.stuck"})

    def _run(self) -> None:
        while True:
            try:
                self._ioloop.start()
            except Exception:
                # pika raised outside of our own callbacks; the link concerned notices by itself.
                log.exception("the AMQP loop goes on", extra={"event": "amqp.loop_error"})
            if self._stopping:
                break
        # Let what was aborted just now close its sockets.
        for _ in range(3):
            self._ioloop.process_timeouts()
        self._ioloop.close()


def _guarded(function: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            function()
        except Exception:
            log.exception("a call in the AMQP thread failed", extra={"event": "amqp.call_error"})

    return run


def quieten_pika() -> None:
    """Keep pika's own log lines out: the link says the same once, in a sentence of its own.

    pika writes an error with a traceback for every failed try, and a link tries for ever. Someone
    who has set a level for `pika` keeps it.
    """
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
