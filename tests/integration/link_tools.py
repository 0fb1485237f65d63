"""What the link scenarios share: an event inbox that waits with a deadline, and a task queue."""

from __future__ import annotations

import contextlib
import queue
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

from cep.amqp.events import AmqpEvent, LinkDown
from cep.model import PublishKwargs, QueueAddress
from tests.integration.rabbitmq import RabbitMq

Event = TypeVar("Event")
DEADLINE_S = 60.0


class Inbox:
    """Takes events from links and lets a test wait for the one it means; keeps them all."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[AmqpEvent] = queue.SimpleQueue()
        self.seen: list[AmqpEvent] = []

    def put(self, event: AmqpEvent) -> None:
        """Take an event; called in the AMQP thread."""
        self._queue.put(event)

    def next(self, deadline_s: float = DEADLINE_S) -> AmqpEvent:
        """The next event.

        Raises:
            AssertionError: None came in time; the text tells what came before.
        """
        try:
            event = self._queue.get(timeout=deadline_s)
        except queue.Empty:
            raise AssertionError(f"no event in {deadline_s} s; before: {self.seen[-10:]}") from None
        self.seen.append(event)
        return event

    def wait(
        self,
        kind: type[Event],
        that: Callable[[Event], bool] = lambda _event: True,
        deadline_s: float = DEADLINE_S,
    ) -> Event:
        """Take events until one of this kind, passing over all others."""
        end = time.monotonic() + deadline_s
        while True:
            left = end - time.monotonic()
            assert left > 0, f"no {kind.__name__} in {deadline_s} s; came: {self.seen[-10:]}"
            event = self.next(left)
            if isinstance(event, kind) and that(event):
                return event

    def collect(
        self,
        until: Callable[[], bool],
        take: Callable[[AmqpEvent], None],
        deadline_s: float = DEADLINE_S,
    ) -> None:
        """Give each event to `take` until the condition holds."""
        end = time.monotonic() + deadline_s
        while not until():
            take(self.next(max(0.0, end - time.monotonic())))

    def empty(self) -> bool:
        """Whether no event waits."""
        return self._queue.empty()


def make_queue(rabbitmq: RabbitMq, url: str | None = None) -> QueueAddress:
    """A fresh durable queue, and the address of it for consuming and publishing."""
    name = f"q-{uuid.uuid4()}"
    with rabbitmq.channel() as channel:
        channel.queue_declare(name, durable=True)
    route = PublishKwargs("", name, True, {"delivery_mode": 2, "content_type": "text/plain"})
    return QueueAddress(url=url or rabbitmq.url, queue=name, publish=route)


def cut_off(rabbitmq: RabbitMq, inbox: Inbox) -> LinkDown:
    """Have the broker close the administrator's connections until a link says so.

    RabbitMQ lists a connection a moment after it was opened, and closes those that it lists.
    """
    for _ in range(int(DEADLINE_S)):
        rabbitmq.close_connections()
        with contextlib.suppress(AssertionError):
            return inbox.wait(LinkDown, deadline_s=5.0)
    raise AssertionError(f"no LinkDown in {DEADLINE_S} s; came: {inbox.seen[-10:]}")


def put_messages(rabbitmq: RabbitMq, address: QueueAddress, bodies: list[bytes]) -> None:
    """Publish bodies to the queue from outside, and know that they are in it."""
    import pika

    with rabbitmq.channel() as channel:
        channel.confirm_delivery()
        for body in bodies:
            properties = pika.BasicProperties(delivery_mode=2, headers={"n": "x"})
            channel.basic_publish("", address.queue, body, properties)


def wait_for_depth(rabbitmq: RabbitMq, address: QueueAddress, wanted: int) -> None:
    """Wait until so many messages are ready: what was given back is so a moment later."""
    end = time.monotonic() + DEADLINE_S
    while (found := depth(rabbitmq, address)) != wanted:
        assert time.monotonic() < end, f"{found} messages are ready, not {wanted}"


def depth(rabbitmq: RabbitMq, address: QueueAddress) -> int:
    """Messages ready in the queue."""
    with rabbitmq.channel() as channel:
        return int(channel.queue_declare(address.queue, passive=True).method.message_count)


def drain(rabbitmq: RabbitMq, address: QueueAddress) -> list[bytes]:
    """Take everything out of the queue, in order."""
    bodies: list[bytes] = []
    with rabbitmq.channel() as channel:
        while True:
            method, _properties, body = channel.basic_get(address.queue, auto_ack=True)
            if method is None:
                return bodies
            bodies.append(body)
