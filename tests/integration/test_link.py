"""A link on a real RabbitMQ: consuming, settling, publishing, and what the broker may refuse."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from cep.amqp.consumer import Consumer
from cep.amqp.events import (
    AcksProcessed,
    AmqpEvent,
    Confirmed,
    ConsumeStopped,
    Consuming,
    Delivered,
    LinkDown,
    LinkRefused,
    LinkUp,
    Unroutable,
)
from cep.amqp.loop import AmqpLoop
from cep.amqp.probe import check_connection
from cep.amqp.publisher import FIRE_AND_FORGET, Publisher
from cep.errors import LeaseLost, NotAllowed, PeerUntrusted, TemporaryFailure
from cep.model import Delivery, PublishKwargs, QueueAddress
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
MIB = 1024 * 1024


@pytest.fixture
def loop() -> Iterator[AmqpLoop]:
    loop = AmqpLoop()
    loop.start()
    yield loop
    loop.stop(DEADLINE_S)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


class Links:
    """Makes links and closes them at the end of the test."""

    def __init__(self, loop: AmqpLoop) -> None:
        self.loop = loop
        self.made: list[Consumer | Publisher] = []

    def consumer(self, address: QueueAddress, inbox: Inbox, name: str = "tasks", **how) -> Consumer:
        consumer = Consumer(self.loop, address, name=name, put=inbox.put, **how)
        self.made.append(consumer)
        consumer.start()
        return consumer

    def publisher(
        self, address: QueueAddress, inbox: Inbox, name: str = "results", **how
    ) -> Publisher:
        publisher = Publisher(self.loop, address, name=name, put=inbox.put, **how)
        self.made.append(publisher)
        publisher.start()
        return publisher


@pytest.fixture
def links(loop: AmqpLoop) -> Iterator[Links]:
    links = Links(loop)
    yield links
    for link in links.made:
        link.stop(DEADLINE_S)


def receive(inbox: Inbox, count: int, deadline_s: float = DEADLINE_S) -> list[Delivery]:
    """Wait for so many deliveries."""
    got: list[Delivery] = []

    def take(event: AmqpEvent) -> None:
        if isinstance(event, Delivered):
            assert len({delivery.epoch for delivery in event.deliveries}) == 1
            got.extend(event.deliveries)

    inbox.collect(lambda: len(got) >= count, take, deadline_s)
    return got


def test_messages_are_delivered_in_batches_and_acked_ones_do_not_come_again(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    bodies = [b"%d" % n for n in range(500)]
    put_messages(rabbitmq, address, bodies)
    consumer = links.consumer(address, inbox)
    consumer.consume()
    got: list[Delivery] = []
    batches = 0

    def take(event: AmqpEvent) -> None:
        nonlocal batches
        if isinstance(event, Delivered):
            batches += 1
            got.extend(event.deliveries)
            consumer.ack(event.deliveries[0].epoch, [d.tag for d in event.deliveries])

    inbox.collect(lambda: len(got) >= 500, take)
    assert [delivery.body for delivery in got] == bodies
    assert got[0].headers == {"n": "x"}
    assert got[0].routing_key == address.queue
    assert batches < 250
    consumer.stop(DEADLINE_S)
    assert depth(rabbitmq, address) == 0


def test_unsettled_messages_go_back_when_the_consumer_stops(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"a", b"b", b"c"])
    consumer = links.consumer(address, inbox)
    consumer.consume()
    _first, second, third = receive(inbox, 3)
    consumer.ack(second.epoch, [second.tag])
    consumer.reject(third.epoch, [third.tag])
    consumer.stop(DEADLINE_S)
    wait_for_depth(rabbitmq, address, 1)
    assert drain(rabbitmq, address) == [b"a"]


def test_given_back_messages_are_delivered_again(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"a"])
    consumer = links.consumer(address, inbox)
    consumer.consume()
    (first,) = receive(inbox, 1)
    consumer.give_back(first.epoch, [first.tag])
    (again,) = receive(inbox, 1)
    assert again.redelivered
    assert again.tag != first.tag
    consumer.ack(again.epoch, [again.tag, again.tag, first.tag])  # settled once each, whatever
    consumer.ack(again.epoch, [again.tag])
    consumer.probe(again.epoch, 1)
    inbox.wait(AcksProcessed)  # the channel is still there: no tag was settled twice


def test_a_probe_is_answered_after_the_acks_before_it_were_processed(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"%d" % n for n in range(200)])
    consumer = links.consumer(address, inbox)
    consumer.consume()
    got = receive(inbox, 200)
    # In an order that cannot become one multiple ack.
    for delivery in reversed(got):
        consumer.ack(delivery.epoch, [delivery.tag])
    consumer.probe(got[0].epoch, 42)
    assert inbox.wait(AcksProcessed) == AcksProcessed("tasks", got[0].epoch, 42)
    # Cut off without a word: only what the broker has processed counts.
    cut_off(rabbitmq, inbox)
    assert depth(rabbitmq, address) == 0


def test_pause_and_consume_cycles_lose_nothing(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    bodies = [b"%d" % n for n in range(1000)]
    put_messages(rabbitmq, address, bodies)
    consumer = links.consumer(address, inbox)
    inbox.wait(LinkUp)
    got: list[bytes] = []

    def take(event: AmqpEvent) -> None:
        if isinstance(event, Delivered):
            got.extend(delivery.body for delivery in event.deliveries)
            consumer.ack(event.deliveries[0].epoch, [d.tag for d in event.deliveries])

    for _ in range(10):
        consumer.consume()
        consumer.pause()
        stopped = False

        def take_until_stopped(event: AmqpEvent) -> None:
            nonlocal stopped
            take(event)
            stopped = stopped or isinstance(event, ConsumeStopped)

        inbox.collect(lambda: stopped, take_until_stopped)  # noqa: B023
    # After the last ConsumeStopped nothing may come: the next answer is that of the probe.
    consumer.probe(1, 7)
    event = inbox.next()
    while not isinstance(event, AcksProcessed):
        assert not isinstance(event, Delivered)
        event = inbox.next()
    consumer.consume()
    inbox.collect(lambda: len(got) >= 1000, take)
    assert sorted(got) == sorted(bodies)


def test_a_second_exclusive_consumer_waits_and_takes_over_when_the_first_goes(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    """Fault 18."""
    address = make_queue(rabbitmq)
    first = links.consumer(address, inbox, "first")
    first.consume()
    inbox.wait(Consuming, lambda event: event.link == "first")
    second = links.consumer(address, inbox, "second")
    second.consume()
    for _ in range(6):  # many more refusals than the three that made others give up
        down = inbox.wait(LinkDown)
        assert "exclusive" in down.reason
        assert f"127.0.0.1:{rabbitmq.port}" in down.reason
    assert not any(isinstance(event, LinkUp) and event.link == "second" for event in inbox.seen)
    first.stop(DEADLINE_S)
    inbox.wait(Consuming, lambda event: event.link == "second")


def test_published_messages_are_confirmed_and_pending_falls_to_nothing(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = links.publisher(address, inbox)
    publisher.publish([(n, b"%d" % n) for n in range(3000)])
    confirmed: list[int] = []

    def take(event: AmqpEvent) -> None:
        assert not isinstance(event, Unroutable)
        if isinstance(event, Confirmed):
            confirmed.extend(event.tokens)

    inbox.collect(lambda: len(confirmed) >= 3000, take)
    assert sorted(confirmed) == list(range(3000))
    assert publisher.pending() == 0
    assert drain(rabbitmq, address) == [b"%d" % n for n in range(3000)]


def test_a_message_without_a_queue_comes_back_as_unroutable_and_the_next_is_confirmed(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = links.publisher(address, inbox)
    nowhere = PublishKwargs("", "no-such-queue", True, {"delivery_mode": 2})
    publisher.publish([(1, b"lost"), (2, b"lost")], nowhere)
    publisher.publish([(3, b"found")])
    refused = inbox.wait(Unroutable)
    assert "no-such-queue" in refused.reason
    tokens = list(refused.tokens)
    while len(tokens) < 2:
        tokens.extend(inbox.wait(Unroutable).tokens)
    assert sorted(tokens) == [1, 2]
    assert any(isinstance(e, Confirmed) for e in inbox.seen) or inbox.wait(Confirmed)
    assert publisher.pending() == 0
    assert drain(rabbitmq, address) == [b"found"]


def test_fire_and_forget_sends_only_the_newest_of_the_time_without_a_connection(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = Publisher(links.loop, address, name="reports", put=inbox.put)
    links.made.append(publisher)
    for n in range(3):
        publisher.publish([(FIRE_AND_FORGET, b"report %d" % n)])
    publisher.start()
    inbox.wait(LinkUp)
    publisher.publish([(FIRE_AND_FORGET, b"now")])
    assert publisher.pending() == 0
    publisher.stop(DEADLINE_S)
    assert drain(rabbitmq, address) == [b"report 2", b"now"]


def test_a_message_too_large_for_the_broker_is_handed_back_and_the_others_arrive(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    publisher = links.publisher(address, inbox)
    too_large = bytes(17 * MIB)  # RabbitMQ 4 takes 16 MiB
    publisher.publish([(1, b"a"), (2, too_large), (3, b"c")])
    confirmed: set[int] = set()
    refused: set[int] = set()

    def take(event: AmqpEvent) -> None:
        if isinstance(event, Confirmed):
            confirmed.update(event.tokens)
        if isinstance(event, Unroutable):
            refused.update(event.tokens)

    inbox.collect(lambda: publisher.pending() == 0 and len(confirmed) == 2, take)
    assert confirmed == {1, 3}
    assert refused == {2}
    assert set(drain(rabbitmq, address)) == {b"a", b"c"}


def test_undigested_bodies_stay_within_the_limit(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    size = MIB
    put_messages(rabbitmq, address, [bytes(size) for _ in range(40)])
    consumer = links.consumer(address, inbox, undigested_limit_bytes=8 * MIB)
    consumer.consume()
    got = receive(inbox, 5)
    consumer.probe(got[0].epoch, 1)  # a round trip: whatever was under way has come after it
    seen = 0

    def take(event: AmqpEvent) -> None:
        nonlocal seen
        if isinstance(event, Delivered):
            got.extend(event.deliveries)
        seen += isinstance(event, AcksProcessed)

    inbox.collect(lambda: seen == 1, take)
    consumer.probe(got[0].epoch, 2)
    inbox.collect(lambda: seen == 2, take)
    assert len(got) * size <= 9 * MIB
    total = len(got)
    consumer.ack(got[0].epoch, [delivery.tag for delivery in got])

    def take_and_ack(event: AmqpEvent) -> None:
        nonlocal total
        if isinstance(event, Delivered):
            total += len(event.deliveries)
            consumer.ack(event.deliveries[0].epoch, [d.tag for d in event.deliveries])

    inbox.collect(lambda: total >= 40, take_and_ack)


def test_large_messages_pass_whole_and_the_connection_survives(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq, rabbitmq.url + "?heartbeat=5")
    publisher = links.publisher(address, inbox)
    consumer = links.consumer(address, inbox)
    consumer.consume()
    bodies = [bytes([n]) * (5 * MIB) for n in range(10)] + [b"z" * (15 * MIB)]
    publisher.publish(list(enumerate(bodies)))
    got: list[bytes] = []

    def take(event: AmqpEvent) -> None:
        assert not isinstance(event, LinkDown)
        if isinstance(event, Delivered):
            got.extend(delivery.body for delivery in event.deliveries)
            consumer.ack(event.deliveries[0].epoch, [d.tag for d in event.deliveries])

    inbox.collect(lambda: len(got) == len(bodies) and publisher.pending() == 0, take)
    assert got == bodies


def test_a_body_of_100_mb_passes_and_starves_no_heartbeat(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    """The loop, which sends heartbeats, comes round between the pieces of a body."""
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1
        links.loop.call_later(0, turn)

    limit = "persistent_term:put(max_message_size, {}).".format  # where RabbitMQ 4 keeps it
    rabbitmq.control("eval", limit(128 * MIB))
    try:
        address = make_queue(rabbitmq)
        publisher = links.publisher(address, inbox)
        consumer = links.consumer(address, inbox)
        consumer.consume()
        publisher.publish([(1, bytes(100_000_000)), (2, b"next")])
        links.loop.call(turn)
        sizes: list[int] = []

        def take(event: AmqpEvent) -> None:
            assert not isinstance(event, LinkDown | Unroutable)
            if isinstance(event, Delivered):
                sizes.extend(len(delivery.body) for delivery in event.deliveries)
                consumer.ack(event.deliveries[0].epoch, [d.tag for d in event.deliveries])

        inbox.collect(lambda: len(sizes) == 2 and publisher.pending() == 0, take, 250)
        assert sizes == [100_000_000, 4]
        assert turns > 100
    finally:
        for link in links.made:
            link.stop(DEADLINE_S)
        rabbitmq.control("eval", limit(16 * MIB))


def test_a_busy_owner_does_not_cost_the_connection(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    """Heartbeats are the AMQP thread's; the owner computes for three of them and is still up."""
    address = make_queue(rabbitmq, rabbitmq.url + "?heartbeat=3")
    consumer = links.consumer(address, inbox)
    consumer.consume()
    inbox.wait(Consuming)
    end = time.monotonic() + 10
    count = 0
    while time.monotonic() < end:
        count += 1
    consumer.probe(1, 1)
    assert isinstance(inbox.next(), AcksProcessed)


def test_wrong_credentials_are_refused_once_and_never_tried_again(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq, rabbitmq.url_for("admin", "wrong-secret"))
    links.consumer(address, inbox).consume()
    event = inbox.next()
    assert isinstance(event, LinkRefused)
    assert isinstance(event.error, NotAllowed)
    assert f"127.0.0.1:{rabbitmq.port}" in event.error.message
    assert "admin" in event.error.message
    assert "wrong-secret" not in str(event.error)
    with pytest.raises(NotAllowed, match="credentials of user admin"):
        check_connection(address.url)


def test_a_refused_link_works_again_with_new_credentials(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    wrong = QueueAddress(
        rabbitmq.url_for("admin", "old-secret"), address.queue, publish=address.publish
    )
    publisher = links.publisher(wrong, inbox)
    publisher.publish([(1, b"kept")])
    inbox.wait(LinkRefused)
    publisher.readdress(address)
    assert list(inbox.wait(Confirmed).tokens) == [1]


def test_a_consumer_goes_on_at_a_new_address_and_gets_what_was_not_acked_again(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"a"])
    consumer = links.consumer(address, inbox)
    consumer.consume()
    (first,) = receive(inbox, 1)
    url = rabbitmq.add_user("next", "next-secret", read=f"^{address.queue}$")
    consumer.readdress(QueueAddress(url, address.queue))
    (again,) = receive(inbox, 1)
    assert again.epoch == first.epoch + 1
    assert again.body == b"a"
    consumer.ack(again.epoch, [again.tag])
    consumer.stop(DEADLINE_S)
    rabbitmq.remove_user("next")
    assert depth(rabbitmq, address) == 0


def test_addresses_that_change_at_any_moment_lose_and_mix_up_nothing(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    target = make_queue(rabbitmq)
    bodies = {b"%d" % n for n in range(3000)}
    put_messages(rabbitmq, address, sorted(bodies))
    consumer = links.consumer(address, inbox)
    consumer.consume()
    publisher = links.publisher(target, inbox)
    got: set[bytes] = set()
    events = 0

    def take(event: AmqpEvent) -> None:
        nonlocal events
        assert not isinstance(event, LinkDown) or "exclusive" in event.reason
        if isinstance(event, Delivered):
            for delivery in event.deliveries:
                if delivery.body not in got:
                    got.add(delivery.body)
                    publisher.publish([(int(delivery.body), delivery.body)])
            consumer.ack(event.deliveries[0].epoch, [d.tag for d in event.deliveries])
        events += 1
        if events % 3 == 0 and events < 90:
            consumer.readdress(address)
            publisher.readdress(target)

    # Each change brings events of its own, so they do not end before the last one.
    inbox.collect(lambda: events >= 90 and got == bodies and publisher.pending() == 0, take)
    consumer.stop(DEADLINE_S)
    publisher.stop(DEADLINE_S)
    assert depth(rabbitmq, address) == 0
    assert set(drain(rabbitmq, target)) == bodies


def test_a_permission_that_is_missing_refuses_the_link(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    url = rabbitmq.add_user("reader", "reader-secret", read="^other$")
    consumer = links.consumer(QueueAddress(url, address.queue), inbox)
    consumer.consume()
    error = inbox.wait(LinkRefused).error
    assert isinstance(error, NotAllowed)
    assert address.queue in error.message
    rabbitmq.remove_user("reader")


def test_an_endpoint_needs_nothing_but_read_on_its_queue_and_write_on_the_exchange(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"task"])
    with rabbitmq.channel() as channel:
        channel.exchange_declare("only-results", "topic")
        results = make_queue(rabbitmq)
        channel.queue_bind(results.queue, "only-results", "#")
    url = rabbitmq.add_user(
        "limited", "limited-secret", read=f"^{address.queue}$", write="^only-results$"
    )
    consumer = links.consumer(QueueAddress(url, address.queue), inbox)
    consumer.consume()
    (delivery,) = receive(inbox, 1)
    consumer.ack(delivery.epoch, [delivery.tag])
    route = PublishKwargs("only-results", "a.results", True, {"delivery_mode": 2})
    publisher = links.publisher(QueueAddress(url, results.queue, publish=route), inbox)
    publisher.publish([(1, b"result")])
    assert list(inbox.wait(Confirmed).tokens) == [1]
    for link in links.made:
        link.stop(DEADLINE_S)
    rabbitmq.remove_user("limited")
    with rabbitmq.channel() as channel:
        channel.exchange_delete("only-results")


def test_a_queue_that_is_not_there_yet_is_tried_again_until_the_service_makes_it(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    with rabbitmq.channel() as channel:
        channel.queue_delete(address.queue)
    consumer = links.consumer(address, inbox)
    consumer.consume()
    down = inbox.wait(LinkDown)
    assert address.queue in down.reason
    with rabbitmq.channel() as channel:
        channel.queue_declare(address.queue, durable=True)
    inbox.wait(Consuming)
    # Deleted under a running consumer: noticed, told, and waited for again.
    with rabbitmq.channel() as channel:
        channel.queue_delete(address.queue)
    assert "took the queue" in inbox.wait(LinkDown).reason
    with rabbitmq.channel() as channel:
        channel.queue_declare(address.queue, durable=True)
    inbox.wait(Consuming)


def test_the_guard_is_asked_before_a_channel_is_used_and_its_error_ends_the_link(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox
) -> None:
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"a"])

    def guard() -> None:
        raise LeaseLost("Another agent has this endpoint.")

    links.consumer(address, inbox, guard=guard).consume()
    publisher = links.publisher(address, inbox, guard=guard)
    publisher.publish([(1, b"never")])
    first, second = inbox.wait(LinkRefused), inbox.wait(LinkRefused)
    assert isinstance(first.error, LeaseLost)
    assert {first.link, second.link} == {"tasks", "results"}
    assert drain(rabbitmq, address) == [b"a"]


def test_tls_checks_the_authority_and_the_host_name(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PeerUntrusted, match="authority is not trusted") as untrusted:
        check_connection(rabbitmq.tls_url)
    assert f"localhost:{rabbitmq.tls_port}" in str(untrusted.value)
    other_name = rabbitmq.tls_url.replace("localhost", "127.0.0.1")
    with pytest.raises(PeerUntrusted, match="not for the name"):
        check_connection(other_name, ssl_ca_file=str(rabbitmq.ca_file))
    check_connection(rabbitmq.tls_url, ssl_ca_file=str(rabbitmq.ca_file))
    monkeypatch.setenv("SSL_CERT_FILE", str(rabbitmq.ca_file))
    check_connection(rabbitmq.tls_url)
    address = make_queue(rabbitmq, rabbitmq.tls_url)
    publisher = links.publisher(address, inbox)
    consumer = links.consumer(address, inbox)
    consumer.consume()
    publisher.publish([(1, b"secret" * 100_000)])
    (delivery,) = receive(inbox, 1)
    assert delivery.body == b"secret" * 100_000


def test_no_log_line_holds_the_password_even_with_everything_switched_on(
    rabbitmq: RabbitMq, links: Links, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    for logger in ("", "pika", "cep"):
        caplog.set_level(logging.DEBUG, logger=logger)
    address = make_queue(rabbitmq)
    put_messages(rabbitmq, address, [b"payload-of-a-user"])
    consumer = links.consumer(address, inbox)
    consumer.consume()
    publisher = links.publisher(address, inbox)
    receive(inbox, 1)
    publisher.publish([(1, b"payload-of-a-user")])
    inbox.wait(Confirmed)
    cut_off(rabbitmq, inbox)
    wrong = QueueAddress(rabbitmq.url_for("admin", "other-secret"), address.queue)
    links.consumer(wrong, inbox, "wrong")
    inbox.wait(LinkRefused)
    assert "link tasks is down" in caplog.text or "link results is down" in caplog.text
    for secret in ("admin-secret", "other-secret", "payload-of-a-user"):
        lines = [record.getMessage() for record in caplog.records if secret in record.getMessage()]
        assert lines == []


def test_a_plain_connection_to_a_tls_port_says_so(rabbitmq: RabbitMq) -> None:
    with pytest.raises(TemporaryFailure) as failure:
        check_connection(rabbitmq.url, port=rabbitmq.tls_port, timeout_s=5)
    assert f"127.0.0.1:{rabbitmq.tls_port}" in failure.value.message


def test_a_refused_configured_port_names_both_ports_and_the_line_to_remove(
    rabbitmq: RabbitMq,
) -> None:
    closed = free_port()
    check_connection(rabbitmq.url)
    with pytest.raises(TemporaryFailure) as failure:
        check_connection(rabbitmq.url, port=closed)
    sentence = failure.value.message
    assert f"127.0.0.1:{closed}" in sentence
    assert f"port {rabbitmq.port}" in sentence
    assert f"`amqp_port: {closed}`" in sentence
    assert rabbitmq.password not in str(failure.value)
