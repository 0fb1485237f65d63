"""What travels between the process engine and its workers: bytes with small headers, never pickles.

Each worker has one pair of Unix sockets of the kind that keeps packets whole (SOCK_SEQPACKET). A
packet holds one task, some tiny tasks, or some results; what is too large for a packet travels in
an anonymous file whose descriptor rides along. Packets that the worker has not read yet can be
taken back by whoever holds its end of the pair. With some tasks in one packet rides a counter,
their *claims* (an eventfd): each of them begins with one claim, so that what the worker has read
and not begun can be taken back too, by claiming it first.

Pure functions, except that descriptors are made and consumed; used by agent and workers.
"""

from __future__ import annotations

import array
import math
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

PACKET_LIMIT = 64 * 1024  # bytes; some packets of this size fit a socket's default buffer
TOGETHER_LIMIT = PACKET_LIMIT // 2  # bytes of tasks that travel in one packet
MOST_WORKERS = 64  # of one command; the kernel passes at most 253 descriptors at once
EXIT = b"X"  # engine to worker: end yourself
_HELLO = struct.Struct("<cI")  # worker to engine: b"H" and the process id
# seq, length of id, of serializers, of body, body in a file, result may wait for others
_TASK = struct.Struct("<QBHIBB")
_ID_LENGTH = 36  # of a UUID's canonical text
_RESULT = struct.Struct("<QIfB")  # seq, length, seconds of run time, result in a file
_STASHED = struct.Struct("<I")  # bytes that follow
_STASH_SIZE = PACKET_LIMIT + _STASHED.size
_FDS = socket.CMSG_SPACE(struct.calcsize("i"))
# Plain numbers: to combine two of the enumeration's members takes longer than the call.
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
NOW = int(socket.MSG_DONTWAIT)


class TaskPacket(NamedTuple):
    """One task on its way to a worker.

    Attributes:
        seq: The journal's number.
        task_id: UUID text.
        result_serializers: Import paths, in order.
        body: The task message.
        tiny: It is expected to end at once, so earlier results may wait for its own.
    """

    seq: int
    task_id: str
    result_serializers: tuple[str, ...]
    body: bytes
    tiny: bool


class ResultRecord(NamedTuple):
    """One packed result on its way back, and how long the task ran."""

    seq: int
    result: bytes
    seconds: float


def hello(pid: int) -> bytes:
    """The first packet of a worker."""
    return _HELLO.pack(b"H", pid)


def read_hello(packet: bytes) -> int | None:
    """Return the process id in a worker's first packet, None when it is no such packet."""
    if len(packet) != _HELLO.size or packet[:1] != b"H":
        return None
    pid = int(_HELLO.unpack(packet)[1])
    return pid if pid > 1 else None  # the numbers below mean other things to kill(2)


def send_task(sock: socket.socket, task: TaskPacket) -> None:
    """Send one task.

    Raises:
        BlockingIOError: The socket is full; nothing was sent.
    """
    if size(task.body, task.result_serializers) <= PACKET_LIMIT:
        sock.send(_head(task, False) + task.body)
        return
    handle = _file_with(task.body)
    try:
        socket.send_fds(sock, [_head(task, True)], [handle])
    finally:
        os.close(handle)


def send_together(sock: socket.socket, tasks: Sequence[TaskPacket]) -> int:
    """Send tasks of at most `TOGETHER_LIMIT` bytes (by `size`) in one packet.

    Returns:
        The descriptor of their claims, the caller's to close.

    Raises:
        BlockingIOError: The socket is full; nothing was sent.
    """
    packet = b"".join([part for task in tasks for part in (_head(task, False), task.body)])
    claims = os.eventfd(len(tasks), os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        socket.send_fds(sock, [packet], [claims])
    except BaseException:
        os.close(claims)
        raise
    return claims


def claim(claims: int) -> bool:
    """Take one claim; False when there is none left."""
    try:
        os.eventfd_read(claims)
    except BlockingIOError:
        return False
    return True


def seqs_of(packet: bytes) -> list[int]:
    """Return the sequence numbers of the tasks in a packet, in order."""
    seqs = []
    at = 0
    while at < len(packet):
        seq, id_length, serializers_length, length, in_file, _tiny = _TASK.unpack_from(packet, at)
        seqs.append(seq)
        at += _TASK.size + id_length + serializers_length + (0 if in_file else length)
    return seqs


def read_tasks(packet: bytes, handles: list[int]) -> tuple[list[TaskPacket], int | None]:
    """Read a packet of one task or some; closes the descriptors but that of the claims.

    Returns:
        The tasks, in order, and the claims' descriptor, the caller's to close; None with one task.
    """
    tasks = []
    at = 0
    while at < len(packet):
        seq, id_length, serializers_length, length, in_file, tiny = _TASK.unpack_from(packet, at)
        at += _TASK.size
        task_id = packet[at : at + id_length].decode("ascii")
        at += id_length
        names: tuple[str, ...] = ()
        if serializers_length:
            names = tuple(packet[at : at + serializers_length].decode("utf-8").split("\n"))
            at += serializers_length
        if in_file:
            body = _read_file(handles, length)
        else:
            body = packet[at : at + length]
            at += length
        tasks.append(TaskPacket(seq, task_id, names, body, bool(tiny)))
    return tasks, handles.pop() if handles else None


def size(body: bytes, result_serializers: tuple[str, ...]) -> int:
    """Return the bytes of a task in a packet."""
    return _TASK.size + _ID_LENGTH + len(_joined(result_serializers)) + len(body)


def result_record(seq: int, result: bytes, seconds: float) -> bytes:
    """One record of a results packet."""
    return _RESULT.pack(seq, len(result), seconds, 0) + result


def send_large_result(sock: socket.socket, seq: int, result: bytes, seconds: float) -> None:
    """Send one result in a file of its own."""
    handle = _file_with(result)
    try:
        socket.send_fds(sock, [_RESULT.pack(seq, len(result), seconds, 1)], [handle])
    finally:
        os.close(handle)


def read_results(packet: bytes, handles: list[int]) -> Iterator[ResultRecord]:
    """Read a packet of results; closes the descriptors.

    Raises:
        ValueError: The packet is not what a worker sends.
    """
    try:
        at = 0
        while at < len(packet):
            seq, length, seconds, in_file = _RESULT.unpack_from(packet, at)
            at += _RESULT.size
            if not 0 <= seconds < math.inf:
                raise ValueError(f"a run took {seconds} seconds")
            if in_file:
                yield ResultRecord(seq, _read_file(handles, length), seconds)
                continue
            result = packet[at : at + length]
            if len(result) != length:
                raise ValueError("a result is cut off")
            at += length
            yield ResultRecord(seq, result, seconds)
    except struct.error as exc:
        raise ValueError("a result's header is cut off") from exc
    finally:
        close_all(handles)


class Stash:
    """Results that a worker has not sent yet, in memory that the engine shares.

    Results of tiny tasks wait for one another before they are sent. When their worker dies
    meanwhile, the engine finds them here.

    Args:
        handle: An anonymous file made by `new`; it stays open and the caller's.
    """

    LIMIT = PACKET_LIMIT // 2  # bytes of one record, and of all after which they are sent

    def __init__(self, handle: int) -> None:
        self._map = mmap.mmap(handle, _STASH_SIZE)
        self.size = 0

    @staticmethod
    def new() -> int:
        """Make the file."""
        handle = os.memfd_create("cep-stash")
        os.ftruncate(handle, _STASH_SIZE)
        return handle

    @staticmethod
    def unsent(handle: int) -> bytes:
        """Return what a dead worker had not sent (or had, and not yet forgotten)."""
        head = os.pread(handle, _STASHED.size, 0)
        if len(head) < _STASHED.size:
            return b""  # the task cut its own stash off
        (size,) = _STASHED.unpack(head)
        return os.pread(handle, min(size, _STASH_SIZE), _STASHED.size)

    def add(self, record: bytes) -> None:
        """Keep a record of at most `LIMIT` bytes."""
        start = _STASHED.size + self.size
        self._map[start : start + len(record)] = record
        self.size += len(record)
        _STASHED.pack_into(self._map, 0, self.size)

    def send(self, sock: socket.socket) -> None:
        """Send all and forget it."""
        if self.size:
            sock.send(self._map[_STASHED.size : _STASHED.size + self.size])
            self.size = 0
            _STASHED.pack_into(self._map, 0, 0)


def receive(sock: socket.socket, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive one packet and its descriptors; an empty packet means that the other end is gone.

    Raises:
        BlockingIOError: Nothing is there and the call may not wait.
    """
    packet, ancillary, _flags, _address = sock.recvmsg(PACKET_LIMIT, _FDS, flags | _CLOEXEC)
    if not ancillary:
        return packet, []
    handles = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            handles.frombytes(data[: len(data) - len(data) % handles.itemsize])
    return packet, list(handles)


def close_all(handles: list[int]) -> None:
    """Close descriptors and empty the list."""
    while handles:
        os.close(handles.pop())


def _head(task: TaskPacket, in_file: bool) -> bytes:
    identity = task.task_id.encode("ascii")
    names = _joined(task.result_serializers)
    header = _TASK.pack(task.seq, len(identity), len(names), len(task.body), in_file, task.tiny)
    return header + identity + names


def _joined(result_serializers: tuple[str, ...]) -> bytes:
    if not result_serializers:
        return b""
    return "\n".join(result_serializers).encode("utf-8", "replace")


def _file_with(content: bytes) -> int:
    handle = os.memfd_create("cep")
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(handle, view) :]
    except BaseException:
        os.close(handle)
        raise
    return handle


def _read_file(handles: list[int], length: int) -> bytes:
    if not handles:
        raise ValueError("a file was announced and none came")
    handle = handles.pop(0)
    try:
        if os.fstat(handle).st_size < length:
            raise ValueError("a file is cut off")
        parts = []
        at = 0
        while at < length:
            part = os.pread(handle, length - at, at)
            if not part:
                raise ValueError("a file is cut off")
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    except OSError as exc:
        raise ValueError(f"a file cannot be read ({exc})") from exc
    finally:
        os.close(handle)
