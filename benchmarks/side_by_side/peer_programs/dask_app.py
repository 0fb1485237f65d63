"""Dask's LocalCluster with two worker processes of one thread each, as it comes; no broker."""

import json
import sys
import time

from distributed import Client, LocalCluster


def no_op():
    """Nothing."""


def main(count: int, singles: int) -> None:
    """Submit, wait for every result, print the figures."""
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.gather([client.submit(no_op, pure=False) for _ in range(100)])
        began = time.perf_counter()
        client.gather([client.submit(no_op, pure=False) for _ in range(count)])
        rate = count / (time.perf_counter() - began)
        times = []
        for _ in range(singles):
            began = time.perf_counter()
            client.submit(no_op, pure=False).result()
            times.append((time.perf_counter() - began) * 1000)
    print(json.dumps({"burst_per_s": rate, "single_ms": times}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
