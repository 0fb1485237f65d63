"""RabbitMQ and PostgreSQL in one network of their own, with nothing but loopback: for scenes.

The official SDK knows one address of a service at home, so that each scene has a network of its
own (`netns`). Here the network belongs to the PostgreSQL container, the RabbitMQ container shares
it, and scenes, one at a time, attach themselves to it. What the test process itself asks of the
servers it asks in threads that have entered that network for good.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.netns import NetworkNamespace, why_not
from tests.integration.postgres import Postgres
from tests.integration.rabbitmq import RabbitMq

_CLONE_NEWNET = 0x40000000  # linux/sched.h


class Servers:
    """Both servers and their network; `create` first, `remove` last.

    Args:
        ca_file: Where to write the certificate authority of RabbitMQ's TLS listener.
    """

    def __init__(self, ca_file: Path) -> None:
        self._ca_file = ca_file
        self._thread: ThreadPoolExecutor | None = None
        self.postgres = Postgres(own_network=True, call=self.inside)
        self.rabbitmq: RabbitMq

    def create(self) -> None:
        """Start both and wait until they answer."""
        reason = why_not()
        if reason is not None:
            pytest.skip(f"NOT TESTED: {reason}.")
        self.postgres.create()
        self.postgres.container.reload()
        self.pid = int(self.postgres.container.attrs["State"]["Pid"])
        self._thread = ThreadPoolExecutor(
            max_workers=3, thread_name_prefix="inside", initializer=_enter, initargs=(self.pid,)
        )
        self.rabbitmq = RabbitMq(
            self._ca_file, network_of=self.postgres.container, call=self.inside
        )
        self.rabbitmq.create()
        self.postgres.wait_ready()

    def inside(self, work: Callable[[], Any]) -> Any:
        """Run a function in the servers' network; return what it returns."""
        assert self._thread is not None
        return self._thread.submit(work).result()

    def network(self) -> SharedNetwork:
        """The network for one scene."""
        return SharedNetwork(self.pid)

    def addresses(self) -> tuple[dict[str, str], str]:
        """The variables for the hubs of one scene, and the name of their database."""
        database = self.postgres.database()
        variables = {
            "CEP_HUB_AMQP_URL": self.rabbitmq.hub_url(),
            "CEP_HUB_DATABASE_URL": self.postgres.url(database),
        }
        return variables, database

    def remove(self) -> None:
        """Remove both containers."""
        if self._thread is not None:
            self._thread.shutdown()
        if hasattr(self, "rabbitmq"):
            self.rabbitmq.remove()
        self.postgres.remove()


def _enter(pid: int) -> None:
    """Move the calling thread, and it alone, into the network of a process (setns(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


class SharedNetwork(NetworkNamespace):
    """The servers' network for the length of a scene; their own processes are not the scene's.

    Args:
        pid: A process of the container whose network it is.
    """

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._pid = pid

    def __enter__(self) -> SharedNetwork:
        self._ip("netns", "attach", self.name, str(self._pid))
        return self

    def pids(self) -> list[int]:
        """Processes of the scene that live in this network now."""
        ours = Path("/proc/self/ns/pid").readlink()
        return [pid for pid in super().pids() if _namespace(pid) == ours]


def _namespace(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/ns/pid").readlink()
    except OSError:
        return None
