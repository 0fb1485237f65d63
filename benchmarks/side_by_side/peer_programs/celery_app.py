"""Celery, prefork, results by rpc:// : the worker's module, and the client when run.

Everything as it comes; only gossip, mingle and heartbeats between workers are off.
"""

import json
import os
import sys
import time

import celery

url = os.environ["PEER_URL"]
app = celery.Celery("peer", broker=url, backend="rpc://")
app.conf.task_default_queue = os.environ["PEER_QUEUE"]


@app.task(name="no_op")
def no_op():
    """Nothing."""


def main(count: int, singles: int) -> None:
    """Publish, wait for every result, print the figures."""
    for _ in range(20):
        no_op.delay().get(timeout=60)
    began = time.perf_counter()
    for answer in [no_op.delay() for _ in range(count)]:
        answer.get(timeout=120)
    rate = count / (time.perf_counter() - began)
    times = []
    for _ in range(singles):
        began = time.perf_counter()
        no_op.delay().get(timeout=60)
        times.append((time.perf_counter() - began) * 1000)
    print(json.dumps({"burst_per_s": rate, "single_ms": times}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
