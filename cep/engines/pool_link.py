"""The process engine's side of its workers: the pool process, and one record per worker.

Owns the pool process, its control socket, and both ends of each worker's pair of sockets. All of
it belongs to the engine's dispatcher thread, except `PoolLink.open`, which the agent's main thread
calls before that thread exists. Nothing here opens a payload.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import cep
from cep.engines.base import EngineRun
from cep.engines.leftovers import MARK
from cep.errors import EngineError
from cep.model import Place, Task
from cep.worker import packets
from cep.worker.context import WorkerContext
from cep.worker.packets import TaskPacket
from cep.worker.slots import SlotReader

_READY_S = 60.0  # a cold start from a slow network file system
_PROGRAM = "from cep.worker.pool import main; main()"


class Together(NamedTuple):
    """Tasks that went in one packet.

    Attributes:
        claims: The descriptor; each task begins, or is taken back, with one claim.
        seqs: Those not taken back, in order.
    """

    claims: int
    seqs: list[int]

    @property
    def last(self) -> int | None:
        """The one that ends last."""
        return self.seqs[-1] if self.seqs else None


class Worker:
    """One worker process, as the engine sees it.

    Attributes:
        number: Its place in the pool; a successor takes the same.
        sock: Our end.
        far: The worker's end, held to take back packets it has not read.
        stash: The file in which its unsent results wait.
        pid: None until it has said hello.
        place: The same for the account of a task.
        given: Tasks sent and not finished, in the order sent.
        room: How many more tasks it may get before it is replaced; None for no limit.
        leaving: It was told to end itself.
        full: Its socket took no more at the last try.
    """

    def __init__(self, number: int, room: int | None, slots: Path) -> None:
        self.number = number
        self.sock, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.stash = packets.Stash.new()
        self.pid: int | None = None
        self.place: Place | None = None
        self.given: OrderedDict[int, Task] = OrderedDict()
        self.room = room
        self.leaving = False
        self.full = False
        self._together: deque[Together] = deque()
        self._slots = SlotReader(slots / f"worker-{number}.slots")
        self._slots_base = self._slots.count()

    def send(self, tasks: Sequence[Task], tiny: bool) -> bool:
        """Send a task, or tiny ones together; False when the socket takes no more now."""
        sent = [
            TaskPacket(task.seq, task.task_id, task.result_serializers, task.body, tiny)
            for task in tasks
        ]
        try:
            if len(sent) == 1:
                packets.send_task(self.sock, sent[0])
            else:
                claims = packets.send_together(self.sock, sent)
                self._forget_finished()
                self._together.append(Together(claims, [task.seq for task in tasks]))
        except (BlockingIOError, BrokenPipeError, ConnectionResetError):
            self.full = True
            return False
        for task in tasks:
            self.given[task.seq] = task
        if self.room is not None:
            self.room -= len(tasks)
        return True

    def _forget_finished(self) -> None:
        """Close the claims of those whose last task, they run in order, is no longer given."""
        while self._together and self._together[0].last not in self.given:
            os.close(self._together.popleft().claims)

    def leave(self) -> None:
        """Tell it to end itself when it has read all its tasks."""
        self.leaving = True
        with contextlib.suppress(OSError):
            self.sock.send(packets.EXIT)

    def receive(self) -> Iterator[tuple[bytes, list[int]]]:
        """Yield the packets that have come, with their descriptors."""
        while True:
            try:
                packet, handles = packets.receive(self.sock, packets.NOW)
            except (BlockingIOError, ConnectionResetError):
                return
            if not packet:
                return
            yield packet, handles

    def take_back(self, most: int | None = None) -> list[Task]:
        """Take back tasks the worker has not begun, the next first; it will never begin them.

        Args:
            most: As many are enough; since packets are taken whole, it may be some more.
        """
        unread: list[int] = []
        while most is None or len(unread) < most:
            try:
                packet, handles = packets.receive(self.far, packets.NOW)
            except (BlockingIOError, ConnectionResetError):
                break
            packets.close_all(handles)
            if not packet or packet == packets.EXIT:
                break
            unread += packets.seqs_of(packet)
        read = self._claim_back(set(unread), None if most is None else most - len(unread))
        taken = [self.given.pop(seq) for seq in (*read, *unread) if seq in self.given]
        if self.room is not None:
            self.room += len(taken)
        self.full = False
        return taken

    def _claim_back(self, unread: set[int], most: int | None) -> list[int]:
        """Claim tasks of packets that the worker has read, before it does; the last first."""
        taken: list[int] = []
        for together in self._together:
            if not unread.isdisjoint(together.seqs):
                together.seqs.clear()
            while together.seqs and (most is None or len(taken) < most):
                if not packets.claim(together.claims):
                    break
                taken.insert(0, together.seqs.pop())
        self._forget_finished()
        return taken

    def begun(self) -> set[int]:
        """Return the sequence numbers this worker has begun, as it noted them."""
        return self._slots.since(self._slots_base)

    def close(self) -> None:
        """Close what was opened for it."""
        self.sock.close()
        self.far.close()
        os.close(self.stash)
        while self._together:
            os.close(self._together.pop().claims)


class PoolLink:
    """The pool process and its control socket.

    Args:
        run: The endpoint.
        context: What workers must know.
        slots: Directory of start slots.
    """

    def __init__(self, run: EngineRun, context: WorkerContext, slots: Path) -> None:
        self._run = run
        self._context = context
        self._slots = slots
        self._process: subprocess.Popen[bytes] | None = None
        self.control: socket.socket | None = None

    def open(self) -> None:
        """Start the pool process and wait until it is ready.

        Raises:
            EngineError: It did not come up.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        label = f"{self._run.endpoint_id}, {self._run.endpoint_name}"
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), label, "-" * 40],
                    pass_fds=(theirs.fileno(),),
                    # Found there first, whatever the agent's directory; the pool removes it.
                    cwd=Path(cep.__file__).resolve().parents[1],
                    env={**os.environ, MARK: str(self._run.run_dir.resolve())},
                    stdin=subprocess.DEVNULL,
                    stdout=_output(),
                    stderr=_output(),
                    start_new_session=True,
                )
            ours.settimeout(_READY_S)
            ours.send(
                json.dumps(
                    {
                        "context": asdict(self._context),
                        "slots": str(self._slots),
                        "label": label,
                    }
                ).encode()
            )
            answer = ours.recv(packets.PACKET_LIMIT)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        except OSError as exc:
            ours.close()
            self.close(0.0)
            raise EngineError(f"The pool of worker processes did not start: {exc}.") from exc
        if not answer:
            ours.close()
            raise EngineError(
                "The pool of worker processes did not start: its process "
                f"{ending(self.close(5.0))}."
            )
        ours.setblocking(False)
        self.control = ours

    def spawn(self, workers: Sequence[Worker]) -> None:
        """Ask for the processes of these workers."""
        for at in range(0, len(workers), packets.MOST_WORKERS):
            some = workers[at : at + packets.MOST_WORKERS]
            handles = [handle for one in some for handle in (one.far.fileno(), one.stash)]
            self._command({"spawn": [one.number for one in some]}, handles)

    def kill(self, worker: Worker) -> None:
        """Kill a worker and what it started; its end is reported like any other."""
        self._command({"kill": worker.number}, [])

    def _command(self, command: dict[str, Any], handles: list[int]) -> None:
        assert self.control is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.control.settimeout(_READY_S)  # the pool never waits for us, so it reads soon
            socket.send_fds(self.control, [json.dumps(command).encode()], handles)
        self.control.setblocking(False)

    def reports(self) -> Iterator[dict[str, Any] | None]:
        """Yield what the pool has to say; None at last when the pool itself is gone."""
        assert self.control is not None
        while True:
            try:
                packet = self.control.recv(packets.PACKET_LIMIT)
            except BlockingIOError:
                return
            except ConnectionResetError:
                packet = b""
            if not packet:
                yield None
                return
            yield json.loads(packet)

    def close(self, deadline_s: float) -> int | None:
        """Let the pool end with all workers, or kill it; return its exit status if it had one."""
        if self.control is not None:
            self.control.close()
            self.control = None
        process, self._process = self._process, None
        if process is None:
            return None
        try:
            return process.wait(max(deadline_s, 0.05))
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def kill_and_wait(pids: Sequence[int], deadline_s: float) -> None:
    """Make sure that workers without a pool are gone.

    They die with their pool by the kernel's hand; this waits for it.
    """
    until = time.monotonic() + deadline_s
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            for kill in (os.killpg, os.kill):  # with what it started; it leads a group of its own
                with contextlib.suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            poll.poll(max(0.0, until - time.monotonic()) * 1000)
        finally:
            os.close(handle)


def ending(status: int | None) -> str:
    """Say how a process ended.

    Args:
        status: As subprocess gives it: the exit status, or a signal's number below zero.
    """
    if status is None:
        return "went away"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-status} ({name})"


#: As the kernel ends a process for want of memory.
KILLED = ending(-signal.SIGKILL)


def _output() -> int:
    """Where workers' output goes: where the agent's errors go, unless that is a pipe.

    A pipe may lose its reader (the command that started the agent), and a task that prints would
    fail then.
    """
    with contextlib.suppress(OSError):
        if not stat.S_ISFIFO(os.fstat(2).st_mode):
            return 2
    return subprocess.DEVNULL
