"""A worker process of the process engine: takes a task, runs it, sends the result.

One thread, the process's main thread, so that user code may install signal handlers. Results of
tiny tasks are sent together while more tiny tasks wait, for at most 20 ms.
"""

from __future__ import annotations

import os
import socket
import time

from cep.worker import packets
from cep.worker.context import WorkerContext
from cep.worker.execute import execute
from cep.worker.inbox import Inbox
from cep.worker.packets import Stash, TaskPacket
from cep.worker.slots import SlotWriter

_TOGETHER_S = 0.020


def work(sock: socket.socket, stash: Stash, context: WorkerContext, slots: SlotWriter) -> None:
    """Run tasks until the engine says so or is gone.

    Args:
        sock: This worker's end, blocking.
        stash: Where results wait.
        context: The engine's constants.
        slots: Where the begin of each task is noted.
    """
    sock.send(packets.hello(os.getpid()))
    inbox = Inbox(sock)
    waiting_since = 0.0
    while True:
        task = _next(inbox, sock, stash, waiting_since)
        if task is None:
            stash.send(sock)
            return
        if not task.tiny:
            stash.send(sock)
        slots.begin(task.seq)
        began = time.monotonic()
        result = execute(task.body, task.task_id, context, task.result_serializers)
        seconds = time.monotonic() - began
        record = packets.result_record(task.seq, result, seconds)
        if len(record) > stash.LIMIT:
            packets.send_large_result(sock, task.seq, result, seconds)
            continue
        if not stash.size:
            waiting_since = began
        stash.add(record)


def _next(
    inbox: Inbox, sock: socket.socket, stash: Stash, waiting_since: float
) -> TaskPacket | None:
    """Take the task that is there; wait for one only with nothing left to send."""
    if stash.size:
        if stash.size < stash.LIMIT and time.monotonic() - waiting_since < _TOGETHER_S:
            try:
                return inbox.take(packets.NOW)
            except BlockingIOError:
                pass
        stash.send(sock)
    return inbox.take()
