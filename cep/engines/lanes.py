"""One pipe per worker of a pool, so that a killed worker costs only the task it was running.

Parsl's pool shares one queue and its lock among all workers: a worker that is killed while it
waits keeps the lock, and the others wait for ever. Here each worker has a lane of its own; the
pool knows by it which worker has which task and, from the end of the pipe, that a worker died.

`Lanes` stands in for three parts of Parsl's manager: its task scheduler, its queue of waiting
tasks and its queue of results. Its methods may be called from any thread of the pool's process.
`WorkerLane` is the worker's end.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from multiprocessing import connection
from typing import Any

from cep.engines import ahead

_GREETING = b""


class WorkerLane:
    """The worker's end of a lane: a queue of tasks and a queue of results in one."""

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe = pipe
        self._greeted = False

    def greet(self) -> None:
        """Tell the pool, once, that this worker is up; only then it is given tasks."""
        if not self._greeted:
            self._greeted = True
            self._pipe.send_bytes(_GREETING)

    def get(self, timeout: float | None = None) -> Any:
        """Wait for the next task.

        Raises:
            queue.Empty: None came in time.
            SystemExit: The pool is gone.
        """
        try:
            self.greet()
            if not self._pipe.poll(timeout):
                raise queue.Empty
            return self._pipe.recv()
        except (EOFError, OSError):
            raise SystemExit(0) from None

    def put(self, result: bytes) -> None:
        """Send a result message, packed."""
        self._pipe.send_bytes(result)

    def close(self) -> None:
        """Close this copy of the worker's end."""
        self._pipe.close()


class Lanes:
    """The pool's ends of all lanes.

    Args:
        lost_message: Makes the packed message for a task (by its number) whose worker died.
        worker_died: Called with the worker's rank, and whether it had ever come up, after its
            lane broke; on the waiting thread.
    """

    def __init__(
        self, lost_message: Callable[[int, int], bytes], worker_died: Callable[[int, bool], None]
    ) -> None:
        self._lost_message = lost_message
        self._worker_died = worker_died
        self._lock = threading.Lock()
        self._pipes: dict[int, connection.Connection] = {}
        self._running: dict[int, int] = {}  # rank -> number of the task it has
        self._up: set[int] = set()
        self._idle: list[int] = []
        self._waiting: deque[dict[str, Any]] = deque()
        self._ready: deque[bytes | None] = deque()
        self._wake_read, self._wake_write = os.pipe()

    def open(self, rank: int) -> WorkerLane:
        """Make the lane of a worker that is about to start."""
        ours, theirs = connection.Pipe()
        with self._lock:
            self._pipes[rank] = ours
        self._wake()
        return WorkerLane(theirs)

    # -- Parsl's task scheduler and waiting queue ------------------------------------------------

    def put_task(self, task: dict[str, Any]) -> None:
        """Give a task to an idle worker, or keep it until there is one.

        In the place of a task may come the request to hand back those sent ahead.
        """
        with self._lock:
            if ahead.asks_back(task):
                self._hand_back()
                return
            self._waiting.append(task)
            self._feed()

    def qsize(self) -> int:
        """Tasks that wait for a worker."""
        return len(self._waiting)

    def get_result(self, block: bool = True, timeout: float | None = None) -> bytes | None:
        """Wait for the next packed result; None when the pool ends."""
        del block, timeout
        while not self._ready:
            self._collect()
        return self._ready.popleft()

    # -- Parsl's result queue --------------------------------------------------------------------

    def put(self, result: bytes | None) -> None:
        """Queue a message as if a worker had sent it."""
        self._ready.append(result)
        self._wake()

    # -- inside ----------------------------------------------------------------------------------

    def _wake(self) -> None:
        os.write(self._wake_write, b"w")

    def _feed(self) -> None:
        """Hand waiting tasks to idle workers. The lock is held."""
        while self._waiting and self._idle:
            task = self._waiting.popleft()
            if ahead.is_late(task):
                self.put(ahead.handed_back(task))
                continue
            rank = self._idle.pop()
            self._running[rank] = task["task_id"]
            try:
                self._pipes[rank].send(task)
            except OSError:
                # The worker died; what it was given is lost with it, when its lane is read.
                continue

    def _hand_back(self) -> None:
        """Hand back the waiting tasks that were sent ahead. The lock is held."""
        kept = [task for task in self._waiting if not ahead.is_ahead(task)]
        back = [task for task in self._waiting if ahead.is_ahead(task)]
        self._waiting = deque(kept)
        for task in back:
            self.put(ahead.handed_back(task))

    def _collect(self) -> None:
        by_pipe = {pipe: rank for rank, pipe in list(self._pipes.items())}
        for ready in connection.wait([*by_pipe, self._wake_read]):
            if ready == self._wake_read:
                os.read(self._wake_read, 4096)
                continue
            pipe = ready
            assert isinstance(pipe, connection.Connection)
            self._receive(by_pipe[pipe], pipe)

    def _receive(self, rank: int, pipe: connection.Connection) -> None:
        try:
            result = pipe.recv_bytes()
        except (EOFError, OSError):
            self._lose(rank, pipe)
            return
        if result != _GREETING:
            self._ready.append(result)
        with self._lock:
            self._up.add(rank)
            self._running.pop(rank, None)
            self._idle.append(rank)
            self._feed()

    def _lose(self, rank: int, pipe: connection.Connection) -> None:
        with self._lock:
            pipe.close()
            del self._pipes[rank]
            if rank in self._idle:
                self._idle.remove(rank)
            task = self._running.pop(rank, None)
            came_up = rank in self._up
            self._up.discard(rank)
        if task is not None:
            self._ready.append(self._lost_message(task, rank))
        self._worker_died(rank, came_up)
