"""What a connection sends goes to the socket at once, and pika's way when it does not fit."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from cep.amqp.connection import Connection

LARGE = bytes(range(256)) * 16 * 1024  # 4 MiB: more than a socket's buffers hold


class _Protocol:
    """Hears of the end of a connection."""

    def __init__(self) -> None:
        self.lost: list[Any] = []

    def connection_lost(self, error: Any) -> None:
        self.lost.append(error)

    def data_received(self, _data: bytes) -> None:
        pytest.fail("nobody said anything")

    def eof_received(self) -> bool:
        return False


class Sender(Connection):
    """A connection that only sends, over pika's real transport on a real socket."""

    def __init__(self, nbio: Any, sock: socket.socket, protocol: _Protocol) -> None:
        self.params = pika.ConnectionParameters()
        self._transport = _AsyncPlaintextTransport(sock, protocol, nbio)


class Rig:
    """A sender, the other end of its socket, and pika's loop between them."""

    def __init__(self) -> None:
        self.ours, self.other = socket.socketpair()
        self.ours.setblocking(False)
        self.other.settimeout(60)
        self.loop = IOLoop()
        self.loop._poller.activate_poller()
        self.nbio = SelectorIOServicesAdapter(self.loop)
        self.protocol = _Protocol()
        self.sender = Sender(self.nbio, self.ours, self.protocol)

    @property
    def waits(self) -> bool:
        """Whether the turn of the loop in which the socket is writable is asked for."""
        watched = self.nbio._watchers.get(self.ours.fileno())
        return watched is not None and watched.writer is not None

    def turn(self) -> None:
        """One turn of the loop that waits for nothing."""
        self.loop.call_later(0, lambda: None)
        self.loop.poll()
        self.loop.process_timeouts()

    def close(self) -> None:
        if self.ours.fileno() >= 0:
            self.sender._transport._close_and_finalize()
        self.other.close()
        self.loop._poller.deactivate_poller()
        self.loop.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_what_fits_is_sent_before_the_loops_next_turn(rig: Rig) -> None:
    rig.sender._adapter_emit_data(b"one ")
    rig.sender._adapter_emit_data(memoryview(b"two"))
    assert rig.other.recv(100) == b"one two"
    assert not rig.waits
    assert not rig.sender._transport._tx_buffers


def test_what_does_not_fit_goes_when_the_socket_is_writable_and_nothing_overtakes_it(
    rig: Rig,
) -> None:
    rig.sender._adapter_emit_data(LARGE)
    assert rig.waits
    rig.sender._adapter_emit_data(b"behind")
    wanted, found = LARGE + b"behind", bytearray()
    while len(found) < len(wanted):
        found += rig.other.recv(1 << 20)
        rig.turn()
    assert bytes(found) == wanted
    assert not rig.waits
    rig.sender._adapter_emit_data(b"again at once")
    assert rig.other.recv(100) == b"again at once"
    assert rig.sender._transport.get_write_buffer_size() == 0


def test_into_a_full_socket_nothing_is_lost(rig: Rig) -> None:
    filler = bytes(1 << 16)
    filled = 0
    while True:
        try:
            filled += rig.ours.send(filler)
        except BlockingIOError:
            break
    rig.sender._adapter_emit_data(b"after it")
    assert rig.waits
    found = bytearray()
    while len(found) < filled + len(b"after it"):
        found += rig.other.recv(1 << 20)
        rig.turn()
    assert found.endswith(bytes(1) + b"after it")


def test_a_broken_socket_is_told_to_the_connection_as_by_pika(rig: Rig) -> None:
    rig.other.close()
    rig.sender._adapter_emit_data(b"to nobody")
    assert rig.protocol.lost == []  # never from within a write
    for _ in range(3):
        rig.turn()
    (error,) = rig.protocol.lost
    assert error is None or isinstance(error, OSError)
    assert rig.ours.fileno() == -1


def test_nothing_is_sent_on_a_connection_that_was_given_up(rig: Rig) -> None:
    rig.sender._transport.abort()
    rig.sender._adapter_emit_data(b"too late")
    rig.turn()
    rig.turn()
    assert rig.protocol.lost == [None]
    assert rig.other.recv(100) == b""


def test_with_tls_everything_goes_pikas_way(rig: Rig) -> None:
    """There a write may have to wait until something can be read."""
    context = ssl.create_default_context()
    rig.sender.params = pika.ConnectionParameters(ssl_options=pika.SSLOptions(context))
    rig.sender._adapter_emit_data(b"later")
    assert rig.waits
    assert select.select([rig.other], [], [], 0)[0] == []
    rig.turn()
    assert rig.other.recv(100) == b"later"
