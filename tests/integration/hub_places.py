"""The two ways in which a hub keeps its messages and rows, for tests that run on both.

The embedded broker with SQLite, and RabbitMQ with PostgreSQL. `PLACES` are parameters of fixtures;
tests that are too slow to run twice each time use `PLACES_IF_LONG`: both with the environment
variable LONG=1, the first otherwise.
"""

from __future__ import annotations

import os

import pytest

EMBEDDED, SERVERS = "embedded", "rabbitmq-postgres"
PLACES = (EMBEDDED, SERVERS)
LONG = bool(os.environ.get("LONG"))
PLACES_IF_LONG = PLACES if LONG else (EMBEDDED,)


def addresses(place: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """The variables for a fresh hub: none, or a virtual host and a database of its own."""
    if place == EMBEDDED:
        return {}
    rabbitmq = request.getfixturevalue("rabbitmq")
    postgres = request.getfixturevalue("postgres")
    return {
        "CEP_HUB_AMQP_URL": rabbitmq.hub_url(),
        "CEP_HUB_AMQP_MANAGEMENT_URL": rabbitmq.management_url,
        "CEP_HUB_DATABASE_URL": postgres.url(postgres.database()),
    }
