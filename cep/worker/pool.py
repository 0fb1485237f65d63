"""The process that makes worker processes: small, with the codec loaded, and without threads.

The process engine starts it once, with one socket. For each pair of descriptors it is sent (a
socket and a stash, see `cep.worker.packets`) it forks a worker. It reports each worker's end, and
kills all workers when its socket closes, so that none outlives the agent. A worker whose maker is
gone is killed by the kernel.

Commands and reports are packets of JSON:

* `{"spawn": [number, ...]}` with two descriptors each; `{"kill": number}`
* `{"ready": pid}` once; `{"exited": number, "pid": pid, "status": wait status}`
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any, NoReturn

from cep.allocator import keep_freed_memory
from cep.worker import packets

_PR_SET_PDEATHSIG = 1  # source: linux/prctl.h
_LARGEST_COMMAND = 64 * 1024


def main() -> None:
    """Entry of the process: `argv[1]` is the socket's number."""
    # The directory that Python put first was the engine's means to find this package; a task
    # must not find its modules there before others.
    sys.path.append(sys.path.pop(0) or str(Path.cwd()))
    # Functions from a user's __main__ get this module's names as their globals.
    sys.modules["__main__"] = types.ModuleType("__main__")
    keep_freed_memory()  # the workers it forks, too
    control = socket.socket(fileno=int(sys.argv[1]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        # Not SIG_IGN, which programs that tasks start would inherit. The end is ordered by the
        # agent, or by its death; a signal to the whole service must not end a task before.
        signal.signal(number, _stay)
    _Pool(control).serve()


def _stay(_number: int, _frame: object) -> None:
    """Ignore a signal."""


class _Pool:
    """The loop. One instance, one thread."""

    def __init__(self, control: socket.socket) -> None:
        from cep.worker import execute
        from cep.worker.context import WorkerContext

        first = control.recv(_LARGEST_COMMAND)
        if not first:
            sys.exit(0)
        settings = json.loads(first)
        allowed = settings["context"]["allowed_serializers"]
        self._context = WorkerContext(
            **{
                **settings["context"],
                "allowed_serializers": None if allowed is None else tuple(allowed),
            }
        )
        self._slots = Path(settings["slots"])
        self._label = str(settings["label"])
        self._control = control
        self._children: dict[int, int] = {}  # pid -> worker number
        self._reports: list[bytes] = []
        self._own = os.getpid()
        execute.warm_up()
        # Loaded here once instead of in each worker.
        import cep.worker.limits
        import cep.worker.loop  # noqa: F401

        self._title = _title_setter()
        self._title(f"cep worker pool ({self._label})")

    def serve(self) -> None:
        """Obey until the agent is gone."""
        self._wake, wake = socket.socketpair()
        self._wake.setblocking(False)
        wake.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _stay)
        self._wake_far = wake
        self._control.setblocking(False)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        self._report({"ready": self._own})
        while True:
            wanted = select.POLLIN | (select.POLLOUT if self._reports else 0)
            poll.register(self._control, wanted)
            poll.poll()
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(4096):
                    pass
            if not self._obey():
                self._end()
            self._reap()
            self._flush()

    def _obey(self) -> bool:
        """Do all commands that have come; False when the agent is gone."""
        while True:
            try:
                message, handles, _flags, _address = socket.recv_fds(
                    self._control, _LARGEST_COMMAND, 2 * packets.MOST_WORKERS
                )
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not message:
                return False
            command = json.loads(message)
            ends = iter(handles)
            for number, sock, stash in zip(command.get("spawn", ()), ends, ends, strict=False):
                self._spawn(number, sock, stash)
            if "kill" in command:
                for pid, number in self._children.items():
                    if number == command["kill"]:
                        _kill_group(pid)

    def _spawn(self, number: int, sock: int, stash: int) -> None:
        try:
            pid = os.fork()
        except OSError as exc:
            self._report({"exited": number, "pid": 0, "status": 0, "error": str(exc)})
        else:
            if pid == 0:
                self._be_worker(number, sock, stash)
            self._children[pid] = number
        os.close(sock)
        os.close(stash)

    def _be_worker(self, number: int, sock: int, stash: int) -> NoReturn:
        """The child's life; returns to nobody."""
        status = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._own:
                os._exit(1)  # the pool died before the kernel knew that it should tell
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for other in (self._control, self._wake, self._wake_far):
                other.close()
            self._title(f"cep worker {number} ({self._label})")
            from cep.worker.loop import work
            from cep.worker.slots import SlotWriter

            work(
                socket.socket(fileno=sock),
                packets.Stash(stash),
                self._context,
                SlotWriter(self._slots, f"worker-{number}"),
            )
            status = 0
        except BrokenPipeError:
            status = 0  # the agent is gone
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self._children:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            pid = ended.si_pid
            number = self._children.get(pid)
            if number is not None and not (ended.si_code == os.CLD_EXITED and not ended.si_status):
                # What a dead worker had started dies with it. Before the pid is free for others.
                _kill_group(pid)
            _pid, status = os.waitpid(pid, 0)
            if self._children.pop(pid, None) is not None:
                self._report({"exited": number, "pid": pid, "status": status})

    def _report(self, report: dict[str, Any]) -> None:
        self._reports.append(json.dumps(report).encode("ascii"))
        self._flush()

    def _flush(self) -> None:
        while self._reports:
            try:
                self._control.send(self._reports[0])
            except BlockingIOError:
                return
            except OSError:
                self._end()
            self._reports.pop(0)

    def _end(self) -> NoReturn:
        for pid in self._children:
            _kill_group(pid)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        os._exit(0)


def _kill_group(pid: int) -> None:
    """Kill a worker and what it started, except what made a session of its own."""
    for kill in (os.killpg, os.kill):  # the group does not exist before the child's setsid
        with contextlib.suppress(ProcessLookupError):
            kill(pid, signal.SIGKILL)


def _title_setter() -> Any:
    """Return a function that names this process in `ps`, and leaves its environment readable.

    Processes of an endpoint's earlier life are recognised by their environment in /proc, which
    a long title would overwrite.
    """
    os.environ["SPT_NOENV"] = "1"
    try:
        import setproctitle

        setproctitle.getproctitle()
    except ImportError:  # a name is not worth a failure
        return lambda _title: None
    finally:
        del os.environ["SPT_NOENV"]
    return setproctitle.setproctitle
