"""What a worker process has been given and not begun.

Of tasks that came together each one begins with a claim, since the engine may claim it first: to
give it to a worker with nothing to do, or because it was cancelled.
"""

from __future__ import annotations

import os
import socket
from collections import deque

from cep.worker import packets
from cep.worker.packets import TaskPacket


class Inbox:
    """Takes one task after the other.

    Args:
        sock: The worker's end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._together: deque[TaskPacket] = deque()  # of one packet
        self._claims: int | None = None

    def take(self, flags: int = 0) -> TaskPacket | None:
        """Return the task that is to begin now, None when the engine is gone or wants the end.

        Raises:
            BlockingIOError: None is there and the call may not wait.
        """
        while True:
            task = self._claimed()
            if task is not None:
                return task
            packet, handles = packets.receive(self._sock, flags)
            if not packet or packet == packets.EXIT:
                return None
            tasks, self._claims = packets.read_tasks(packet, handles)
            if self._claims is None:
                return tasks[0]
            self._together.extend(tasks)

    def _claimed(self) -> TaskPacket | None:
        """Return the next of those that came together, if it is still ours."""
        if self._claims is None:
            return None
        if self._together and packets.claim(self._claims):
            return self._together.popleft()
        self._together.clear()  # they belong to the engine again
        os.close(self._claims)
        self._claims = None
        return None
