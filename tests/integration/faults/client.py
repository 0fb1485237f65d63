"""The client of a fault run: submits whatever happens, and reads answers whatever happens.

Two threads with connections of their own, straight to the broker. Each comes back after a lost
connection; the reader reads on until nothing comes any more. A submit counts only when the broker
has committed it, and is repeated until it has; so a task may come to the endpoint twice under one
id, as from a service whose link broke.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException

from cep.wire.result import unpack_result
from tests.integration.faults.books import Books
from tests.integration.rabbitmq import RabbitMq

AGAIN_S = 0.05
# The last: a handshake takes too long.
LOST = (pika.exceptions.AMQPError, OSError, AMQPConnectorException)
STATUS_REPORT = b'"message_type":"ep_status_report"'


@dataclass(frozen=True, slots=True)
class Parcel:
    """One task to submit."""

    task_id: str
    label: str
    body: bytes
    headers: dict[str, str]


class Client:
    """See the module. Use it with `with`."""

    def __init__(
        self, broker: RabbitMq, tasks_queue: str, results_queue: str, books: Books
    ) -> None:
        self._broker = broker
        self._tasks_queue = tasks_queue
        self._results_queue = results_queue
        self._books = books
        self._parcels: queue.SimpleQueue[Sequence[Parcel] | None] = queue.SimpleQueue()
        self.asked: list[str] = []  # labels of all that was to be submitted so far
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._submit_all, name="submitter"),
            threading.Thread(target=self._read_all, name="reader"),
        ]

    def __enter__(self) -> Client:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._parcels.put(None)
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"the {thread.name} did not end"

    def submit(self, parcels: Sequence[Parcel]) -> None:
        """Submit these together, as soon as the broker takes them."""
        for parcel in parcels:
            self._books.submitted(parcel.task_id, parcel.label)
            self.asked.append(parcel.label)
        self._parcels.put(parcels)

    # --- the threads ------------------------------------------------------------------------------

    def _submit_all(self) -> None:
        parcels: Sequence[Parcel] | None = self._parcels.get()
        while parcels is not None:
            with contextlib.suppress(*LOST), self._broker.channel() as channel:
                channel.tx_select()
                while parcels is not None:
                    for parcel in parcels:
                        properties = pika.BasicProperties(
                            delivery_mode=2, headers=dict(parcel.headers)
                        )
                        channel.basic_publish("", self._tasks_queue, parcel.body, properties)
                    channel.tx_commit()
                    parcels = ()  # should the connection end now, these are not sent again
                    parcels = self._next(channel)
            if self._ended.wait(AGAIN_S):
                return

    def _next(
        self, channel: pika.adapters.blocking_connection.BlockingChannel
    ) -> Sequence[Parcel] | None:
        """The next parcels; the connection is kept alive meanwhile."""
        while True:
            with contextlib.suppress(queue.Empty):
                return self._parcels.get(timeout=1.0)
            # An idle connection must answer heartbeats, and notice that it is gone.
            channel.connection.process_data_events(0)

    def _read_all(self) -> None:
        while not self._ended.wait(AGAIN_S):
            with contextlib.suppress(*LOST), self._broker.channel() as channel:
                channel.basic_qos(prefetch_count=100)
                for method, _, body in channel.consume(self._results_queue, inactivity_timeout=0.2):
                    if method is None:  # a moment without an answer
                        if self._ended.is_set():
                            channel.cancel()
                            break
                        continue
                    if STATUS_REPORT not in body[:60]:
                        self._books.answered(
                            body, unpack_result(body), delivered_before=method.redelivered
                        )
                    channel.basic_ack(method.delivery_tag)
