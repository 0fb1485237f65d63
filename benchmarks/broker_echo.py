"""Echo through the embedded broker and through RabbitMQ, side by side in one run.

    python -m benchmarks.broker_echo [--messages 5000] [--size 1000] [--rounds 3]

One client process keeps a window of persistent, confirmed messages on the way to a durable queue;
an echo connection in the same process consumes, publishes each to a second durable queue and
acknowledges; the first connection consumes that. Printed is echoes per second for each broker and
the ratio; the rounds alternate between the two, and the best of each counts. RabbitMQ runs in the
container of the integration tests. Both are bounded by the client, which is pika in one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pika
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel

from tests.integration.docker_engine import ensure_engine
from tests.integration.embedded_broker import EmbeddedBroker
from tests.integration.rabbitmq import RabbitMq

PERSISTENT = pika.BasicProperties(delivery_mode=2)
WINDOW = 500


class Echo:
    """One measured round on one broker.

    Args:
        url: AMQP URL of an administrator.
        messages: How many to send.
        size: Bytes per body.
    """

    def __init__(self, url: str, messages: int, size: int) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.heartbeat = 0
        self._messages = messages
        self._body = b"x" * size
        self._loop = IOLoop()
        self._sent = self._back = self._confirmed = 0
        self._channels: dict[str, Channel] = {}
        self._connections: list[SelectConnection] = []
        self._seconds = 0.0

    def run(self) -> float:
        """Return echoes per second."""
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            for queue in ("bench.there", "bench.back"):
                channel.queue_delete(queue)
                channel.queue_declare(queue, durable=True)
        for role in ("client", "echo"):
            opened = SelectConnection(
                self._parameters,
                on_open_callback=lambda made, role=role: made.channel(
                    on_open_callback=lambda channel: self._opened(role, channel)
                ),
                on_open_error_callback=lambda _made, error: self._failed(error),
                custom_ioloop=self._loop,
            )
            self._connections.append(opened)
        self._loop.start()
        self._loop.close()
        return self._messages / self._seconds

    def _failed(self, error: object) -> None:
        raise SystemExit(f"no connection: {error!r}")

    def _opened(self, role: str, channel: Channel) -> None:
        self._channels[role] = channel
        channel.confirm_delivery(self._on_confirm if role == "client" else lambda _frame: None)
        queue, action = {
            "client": ("bench.back", self._on_back),
            "echo": ("bench.there", self._on_there),
        }[role]
        channel.basic_consume(queue, action, callback=lambda _frame: self._ready())

    def _ready(self) -> None:
        if len(self._channels) == 2 and not self._sent:
            self._started = time.perf_counter()
            self._send()

    def _send(self) -> None:
        while self._sent < self._messages and self._sent - self._back < WINDOW:
            self._channels["client"].basic_publish("", "bench.there", self._body, PERSISTENT)
            self._sent += 1

    def _on_confirm(self, frame: pika.frame.Method) -> None:
        self._confirmed = frame.method.delivery_tag
        self._finish()

    def _on_there(self, channel: Channel, method: object, _properties: object, body: bytes) -> None:
        channel.basic_publish("", "bench.back", body, PERSISTENT)
        channel.basic_ack(method.delivery_tag)  # type: ignore[attr-defined]

    def _on_back(self, channel: Channel, method: object, _properties: object, _body: bytes) -> None:
        channel.basic_ack(method.delivery_tag)  # type: ignore[attr-defined]
        self._back += 1
        self._send()
        self._finish()

    def _finish(self) -> None:
        if self._back == self._messages and not self._seconds:
            self._seconds = time.perf_counter() - self._started
            for connection in self._connections:
                connection.add_on_close_callback(lambda *_: self._loop.stop())
                connection.close()


def main() -> None:
    """Measure both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=5000)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ensure_engine()
    with tempfile.TemporaryDirectory() as directory:
        brokers = {
            "rabbitmq": RabbitMq(Path(directory) / "ca.pem"),
            "embedded": EmbeddedBroker(Path(directory) / "state"),
        }
        try:
            brokers["rabbitmq"].create()
            brokers["embedded"].start()
            best = dict.fromkeys(brokers, 0.0)
            for number in range(options.rounds):
                for name, broker in brokers.items():
                    rate = Echo(broker.url, options.messages, options.size).run()
                    best[name] = max(best[name], rate)
                    print(f"round {number + 1}: {name:9} {rate:8.0f} echoes/s", flush=True)
        finally:
            for broker in brokers.values():
                broker.remove()
    ratio = best["embedded"] / best["rabbitmq"]
    print(f"best: embedded/rabbitmq = {ratio:.2f}")


if __name__ == "__main__":
    main()
