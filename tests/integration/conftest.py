"""Fixtures of the integration tests: the Docker engine, and real services in containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.integration.docker_engine import EngineMissing, ensure_engine, remove_leftovers
from tests.integration.hub_places import LONG
from tests.integration.postgres import Postgres
from tests.integration.rabbitmq import RabbitMq
from tests.integration.servers import Servers

if TYPE_CHECKING:
    from tests.integration.systemd_far import Far

# They boot hosts of their own, and install everything anew: only with LONG=1.
LONG_FILES = (
    "test_ansible_changes.py",
    "test_ansible_hosts.py",
    "test_ansible_installs.py",
    "test_apply_systemd.py",
    "test_wheelhouse.py",
)
collect_ignore = [] if LONG else [*LONG_FILES]


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[None]:
    """A Docker engine; without one, skip on a laptop and fail in CI (`CI=true`)."""
    try:
        ensure_engine()
    except EngineMissing as exc:
        if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
            pytest.fail(f"CI must have a Docker engine. {exc}", pytrace=False)
        pytest.skip(f"NOT TESTED: no Docker engine. {exc}")
    remove_leftovers(own=False)
    yield
    remove_leftovers(own=True)


@pytest.fixture(scope="session")
def far(docker_engine: None) -> Iterator[Far]:
    """Hosts of services that are far from their hub, where a long reboot runs beside the tests."""
    from tests.integration.systemd_far import Far  # it reads README.md, which others need not

    del docker_engine
    made = Far()
    made.begin()
    yield made
    made.close()


@pytest.fixture(scope="session")
def rabbitmq(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMq]:
    """One RabbitMQ broker for the whole run; a test that stops it must start it again."""
    del docker_engine
    broker = RabbitMq(tmp_path_factory.mktemp("rabbitmq") / "ca.pem")
    try:
        broker.create()
        yield broker
    finally:
        broker.remove()


@pytest.fixture(scope="session")
def postgres(docker_engine: None) -> Iterator[Postgres]:
    """One PostgreSQL server for the whole run."""
    del docker_engine
    server = Postgres()
    try:
        server.create()
        server.wait_ready()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def servers(docker_engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """RabbitMQ and PostgreSQL in a network of their own, for scenes; one scene at a time."""
    del docker_engine
    made = Servers(tmp_path_factory.mktemp("servers") / "ca.pem")
    try:
        made.create()
        yield made
    finally:
        made.remove()
