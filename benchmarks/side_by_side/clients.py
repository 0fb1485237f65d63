"""How much of a burst is its client: the same bursts with the lean client and with one of pika's.

    python -m benchmarks.side_by_side.clients [--tasks 10000] [--rounds 3]

The table's bursts are measured with a client that takes as little as possible of the processors it
shares (`benchmarks.side_by_side.client`). A script that publishes with pika and reads with pika is
slower than that, and then it bounds the echo and every endpoint alike. Both are measured here, in
turn: tasks per second of the echo and of each engine of ours, and the share of the echo.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
import uuid
from pathlib import Path

import pika

from benchmarks.side_by_side import tasks
from benchmarks.side_by_side.client import ID_KEY, ID_LENGTH, AnswersMissing
from benchmarks.side_by_side.endpoints import ENGINES, EchoProcess, Endpoint, Ours
from benchmarks.side_by_side.place import Place, place
from benchmarks.side_by_side.session import WARM_UP, Started
from cep.wire.task import pack_task
from tests.integration.docker_engine import ensure_engine
from tests.integration.rabbitmq import RabbitMq

SILENCE_S = 120.0


def lean(where: Place, count: int) -> float:
    """Tasks per second of a burst with the table's client."""
    return count / where.client.burst(tasks.messages(where.client, tasks.no_op(), count))[-1]


def plain(where: Place, count: int) -> float:
    """The same with two of pika's BlockingConnections, one thread for each, without confirms."""
    buffers = tasks.no_op()
    ids = [str(uuid.uuid4()) for _ in range(count)]
    bodies = [pack_task(one, buffers) for one in ids]

    def publish() -> None:
        with pika.BlockingConnection(pika.URLParameters(where.url)) as connection:
            channel = connection.channel()
            for task_id, body in zip(ids, bodies, strict=True):
                headers = {"task_uuid": task_id, "function_uuid": tasks.FUNCTION_ID}
                properties = pika.BasicProperties(delivery_mode=2, headers=headers)
                channel.basic_publish("", where.tasks, body, properties)

    writer = threading.Thread(target=publish)
    with pika.BlockingConnection(pika.URLParameters(where.url)) as connection:
        answers = connection.channel().consume(
            where.results, auto_ack=True, inactivity_timeout=SILENCE_S
        )
        began = time.perf_counter()
        writer.start()
        left = set(ids)
        for _method, _properties, body in answers:
            if body is None:
                raise AnswersMissing(f"{len(left)} of {count} tasks were not answered")
            at = body.find(ID_KEY) + len(ID_KEY)
            left.discard(body[at : at + ID_LENGTH].decode("ascii", "replace"))
            if not left:
                break
        seconds = time.perf_counter() - began
        writer.join()
    return count / seconds


def measure(endpoint: Endpoint, url: str, directory: Path, count: int) -> tuple[float, float]:
    """Both clients, one after the other, in one life of the endpoint."""
    with place(url, directory) as where:
        first = tasks.messages(where.client, tasks.no_op(), 1)
        with Started(endpoint, where, first):
            where.client.take(1)
            where.client.burst(tasks.messages(where.client, tasks.no_op(), WARM_UP))
            by_lean = lean(where, count)
            where.client.close()  # it would take some of the answers
            return by_lean, plain(where, count)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ensure_engine()
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="cepb-") as home:
        broker = RabbitMq(Path(home) / "ca.pem")
        try:
            broker.create()
            for number in range(options.rounds):
                for endpoint in (EchoProcess(), *map(Ours, ENGINES)):
                    directory = Path(home) / f"{number}{endpoint.engine}"
                    both = measure(endpoint, broker.direct_url, directory, options.tasks)
                    found.setdefault(endpoint.name, []).append(both)
        finally:
            broker.remove()
    medians = {
        name: [statistics.median(values) for values in zip(*rounds, strict=True)]
        for name, rounds in found.items()
    }
    for name, (by_lean, by_plain) in medians.items():
        shares = [by_lean / medians["echo"][0], by_plain / medians["echo"][1]]
        print(
            f"{name:14} lean client {by_lean:8,.0f}/s ({shares[0]:.2f} of the echo)"
            f"   pika's {by_plain:8,.0f}/s ({shares[1]:.2f})"
        )


if __name__ == "__main__":
    main()
