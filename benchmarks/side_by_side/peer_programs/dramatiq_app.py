"""dramatiq on RabbitMQ, without results: the worker's module, and the client when run.

It keeps no results, so each task leaves one byte in a file, and the client watches the file grow.
Everything as it comes.
"""

import json
import os
import sys
import time
from pathlib import Path

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

broker = RabbitmqBroker(url=os.environ["PEER_URL"])
dramatiq.set_broker(broker)
DONE = Path(os.environ["PEER_DIRECTORY"]) / "done"
LOOK_EVERY_S = 0.0002


@dramatiq.actor(queue_name=os.environ["PEER_QUEUE"], max_retries=0)
def no_op():
    """Nothing, and a trace of it."""
    handle = os.open(DONE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(handle, b".")
    os.close(handle)


def wait_for(total: int, every_s: float) -> None:
    """Come back when so many tasks have run."""
    deadline = time.monotonic() + 120
    while not DONE.exists() or DONE.stat().st_size < total:
        if time.monotonic() > deadline:
            raise SystemExit("dramatiq does not answer")
        time.sleep(every_s)


def main(count: int, singles: int) -> None:
    """Publish, wait until all have run, print the figures."""
    no_op.send()
    wait_for(1, 0.01)
    began = time.perf_counter()
    for _ in range(count):
        no_op.send()
    wait_for(count + 1, 0.005)
    rate = count / (time.perf_counter() - began)
    times = []
    for number in range(singles):
        began = time.perf_counter()
        no_op.send()
        wait_for(count + 2 + number, LOOK_EVERY_S)
        times.append((time.perf_counter() - began) * 1000)
    print(json.dumps({"burst_per_s": rate, "single_ms": times}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
