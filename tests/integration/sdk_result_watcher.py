"""The official SDK's consumer of results, run with -m in a process of its own.

Arguments: AMQP URL, queue prefix, task group id, number of tasks. Publishes nothing: it watches
futures for the task ids that it prints first, one per line, and prints the sum of the results.
"""

from __future__ import annotations

import sys
import uuid

from globus_compute_sdk.sdk.asynchronous.compute_future import ComputeFuture
from globus_compute_sdk.sdk.executor import _ResultWatcher
from globus_compute_sdk.serialize import ComputeSerializer


class Service:
    """As much of the SDK's client as its result watcher asks for."""

    def __init__(self, url: str, prefix: str) -> None:
        self.fx_serializer = ComputeSerializer()
        self._answer = {"connection_url": url, "queue_prefix": prefix}

    def get_result_amqp_url(self) -> dict[str, str]:
        """Where the results come from."""
        return self._answer

    def _log_version_mismatch(self, _details: object) -> None:
        """Nothing to compare."""


def main() -> None:
    """Watch and print."""
    url, prefix, group, count = sys.argv[1:]
    service = Service(url, prefix)
    futures = [ComputeFuture(str(uuid.uuid4())) for _ in range(int(count))]
    for number, future in enumerate(futures):
        print(future.task_id, service.fx_serializer.serialize(number).encode().hex())
    print(flush=True)
    watcher = _ResultWatcher(uuid.UUID(group), service)
    watcher.start()
    watcher.watch_for_task_results(object(), futures)
    print(sum(future.result(timeout=120) for future in futures), flush=True)
    watcher.shutdown()


if __name__ == "__main__":
    main()
