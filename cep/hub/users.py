"""Who may log in at the broker, and what they may touch there. Runs on the event loop.

An endpoint takes from its own task queue and publishes with its own keys; an SDK client takes from
its own task-group queues; the hub may do everything.
"""

from __future__ import annotations

import hmac

from cep.hub import topology
from cep.hub.auth import Access
from cep.hub.broker.access import Identity
from cep.hub.directory import Directory


class BrokerUsers:
    """Answers the broker's question at each login.

    Args:
        access: The clients.
        directory: The endpoints.
        hub_password: The password of the hub's own links, new at each start.

    Attributes:
        hub_password: As given.
    """

    def __init__(self, access: Access, directory: Directory, hub_password: str) -> None:
        self._access = access
        self._directory = directory
        self.hub_password = hub_password

    def authenticate(self, user: str, password: str) -> Identity | None:
        """Return what the user may do, or None when the login is refused."""
        kind, key = topology.user_kind(user)
        if kind == "hub":
            right = hmac.compare_digest(
                password.encode("utf-8", "surrogatepass"), self.hub_password.encode()
            )
            return Identity.privileged(user) if right else None
        if kind == "endpoint":
            return self._endpoint(user, key, password)
        if kind == "client":
            client = self._access.check_amqp_password(key, password)
            prefix = topology.group_prefix(key)
            if client is None:
                return None
            return Identity(user, read=lambda name: name.startswith(prefix))
        return None

    def _endpoint(self, user: str, endpoint_id: str, password: str) -> Identity | None:
        endpoint = self._directory.check_password(endpoint_id, password)
        owner = None if endpoint is None else self._access.known_here(endpoint.owner)
        if owner is None or owner.disabled:
            return None
        return Identity(
            user,
            read=frozenset((topology.task_queue(endpoint_id),)),
            write=frozenset((topology.RESULTS, topology.HEARTBEATS)),
            routing_keys=frozenset(
                (topology.result_key(endpoint_id), topology.heartbeat_key(endpoint_id))
            ),
        )
