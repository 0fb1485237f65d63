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
from cep.worker.slots import SlotWriter

_TOGETHER_S = 0.020
_TOGETHER_BYTES = packets.PACKET_LIMIT // 2


def work(sock: socket.socket, context: WorkerContext, slots: SlotWriter) -> None:
    """Run tasks until the engine says so or is gone.

    Args:
        sock: This worker's end, blocking.
        context: The engine's constants.
        slots: Where the begin of each task is noted.
    """
    sock.send(packets.hello(os.getpid()))
    waiting = _Waiting(sock)
    while True:
        packet, handles = waiting.next_packet()
        if not packet or packet == packets.EXIT:
            waiting.send()
            return
        task = packets.read_task(packet, handles)
        if not task.tiny:
            waiting.send()
        slots.begin(task.seq)
        began = time.monotonic()
        result = execute(task.body, task.task_id, context, task.result_serializers)
        seconds = time.monotonic() - began
        if len(result) > _TOGETHER_BYTES:
            packets.send_large_result(sock, task.seq, result, seconds)
        else:
            waiting.add(packets.result_record(task.seq, result, seconds), began)


class _Waiting:
    """Results that are not sent yet, because another tiny task was there already."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._records: list[bytes] = []
        self._size = 0
        self._since = 0.0

    def add(self, record: bytes, began: float) -> None:
        if not self._records:
            self._since = began
        self._records.append(record)
        self._size += len(record)

    def send(self) -> None:
        if self._records:
            self._sock.send(b"".join(self._records))
            self._records.clear()
            self._size = 0

    def next_packet(self) -> tuple[bytes, list[int]]:
        """Take what is there; wait only with nothing left to send."""
        if self._records:
            fresh = time.monotonic() - self._since < _TOGETHER_S
            if fresh and self._size < _TOGETHER_BYTES:
                try:
                    return packets.receive(self._sock, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
            self.send()
        return packets.receive(self._sock)
