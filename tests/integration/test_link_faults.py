"""What must survive when RabbitMQ goes away: named after the faults of what came before."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from cep.amqp.consumer import Consumer
from cep.amqp.events import (
    AcksProcessed,
    AmqpEvent,
    Confirmed,
    Consuming,
    Delivered,
    LinkBlocked,
    LinkDown,
    LinkRefused,
    LinkUnblocked,
    LinkUp,
)
from cep.amqp.loop import AmqpLoop
from cep.amqp.publisher import Publisher
from cep.model import Delivery, QueueAddress
from tests.integration.docker_engine import free_port
from tests.integration.link_tools import (
    DEADLINE_S,
    Inbox,
    cut_off,
    depth,
    drain,
    make_queue,
    put_messages,
    wait_for_depth,
)
from tests.integration.rabbitmq import RabbitMq

pytestmark = pytest.mark.docker


@pytest.fixture
def loop() -> Iterator[AmqpLoop]:
    loop = AmqpLoop()
    loop.start()
    yield loop
    loop.stop(DEADLINE_S)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


def confirmed_of(inbox: Inbox, count: int, deadline_s: float = DEADLINE_S) -> Counter[int]:
    """Wait until so many different tokens are confirmed; how often each was."""
    confirmed: Counter[int] = Counter()

    def take(event: AmqpEvent) -> None:
        assert not isinstance(event, LinkRefused)
        if isinstance(event, Confirmed):
            confirmed.update(event.tokens)

    inbox.collect(lambda: len(confirmed) >= count, take, deadline_s)
    return confirmed


def publish_until_down(
    publisher: Publisher, inbox: Inbox, disturb: Callable[[], None]
) -> tuple[int, Counter[int]]:
    """Keep hundreds of messages under way while `disturb` works, until the link is down.

    Returns:
        How many messages were published, and the confirms so far.
    """
    confirmed: Counter[int] = Counter()
    sent = unconfirmed = 0

    def take(event: AmqpEvent) -> None:
        nonlocal unconfirmed
        if isinstance(event, LinkDown):
            unconfirmed = unconfirmed or publisher.pending()
        if isinstance(event, Confirmed):
            confirmed.update(event.tokens)

    deadline = time.monotonic() + DEADLINE_S
    while not unconfirmed:
        assert time.monotonic() < deadline
        publisher.publish([(n, b"%d" % n) for n in range(sent, sent + 1000)])
        sent += 1000
        disturb()
        inbox.collect(lambda: unconfirmed or publisher.pending() < 900, take)
    return sent, confirmed


def test_fault_1_unconfirmed_messages_are_published_again_after_a_closed_connection(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = Publisher(loop, address, name="results", put=inbox.put)
    publisher.start()
    inbox.wait(LinkUp)
    sent, confirmed = publish_until_down(publisher, inbox, rabbitmq.close_connections)
    confirmed.update(confirmed_of(inbox, sent - len(confirmed)))
    assert set(confirmed) == set(range(sent))
    assert set(confirmed.values()) == {1}
    assert publisher.pending() == 0
    publisher.stop(DEADLINE_S)
    assert set(drain(rabbitmq, address)) == {b"%d" % n for n in range(sent)}


def test_fault_1_unconfirmed_messages_survive_a_killed_broker(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = Publisher(loop, address, name="results", put=inbox.put)
    publisher.start()
    inbox.wait(LinkUp)
    killer = threading.Thread(target=rabbitmq.kill)
    started = threading.Event()

    def kill() -> None:
        if not started.is_set():
            started.set()
            killer.start()

    try:
        sent, confirmed = publish_until_down(publisher, inbox, kill)
        killer.join()
    finally:
        rabbitmq.start()
    confirmed.update(confirmed_of(inbox, sent - len(confirmed)))
    assert set(confirmed) == set(range(sent))
    publisher.stop(DEADLINE_S)
    assert set(drain(rabbitmq, address)) == {b"%d" % n for n in range(sent)}


def test_fault_2_an_ack_of_an_old_epoch_is_dropped(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"a", b"b"])
    consumer = Consumer(loop, address, name="tasks", put=inbox.put)
    consumer.start()
    consumer.consume()

    def receive() -> list[Delivery]:
        got: list[Delivery] = []

        def take(event: AmqpEvent) -> None:
            if isinstance(event, Delivered):
                got.extend(event.deliveries)

        inbox.collect(lambda: len(got) >= 2, take)
        return got

    old = receive()
    cut_off(rabbitmq, inbox)
    new = receive()
    assert new[0].epoch == old[0].epoch + 1
    assert {d.tag for d in old} == {d.tag for d in new}  # tags restart: an old ack would fit
    consumer.ack(old[0].epoch, [d.tag for d in old])
    consumer.reject(old[0].epoch, [d.tag for d in old])
    consumer.probe(old[0].epoch, 1)
    consumer.probe(new[0].epoch, 2)
    assert inbox.wait(AcksProcessed).mark == 2  # the old probe has no answer either
    consumer.stop(DEADLINE_S)
    wait_for_depth(rabbitmq, address, 2)


def test_fault_7_each_delivery_is_settled_once_however_often_it_is_asked_for(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"good", b"garbage", b"good"])
    consumer = Consumer(loop, address, name="tasks", put=inbox.put)
    consumer.start()
    consumer.consume()
    got: list[Delivery] = []

    def take(event: AmqpEvent) -> None:
        assert not isinstance(event, LinkDown)
        if isinstance(event, Delivered):
            got.extend(event.deliveries)

    inbox.collect(lambda: len(got) >= 3, take)
    epoch = got[0].epoch
    consumer.reject(epoch, [got[1].tag])
    consumer.ack(epoch, [d.tag for d in got])  # the rejected one among them
    consumer.give_back(epoch, [d.tag for d in got])  # all of them settled already
    consumer.ack(epoch, [99_999])  # never delivered
    consumer.probe(epoch, 1)
    assert isinstance(inbox.next(), AcksProcessed)  # a second settlement ends the channel instead
    consumer.stop(DEADLINE_S)
    assert depth(rabbitmq, address) == 0


def test_fault_9_the_links_come_back_with_their_next_try_after_a_restart_of_the_broker(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    consumer = Consumer(loop, address, name="tasks", put=inbox.put)
    publisher = Publisher(loop, address, name="results", put=inbox.put)
    for link in (consumer, publisher):
        link.start()
    consumer.consume()
    inbox.wait(Consuming)
    rabbitmq.stop()
    try:
        for _ in range(12):  # far beyond the five tries after which others gave up
            assert inbox.wait(LinkDown).retry_in_s <= 4.0
        publisher.publish([(1, b"written while away")])
    finally:
        rabbitmq.start()
    reason = next(e.reason for e in reversed(inbox.seen) if isinstance(e, LinkDown))
    assert f"127.0.0.1:{rabbitmq.port}" in reason
    up: set[str] = set()
    failures: Counter[str] = Counter()

    def take(event: AmqpEvent) -> None:
        assert not isinstance(event, LinkRefused)
        if isinstance(event, LinkDown):
            failures[event.link] += 1
            assert event.retry_in_s <= 4.0
        if isinstance(event, Consuming | Confirmed):
            up.add(event.link)

    while not inbox.empty():
        take(inbox.next())
    failures.clear()  # of tries before the broker was there
    inbox.collect(lambda: up == {"tasks", "results"}, take)
    # One try may have been under way; the next one, at most 4 s later, succeeds.
    assert all(count <= 1 for count in failures.values()), inbox.seen
    for link in (consumer, publisher):
        link.stop(DEADLINE_S)


def test_fault_9_a_broker_that_accepts_and_says_nothing_is_tried_again(
    loop: AmqpLoop, inbox: Inbox
) -> None:
    """A listening port behind which nobody speaks AMQP is no reason to give up either."""
    with socket.create_server(("127.0.0.1", free_port())) as server:
        accepted = threading.Semaphore(0)

        def hang_up() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connection.recv(8)
                connection.close()
                accepted.release()

        thread = threading.Thread(target=hang_up)
        thread.start()
        port = server.getsockname()[1]
        address = make_address(port)
        publisher = Publisher(loop, address, name="results", put=inbox.put)
        publisher.start()
        for _ in range(4):
            down = inbox.wait(LinkDown)
            assert f"127.0.0.1:{port}" in down.reason
            assert "secret" not in down.reason
            assert accepted.acquire(timeout=60)
        publisher.stop(DEADLINE_S)
        server.shutdown(socket.SHUT_RDWR)
    thread.join(60)
    assert not thread.is_alive()


def make_address(port: int):

    return QueueAddress(f"amqp://user:secret@127.0.0.1:{port}/", "nothing")


def test_fault_18_the_queue_is_taken_over_when_a_frozen_consumer_is_cut_off(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    with rabbitmq.channel() as channel:  # a client that never reads again, as after a partition
        channel.basic_consume(address.queue, lambda *_: None, exclusive=True)
        consumer = Consumer(loop, address, name="tasks", put=inbox.put)
        consumer.start()
        consumer.consume()
        for _ in range(5):
            assert "exclusive" in inbox.wait(LinkDown).reason
        channel.connection.close()
    inbox.wait(Consuming)
    consumer.stop(DEADLINE_S)


def test_a_broker_short_of_memory_blocks_the_publisher_and_nothing_is_lost(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = Publisher(loop, address, name="results", put=inbox.put)
    publisher.start()
    inbox.wait(LinkUp)
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    try:
        publisher.publish([(1, b"first")])  # RabbitMQ blocks a connection when it publishes
        inbox.wait(LinkBlocked)
        publisher.publish([(n, b"%d" % n) for n in range(2, 100)])
        assert publisher.pending() == 99
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "0.6")
    inbox.wait(LinkUnblocked)
    assert set(confirmed_of(inbox, 99)) == set(range(1, 100))
    publisher.stop(DEADLINE_S)


def test_stop_waits_for_confirms_that_are_under_way_and_never_beyond_its_deadline(
    rabbitmq: RabbitMq, loop: AmqpLoop, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = Publisher(loop, address, name="results", put=inbox.put)
    publisher.start()
    inbox.wait(LinkUp)
    publisher.publish([(n, bytes(1000)) for n in range(2000)])
    publisher.stop(DEADLINE_S)
    assert publisher.pending() == 0
    assert set(confirmed_of(inbox, 2000)) == set(range(2000))
    frozen = Publisher(loop, address, name="frozen", put=inbox.put)
    frozen.start()
    inbox.wait(LinkUp, lambda event: event.link == "frozen")
    rabbitmq.pause()
    try:
        frozen.publish([(1, b"unconfirmed")])
        before = time.monotonic()
        frozen.stop(0.5)
        assert time.monotonic() - before < DEADLINE_S  # it returns, though nothing answers
    finally:
        rabbitmq.unpause()
