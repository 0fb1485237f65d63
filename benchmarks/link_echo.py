"""What the link costs: an echo of 10,000 messages through it against a bare pika echo.

Both consume from one queue and publish each body to another with confirms, on the same RabbitMQ in
the same run, alternating. The bare echo does the least a correct program can do with pika's
SelectConnection (ack and publish per message, in its callbacks, one thread). The link does more:
it hands batches to another thread, which acks and publishes them there.

    python -m benchmarks.link_echo [--messages 10000] [--size 2000] [--rounds 3] [--url AMQP_URL]

Without --url a RabbitMQ container is started, as the integration tests do. Prints messages per
second and CPU microseconds per message of both, and their ratio.
"""

from __future__ import annotations

import argparse
import queue
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pika

from cep.amqp.consumer import Consumer
from cep.amqp.events import AmqpEvent, Confirmed, Delivered
from cep.amqp.loop import AmqpLoop
from cep.amqp.publisher import Publisher
from cep.model import PublishKwargs, QueueAddress

DEADLINE_S = 120.0


def echo_with_links(url: str, source: str, target: str, count: int) -> None:
    """Consume, ack and publish through `Consumer` and `Publisher`, until all is confirmed."""
    events: queue.SimpleQueue[AmqpEvent] = queue.SimpleQueue()
    route = PublishKwargs("", target, True, {"delivery_mode": 2})
    loop = AmqpLoop()
    consumer = Consumer(loop, QueueAddress(url, source), name="tasks", put=events.put)
    publisher = Publisher(
        loop, QueueAddress(url, target, publish=route), name="results", put=events.put
    )
    loop.start()
    publisher.start()
    consumer.start()
    consumer.consume()
    token = confirmed = 0
    while confirmed < count:
        event = events.get(timeout=DEADLINE_S)
        if isinstance(event, Delivered):
            deliveries = event.deliveries
            consumer.ack(deliveries[0].epoch, [delivery.tag for delivery in deliveries])
            publisher.publish([(token + n, d.body) for n, d in enumerate(deliveries)])
            token += len(deliveries)
        elif isinstance(event, Confirmed):
            confirmed += len(event.tokens)
    consumer.stop(5)
    publisher.stop(5)
    loop.stop(5)


def echo_with_bare_pika(url: str, source: str, target: str, count: int) -> None:
    """The same with one SelectConnection and nothing else."""
    properties = pika.BasicProperties(delivery_mode=2)
    open_tags: set[int] = set()
    lowest = next_tag = 1

    def on_open(connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=on_channel)

    def on_channel(channel: pika.channel.Channel) -> None:
        channel.confirm_delivery(on_answer)
        channel.basic_qos(prefetch_count=512)
        channel.basic_consume(source, on_message, exclusive=True)

    def on_message(channel, method, _properties, body: bytes) -> None:  # type: ignore[no-untyped-def]
        nonlocal next_tag
        channel.basic_publish("", target, body, properties, mandatory=True)
        open_tags.add(next_tag)
        next_tag += 1
        channel.basic_ack(method.delivery_tag)

    def on_answer(frame) -> None:  # type: ignore[no-untyped-def]
        nonlocal lowest
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            open_tags.difference_update(range(lowest, tag + 1))
            lowest = tag + 1
        else:
            open_tags.discard(tag)
        if next_tag > count and not open_tags:
            connection.close()

    connection = pika.SelectConnection(
        pika.URLParameters(url),
        on_open_callback=on_open,
        on_close_callback=lambda connection, _error: connection.ioloop.stop(),
    )
    connection.ioloop.start()
    connection.ioloop.close()


def measure(echo: Callable[[str, str, str, int], None], url: str, count: int, size: int) -> tuple:
    """Fill a queue, echo it into another, check that all arrived.

    Returns:
        Seconds of wall time and of CPU.
    """
    source, target = f"bench-{uuid.uuid4()}", f"bench-{uuid.uuid4()}"
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for name in (source, target):
        channel.queue_declare(name, durable=True)
    for _ in range(count):
        channel.basic_publish("", source, bytes(size), pika.BasicProperties(delivery_mode=2))
    channel.close()
    wall, cpu = time.perf_counter(), time.process_time()
    echo(url, source, target, count)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    channel = connection.channel()
    arrived = channel.queue_declare(target, passive=True).method.message_count
    left = channel.queue_declare(source, passive=True).method.message_count
    for name in (source, target):
        channel.queue_delete(name)
    connection.close()
    if (arrived, left) != (count, 0):
        raise SystemExit(f"{echo.__name__}: {arrived} of {count} arrived, {left} left")
    return wall, cpu


def main() -> None:
    """Measure both, alternating, and print the best round of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=2000, help="bytes per message")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--url", help="AMQP URL of an administrator; default: start a container")
    options = parser.parse_args()
    broker = None
    url = options.url
    if url is None:
        from tests.integration.docker_engine import ensure_engine
        from tests.integration.rabbitmq import RabbitMq

        ensure_engine()
        broker = RabbitMq(Path(tempfile.mkdtemp(prefix="cep-bench-")) / "ca.pem")
        broker.create()
        url = broker.url
    try:
        best: dict[str, tuple[float, float]] = {}
        for _ in range(options.rounds):
            for echo in (echo_with_bare_pika, echo_with_links):
                taken = measure(echo, url, options.messages, options.size)
                best[echo.__name__] = min(best.get(echo.__name__, taken), taken)
    finally:
        if broker is not None:
            broker.remove()
            broker.ca_file.unlink()
            broker.ca_file.parent.rmdir()
    for name, (wall, cpu) in best.items():
        rate, cost = options.messages / wall, cpu / options.messages * 1e6
        print(f"{name:22} {rate:8.0f} messages/s   {cost:6.1f} us CPU per message")
    bare, link = best["echo_with_bare_pika"], best["echo_with_links"]
    rate, cost = bare[0] / link[0], link[1] / bare[1]
    print(f"link / bare pika       {rate:8.2f} of its rate  {cost:6.2f} of its CPU")


if __name__ == "__main__":
    main()
