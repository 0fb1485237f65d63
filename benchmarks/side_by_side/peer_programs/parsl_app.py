"""Parsl's HighThroughputExecutor alone, two workers in one local block, encrypted as it comes."""

import json
import os
import sys
import time
from concurrent.futures import wait

from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider


def no_op():
    """Nothing."""


def main(count: int, singles: int) -> None:
    """Submit, wait for every result, print the figures."""
    place = os.environ["PEER_DIRECTORY"]
    provider = LocalProvider(init_blocks=1)
    provider.script_dir = place
    executor = HighThroughputExecutor(
        provider=provider, max_workers_per_node=2, address="127.0.0.1", encrypted=True
    )
    executor.run_dir = place
    began = time.perf_counter()
    executor.start()
    executor.scale_out_facade(1)
    executor.submit(no_op, {}).result(120)
    first = time.perf_counter() - began
    wait([executor.submit(no_op, {}) for _ in range(100)])
    began = time.perf_counter()
    wait([executor.submit(no_op, {}) for _ in range(count)])
    rate = count / (time.perf_counter() - began)
    times = []
    for _ in range(singles):
        began = time.perf_counter()
        executor.submit(no_op, {}).result(60)
        times.append((time.perf_counter() - began) * 1000)
    executor.scale_in_facade(1)
    executor.shutdown()
    print(json.dumps({"burst_per_s": rate, "single_ms": times, "start_result_s": first}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
