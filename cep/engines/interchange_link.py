"""The agent's three sockets to its interchange: tasks, results, and commands.

Both processes are on one host always, so these are Unix sockets and nothing is encrypted: who may
reach them is decided by the directory they are in. It is made for one interchange, of mode 0700,
and the three are removed as soon as that one has connected to all. From then on nobody can connect:
an interchange of an earlier life takes no task of this one. A Unix socket breaks only with one of
its processes, so nobody needs to connect again.

Where managers run on this host as well, the interchange listens for them in the same directory
(`cep.engines.local_door`), which stays until both have ended; else it goes with the three.

`open`, `first_answer` and `close` belong to the thread that starts and ends the engine, in turn;
between them `tasks` belongs to one thread and `results` to another.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import zmq

from cep.errors import EngineError
from cep.paths import control_dir
from cep.safety.files import make_private

SEND_TIMEOUT_MS = 2_000
# The door's address stands in a shell's command, in a list with commas. A directory with another
# name has none, and managers come by the network.
_ONE_WORD = re.compile(r"[\w@%+=:./-]+", re.ASCII)


class InterchangeLink:
    """See the module's docstring.

    Args:
        run_dir: The endpoint's run directory, which tells its sockets from those of others.
        managers: The directory is to have a socket for managers.

    Attributes:
        tasks: What the interchange takes; a send waits `SEND_TIMEOUT_MS` at most.
        results: What it tells.
        commands: Questions and answers.
        address: Of all three, for the interchange; `NAMES` stand for the ports.
        door: Where the interchange is to listen for managers of this host; None for nowhere.
    """

    #: Short: with `_prefix` no path is longer than that of the agent's control socket.
    NAMES = ("t", "r", "c")

    tasks: zmq.Socket[bytes]
    results: zmq.Socket[bytes]
    commands: zmq.Socket[bytes]
    address: str
    door: str | None = None

    def __init__(self, run_dir: Path, *, managers: bool = False) -> None:
        self._managers = managers
        digest = hashlib.sha256(os.fsencode(run_dir.absolute())).hexdigest()
        self._prefix = f"{digest[:10]}-"
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._directory: Path | None = None

    def open(self) -> None:
        """Listen; what a life of this endpoint left that was killed at just this is removed.

        Raises:
            CantCreate: The directory for sockets is not ours alone.
            EngineError: The sockets cannot be made.
        """
        place = control_dir()
        try:
            make_private(place)
            for left in place.glob(f"{self._prefix}*"):
                shutil.rmtree(left, ignore_errors=True)
            self._directory = Path(tempfile.mkdtemp(prefix=self._prefix, dir=place))
        except OSError as error:
            raise EngineError(f"There can be no sockets in {place}: {error}.") from error
        self.address = f"ipc://{self._directory}"
        if self._managers and _ONE_WORD.fullmatch(self.address):
            self.door = f"{self.address}/m"
        self._context = zmq.Context()
        self.tasks, self.results, self.commands = (
            self._context.socket(kind) for kind in (zmq.DEALER, zmq.DEALER, zmq.REQ)
        )
        self.tasks.setsockopt(zmq.SNDTIMEO, SEND_TIMEOUT_MS)  # without a peer: for ever
        self.tasks.set_hwm(0)
        self.results.set_hwm(0)
        try:
            for socket, name in zip(self._sockets(), self.NAMES, strict=True):
                socket.bind(f"{self.address}/{name}")
        except zmq.ZMQError as error:
            raise EngineError(
                f"No socket can be made in {self._directory}: {os.strerror(error.errno or 0)}.",
                hint=f"A socket's path has {zmq.IPC_PATH_MAX_LEN} bytes at most. Set "
                "XDG_RUNTIME_DIR to a directory of yours with a shorter name.",
            ) from error

    def first_answer(self, question: str, life: int, timeout_ms: int) -> bytes | None:
        """Wait until the interchange has connected, shut the door, and ask it something.

        Args:
            question: A command of the interchange.
            life: File descriptor that can be read when the interchange has ended.
            timeout_ms: For each connection and for the answer.

        Returns:
            None when it ended or took longer.
        """
        if not all(_ready(one, zmq.POLLOUT, life, timeout_ms) for one in self._sockets()):
            return None
        self._shut()
        self.commands.send_pyobj(question)
        if not _ready(self.commands, zmq.POLLIN, life, timeout_ms):
            return None
        return self.commands.recv()

    def close(self) -> None:
        """Close the sockets, whatever is still in them; safe after a failed `open` and twice."""
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None
        self._remove()

    def _shut(self) -> None:
        """Nobody else may connect to the three."""
        if self.door is None:
            self._remove()
        elif self._directory is not None:
            for name in self.NAMES:
                (self._directory / name).unlink(missing_ok=True)

    def _remove(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _sockets(self) -> tuple[zmq.Socket[bytes], ...]:
        return (self.tasks, self.results, self.commands)


def _ready(socket: zmq.Socket[bytes], direction: int, life: int, timeout_ms: int) -> bool:
    poller = zmq.Poller()
    poller.register(life, zmq.POLLIN)
    poller.register(socket, direction)
    return socket in dict(poller.poll(timeout_ms))
