"""End the batch jobs and containers of an endpoint whose agent is gone: for `stop` and `delete`.

A `start` needs none of this; its engine finds what earlier lives have left.
"""

from __future__ import annotations

import logging

from cep.config.load import read
from cep.config.settings import HtexSettings
from cep.engines.batch_queues import queue_of
from cep.engines.container_leftovers import end_leftover_containers
from cep.errors import CepError
from cep.paths import EndpointPaths

log = logging.getLogger(__name__)


def cancel_leftover_jobs(paths: EndpointPaths, endpoint_id: str | None) -> list[str]:
    """End them, as far as the scheduler or the container engine can tell which they are.

    No agent of the endpoint may be running.

    Args:
        paths: The endpoint.
        endpoint_id: The id in the names of its jobs; without one there are none.

    Returns:
        The ids of the jobs that were cancelled, or of the containers that were removed.

    Raises:
        EngineError: The scheduler or the engine does not answer, so nobody knows.
    """
    if endpoint_id is None:
        return []
    try:
        engine = read(paths.config).settings.engine
    except CepError as error:
        log.debug("no look for jobs, the configuration cannot be read: %s", error)
        return []
    if not isinstance(engine, HtexSettings):
        return []
    queue = queue_of(engine.provider)
    if queue is None:
        return end_leftover_containers(engine, endpoint_id)
    queue.refresh()
    jobs = sorted(queue.of_endpoint(endpoint_id))
    if jobs:
        queue.cancel(jobs)
    return jobs
