"""RabbitMQ's users: one per endpoint and one per SDK client, with rights on what is theirs.

Permissions are regular expressions on names of queues and exchanges; which routing keys a user may
publish with is limited by topic permissions on the (topic) exchanges of results and status
reports. Nobody but the hub may declare, bind or delete anything.

Every request to the management API sets a state and may be repeated; nothing is remembered here,
so that several hubs may do it side by side. Runs on the event loop; the requests run in threads.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from urllib.parse import quote

from cep.hub import topology
from cep.hub.rabbitmq import Management

_NOTHING = "^$"


class RabbitAccounts:
    """Makes, suspends and removes the broker's users.

    Args:
        management: The management API.
    """

    def __init__(self, management: Management) -> None:
        self._management = management

    async def admit_endpoint(self, endpoint_id: str, password: str) -> None:
        """Let the endpoint in with this password only; connections of before are closed."""
        await asyncio.to_thread(self._admit_endpoint, endpoint_id, password)

    async def admit_client(self, client_id: str, password: str) -> None:
        """Let the SDK client in with this password."""
        await asyncio.to_thread(self._admit_client, client_id, password)

    async def remove(self, user: str) -> int:
        """Take the user away; return how many of its connections were closed."""
        return await asyncio.to_thread(self._remove, user)

    async def suspend(self, users: Iterable[str]) -> int:
        """Take the users' permissions, without which RabbitMQ admits nobody to a virtual host."""
        return await asyncio.to_thread(self._suspend, list(users))

    async def resume(self, endpoint_ids: Iterable[str]) -> None:
        """Give suspended endpoints their permissions again; their passwords were kept."""
        await asyncio.to_thread(self._resume, list(endpoint_ids))

    # --- in a thread ------------------------------------------------------------------------------

    def _put_user(self, user: str, password: str) -> None:
        content = {"password": password, "tags": ""}
        self._management.ask("PUT", f"users/{_quoted(user)}", content)

    def _permit(self, user: str, *, write: str, read: str) -> None:
        path = f"permissions/{self._management.vhost}/{_quoted(user)}"
        content = {"configure": _NOTHING, "write": write, "read": read}
        self._management.ask("PUT", path, content)

    def _admit_endpoint(self, endpoint_id: str, password: str) -> None:
        user = topology.endpoint_user(endpoint_id)
        self._put_user(user, password)
        # What limits the routing keys comes before what opens the exchanges.
        for exchange, key in (
            (topology.RESULTS, topology.result_key(endpoint_id)),
            (topology.HEARTBEATS, topology.heartbeat_key(endpoint_id)),
        ):
            self._management.ask(
                "PUT",
                f"topic-permissions/{self._management.vhost}/{_quoted(user)}",
                {"exchange": exchange, "write": _exactly(key), "read": _NOTHING},
            )
        self._permit_endpoint(endpoint_id)
        self._management.close_connections(user)

    def _permit_endpoint(self, endpoint_id: str) -> None:
        self._permit(
            topology.endpoint_user(endpoint_id),
            write=f"^({topology.RESULTS}|{topology.HEARTBEATS})$",
            read=_exactly(topology.task_queue(endpoint_id)),
        )

    def _admit_client(self, client_id: str, password: str) -> None:
        user = topology.client_user(client_id)
        self._put_user(user, password)
        prefix = re.escape(topology.group_prefix(client_id))
        self._permit(user, write=_NOTHING, read=f"^{prefix}")

    def _remove(self, user: str) -> int:
        # In this order: whoever comes between the two is refused already.
        self._management.ask("DELETE", f"users/{_quoted(user)}")
        return self._management.close_connections(user)

    def _suspend(self, users: list[str]) -> int:
        closed = 0
        for user in users:
            path = f"permissions/{self._management.vhost}/{_quoted(user)}"
            self._management.ask("DELETE", path)
            closed += self._management.close_connections(user)
        return closed

    def _resume(self, endpoint_ids: list[str]) -> None:
        for endpoint_id in endpoint_ids:
            user = topology.endpoint_user(endpoint_id)
            if self._management.ask("GET", f"users/{_quoted(user)}") is not None:
                self._permit_endpoint(endpoint_id)


def _quoted(user: str) -> str:
    return quote(user, safe="")


def _exactly(name: str) -> str:
    return f"^{re.escape(name)}$"
