"""A link without a broker: closing while it connects, and the thread's end."""

from __future__ import annotations

import queue
import socket
import threading
import time

import pytest

from cep.amqp.consumer import Consumer
from cep.amqp.events import AmqpEvent, ConsumeStopped, LinkDown
from cep.amqp.loop import AmqpLoop
from cep.amqp.publisher import Publisher
from cep.errors import DataError
from cep.model import QueueAddress


def test_a_link_can_be_stopped_while_it_connects_to_something_silent() -> None:
    events: queue.SimpleQueue[AmqpEvent] = queue.SimpleQueue()
    loop = AmqpLoop()
    loop.start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"amqp://u:secret@127.0.0.1:{silent.getsockname()[1]}/"
        publisher = Publisher(loop, QueueAddress(url, "q"), name="results", put=events.put)
        publisher.start()
        publisher.publish([(1, b"x")])
        connection, _ = silent.accept()
        assert connection.recv(8) == b"AMQP\0\0\x09\x01"
        before = time.monotonic()
        publisher.stop(60)
        assert time.monotonic() - before < 50
        connection.close()
    loop.stop(60)
    assert publisher.pending() == 1
    assert not any(thread.name == "amqp" for thread in threading.enumerate())


def test_a_link_can_be_stopped_while_it_waits_for_its_next_try() -> None:
    events: queue.SimpleQueue[AmqpEvent] = queue.SimpleQueue()
    loop = AmqpLoop()
    loop.start()
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        url = f"amqp://u:secret@127.0.0.1:{held.getsockname()[1]}/"
        consumer = Consumer(loop, QueueAddress(url, "q"), name="tasks", put=events.put)
        consumer.start()
        consumer.consume()
        delays = []
        for _ in range(3):
            down = events.get(timeout=60)
            assert isinstance(down, LinkDown)
            assert "refused" in down.reason
            assert "secret" not in down.reason
            delays.append(down.retry_in_s)
        assert all(0.1 <= delay <= 0.5 for delay in delays)
        consumer.pause()
        while not isinstance(event := events.get(timeout=60), ConsumeStopped):
            assert isinstance(event, LinkDown)
        consumer.stop(60)
    loop.stop(60)


def test_calls_before_the_start_are_kept_in_order() -> None:
    loop = AmqpLoop()
    seen: list[int] = []
    done = threading.Event()
    for n in range(3):
        loop.call(lambda n=n: seen.append(n))  # type: ignore[misc]
    loop.call(done.set)
    loop.start()
    assert done.wait(60)
    loop.stop(60)
    assert seen == [0, 1, 2]


def test_calls_after_the_end_are_dropped() -> None:
    loop = AmqpLoop()
    loop.start()
    loop.stop(60)
    loop.stop(60)
    loop.call(lambda: pytest.fail("called after the end"))


def test_an_address_that_is_none_is_refused_before_anything_starts() -> None:
    loop = AmqpLoop()
    consumer = Consumer(loop, QueueAddress("nonsense", "q"), name="tasks", put=lambda _event: None)
    with pytest.raises(DataError):
        consumer.start()
    consumer.stop(0)


def test_a_call_that_fails_is_logged_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = AmqpLoop()
    loop.start()
    done = threading.Event()

    def fail() -> None:
        raise ValueError("on purpose")

    loop.call(fail)
    loop.call(done.set)
    assert done.wait(60)
    loop.stop(60)
    assert "a call in the AMQP thread failed" in caplog.text
