"""How many connections an endpoint costs its broker, as RabbitMQ itself lists them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.integration.agent_rig import Bench, bench, note
from tests.integration.rabbitmq import RabbitMq
from tests.integration.scene import until


@pytest.fixture
def endpoint(
    tmp_path: Path, rabbitmq: RabbitMq, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """An endpoint with a broker user of its own, so that its connections can be told."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    user = f"counted-{uuid4()}"
    with bench(tmp_path, rabbitmq) as made:
        made.configure("engine: {type: ThreadPoolEngine, max_workers: 1}\nheartbeat_period: 5\n")
        made.url = rabbitmq.add_user(user, "secret", write=".*", read=".*")
        yield made
    rabbitmq.remove_user(user)


def listed(rabbitmq: RabbitMq, endpoint: Bench) -> int:
    """Connections of the endpoint's user."""
    user = endpoint.url.partition("//")[2].partition(":")[0]
    return len(rabbitmq.management("GET", f"connections/username/{user}"))


def run_a_task(endpoint: Bench) -> None:
    endpoint.submit(note, ["one"])
    assert endpoint.collect(1).errors == []


def test_a_running_endpoint_has_two_connections(rabbitmq: RabbitMq, endpoint: Bench) -> None:
    agent = endpoint.start()
    until(lambda: listed(rabbitmq, endpoint) == 2, within_s=60, what="two connections")
    run_a_task(endpoint)
    assert listed(rabbitmq, endpoint) == 2
    endpoint.stop(agent)
    until(lambda: listed(rabbitmq, endpoint) == 0, within_s=60, what="no connection")


def test_status_reports_to_another_address_are_a_third_one(
    rabbitmq: RabbitMq, endpoint: Bench
) -> None:
    endpoint.reports_url = endpoint.url.replace("127.0.0.1", "localhost")
    agent = endpoint.start()
    until(lambda: listed(rabbitmq, endpoint) == 3, within_s=60, what="three connections")
    run_a_task(endpoint)
    assert listed(rabbitmq, endpoint) == 3
    endpoint.stop(agent)
