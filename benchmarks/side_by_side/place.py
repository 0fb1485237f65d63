"""Where one endpoint runs: a directory, and queues of its own on the broker all share."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika

from benchmarks.side_by_side.client import Client

EXCHANGE = "results"
#: The published endpoints ask whether it exists.
TASKS_EXCHANGE = "tasks"


class Place:
    """Queues and directory of one run of one endpoint.

    Attributes:
        directory: Short, since sockets lie below it; the mark of its processes as well.
        endpoint_id: UUID text.
        client: The benchmark's client, on these queues.
    """

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.endpoint_id = str(uuid.uuid4())
        self.tasks = f"{self.endpoint_id}.tasks"
        self.results = f"{self.endpoint_id}.results"
        self.heartbeats = f"{self.endpoint_id}.heartbeats"
        directory.mkdir(mode=0o700)
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            for exchange in (EXCHANGE, TASKS_EXCHANGE):
                channel.exchange_declare(exchange, "direct", durable=True)
            for queue in (self.tasks, self.results, self.heartbeats):
                channel.queue_declare(queue, durable=True)
            channel.queue_bind(self.tasks, TASKS_EXCHANGE, self.tasks)
            for queue in (self.results, self.heartbeats):
                channel.queue_bind(queue, EXCHANGE, queue)
        self.client = Client(url, self.tasks, self.results)

    def registration(self) -> dict[str, Any]:
        """What a web service answers to the endpoint's registration."""
        return {
            "endpoint_id": self.endpoint_id,
            "task_queue_info": {
                "connection_url": self.url,
                "exchange": TASKS_EXCHANGE,
                "queue": self.tasks,
            },
            "result_queue_info": self._publish_to(self.results),
            "heartbeat_queue_info": self._publish_to(self.heartbeats),
        }

    def _publish_to(self, queue: str) -> dict[str, Any]:
        return {
            "connection_url": self.url,
            "exchange": EXCHANGE,
            "queue": queue,
            "queue_publish_kwargs": {
                "exchange": EXCHANGE,
                "routing_key": queue,
                "mandatory": True,
                "properties": {"delivery_mode": 2},
            },
        }

    def close(self) -> None:
        """Remove queues and directory."""
        self.client.close()
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            channel = connection.channel()
            for queue in (self.tasks, self.results, self.heartbeats):
                channel.queue_delete(queue)
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def place(url: str, directory: Path) -> Iterator[Place]:
    """A place that is cleared away at the end."""
    made = Place(url, directory)
    try:
        yield made
    finally:
        made.close()
