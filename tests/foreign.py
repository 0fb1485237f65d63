"""A process of another account that sits on a loopback port and keeps what it is told."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

_PROGRAM = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
family = socket.AF_INET6 if ":" in sys.argv[2] else socket.AF_INET
server = socket.create_server((sys.argv[2], int(sys.argv[3])), family=family)
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    connection.settimeout(5)
    heard = connection.recv(65536)
    print(heard.hex() or "nothing", flush=True)
    connection.close()
"""


@dataclass
class Foreigner:
    """The process.

    Attributes:
        port: Where it listens.
        uid: Whose it is.
    """

    port: int
    uid: int
    process: subprocess.Popen[str]

    def heard(self) -> bytes:
        """What the next connection said before it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        return b"" if line == "nothing" else bytes.fromhex(line)


@contextlib.contextmanager
def foreigner(address: str = "127.0.0.1", port: int = 0) -> Iterator[Foreigner]:
    """Somebody else's listening port; needs root to become somebody else."""
    if os.getuid() != 0:
        pytest.skip("NOT TESTED: only root can be another account")
    uid = pwd.getpwnam("nobody").pw_uid
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(uid), address, str(port)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield Foreigner(int(process.stdout.readline()), uid, process)
        finally:
            process.kill()
