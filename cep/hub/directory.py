"""The endpoints of the hub: who owns them, their broker passwords, and whether they are online.

Runs on the event loop. A hub that is alone owns the endpoints in memory (the store keeps them);
where several hubs share the store, it is asked each time. An endpoint is online while its last
status report counts: 2.5 times the heartbeat period it named itself, so that one late report is
forgiven and a killed endpoint is offline within three periods.
"""

from __future__ import annotations

import hmac
import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cep.hub import records
from cep.hub.auth import digest, new_secret
from cep.hub.records import Endpoint
from cep.hub.store import Store

PERIODS_ONLINE = 2.5
# globus-compute-endpoint 2.19 reports every 30 s and names no period with its pool engines.
DEFAULT_PERIOD_S = 30.0
LONGEST_PERIOD_S = 3600.0
LOCK_S = 60.0  # how long a remotely stopped endpoint may not register again


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A status report that has arrived.

    Attributes:
        endpoint_id: The endpoint, as its routing key says.
        state: `global_state` of the report.
    """

    endpoint_id: str
    state: Mapping[str, Any]

    @property
    def error(self) -> str | None:
        """Why the endpoint could not start, when the report says so."""
        found = self.state.get("error")
        return found if isinstance(found, str) and found else None

    @property
    def period_s(self) -> float:
        """For how long the next report may be due; 0 means the endpoint goes away."""
        info = self.state.get("info")
        inner = info.get("heartbeat_period") if isinstance(info, dict) else None
        found = self.state.get("heartbeat_period", inner)
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            return DEFAULT_PERIOD_S
        if isinstance(found, float) and not math.isfinite(found):
            return DEFAULT_PERIOD_S
        # Bounded first: a whole number may be too large for any float.
        return float(min(max(0, found), LONGEST_PERIOD_S))

    @property
    def going_away(self) -> bool:
        """Whether the endpoint is offline from now on."""
        return self.error is not None or self.period_s == 0 or self.state.get("active") is False


class Directory:
    """All endpoints.

    Args:
        store: The open store.
        clock: Seconds since the epoch.
        shared: Whether other hubs change the store, too.
    """

    def __init__(self, store: Store, clock: Callable[[], float], *, shared: bool = False) -> None:
        self._store = store
        self._clock = clock
        self._shared = shared
        self._endpoints: dict[str, Endpoint] = {}

    async def load(self) -> None:
        """Read all endpoints, when they are ours alone."""
        if not self._shared:
            found = await self._store.call(records.all_endpoints)
            self._endpoints = {one.endpoint_id: one for one in found}

    async def find(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint, also one that was deleted, or None."""
        if self._shared:
            return await self._store.call(records.find_endpoint, endpoint_id)
        return self._endpoints.get(endpoint_id)

    async def known(self, endpoint_id: str) -> Endpoint | None:
        """Return an endpoint that is not deleted, or None."""
        found = await self.find(endpoint_id)
        return None if found is None or found.deleted else found

    async def owned_by(self, client_id: str) -> list[Endpoint]:
        """Return the client's endpoints, by name."""
        if self._shared:
            return await self._store.call(records.present_endpoints, owner=client_id)
        return _sorted(one for one in self._present() if one.owner == client_id)

    async def usable_by(self, client_id: str) -> list[Endpoint]:
        """Return the endpoints to which the client may submit."""
        if self._shared:
            return await self._store.call(records.present_endpoints, usable_by=client_id)
        return _sorted(one for one in self._present() if one.owner == client_id or one.public)

    def _present(self) -> Iterable[Endpoint]:
        return (one for one in self._endpoints.values() if not one.deleted)

    async def ids(self) -> list[str]:
        """Return the ids of all endpoints that are not deleted."""
        if self._shared:
            return await self._store.call(records.endpoint_ids)
        return [one.endpoint_id for one in self._present()]

    async def counts(self) -> tuple[int, int]:
        """Return how many endpoints there are, and how many of them are online."""
        if self._shared:
            return await self._store.call(records.count_endpoints, self._clock())
        present = list(self._present())
        return len(present), sum(self.is_online(one) for one in present)

    async def register(
        self, owner: str, body: Mapping[str, Any], endpoint_id: str | None
    ) -> tuple[Endpoint | None, str]:
        """Register an endpoint, anew or again.

        Args:
            owner: The client that registers it.
            body: The checked registration.
            endpoint_id: Its id when it has one.

        Returns:
            The endpoint, and its new password for the broker; the earlier one ends. None instead
            of the endpoint when it was deleted, or became another client's, a moment ago.
        """
        password = new_secret()
        allowed = body.get("allowed_functions")
        endpoint = Endpoint(
            endpoint_id=endpoint_id or str(uuid.uuid4()),
            owner=owner,
            name=str(body["endpoint_name"]),
            display_name=body.get("display_name"),
            public=bool(body.get("public")),
            allowed_functions=tuple(allowed) if allowed else None,
            registration=dict(body),
            amqp_digest=digest(password),
            registered_at=self._clock(),
            locked_until=0.0,
            deleted=False,
            report_at=None,
            online_until=0.0,
            report=None,
        )
        stored = await self._store.call(records.put_registration, endpoint)
        if stored is not None and not self._shared:
            self._endpoints[stored.endpoint_id] = stored
        return stored, password

    async def _change(self, endpoint_id: str, **values: Any) -> Endpoint | None:
        changed = await self._store.call(records.change_endpoint, endpoint_id, values)
        if changed is None or self._shared:
            return changed
        # Only what was changed: a report may have come meanwhile that is stored next.
        present = self._endpoints.get(endpoint_id, changed)
        self._endpoints[endpoint_id] = replace(present, **values)
        return self._endpoints[endpoint_id]

    async def allow(self, endpoint: Endpoint, functions: Sequence[str] | None) -> Endpoint:
        """Set which functions the endpoint takes; None means every function."""
        allowed = None if functions is None else tuple(functions)
        return await self._change(endpoint.endpoint_id, allowed_functions=allowed) or endpoint

    async def lock(self, endpoint: Endpoint) -> None:
        """Refuse the endpoint's logins and registrations for a while; it is offline."""
        await self._change(
            endpoint.endpoint_id,
            amqp_digest="",
            locked_until=self._clock() + LOCK_S,
            online_until=0.0,
        )

    async def delete(self, endpoint: Endpoint) -> None:
        """Forget the endpoint; its id is not given or taken again."""
        await self._change(endpoint.endpoint_id, amqp_digest="", deleted=True, online_until=0.0)

    def forget_owner(self, client_id: str) -> None:
        """Mark a removed client's endpoints deleted in memory, as the store has them."""
        for one in list(self._present()):
            if one.owner == client_id:
                self._endpoints[one.endpoint_id] = replace(one, deleted=True, online_until=0.0)

    def is_locked(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint was stopped remotely a short while ago."""
        return endpoint.locked_until > self._clock()

    def is_online(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint's last report still counts."""
        return endpoint.online_until > self._clock()

    async def report(self, beats: Sequence[Heartbeat]) -> None:
        """Take in status reports, in the order in which they came; unknown endpoints are left."""
        now = self._clock()
        rows: dict[str, tuple[str, float, float, str]] = {}
        for beat in beats:
            until = 0.0 if beat.going_away else now + PERIODS_ONLINE * beat.period_s
            state = dict(beat.state)
            if not self._shared:
                endpoint = self._endpoints.get(beat.endpoint_id)
                if endpoint is None or endpoint.deleted or not endpoint.amqp_digest:
                    continue
                self._endpoints[beat.endpoint_id] = replace(
                    endpoint, report_at=now, online_until=until, report=state
                )
            rows[beat.endpoint_id] = (beat.endpoint_id, now, until, json.dumps(state))
        if rows:
            # In one order, so that hubs that write at the same time do not wait in a circle.
            await self._store.call(records.note_reports, [rows[key] for key in sorted(rows)])

    async def set_offline(self, endpoints: Iterable[Endpoint]) -> None:
        """Take the endpoints as gone until they report again."""
        for one in endpoints:
            await self._change(one.endpoint_id, online_until=0.0)

    def check_password(self, endpoint_id: str, password: str) -> Endpoint | None:
        """Return the endpoint when the password is its present one, else None; from memory."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None or endpoint.deleted or not endpoint.amqp_digest:
            return None
        matches = hmac.compare_digest(endpoint.amqp_digest, digest(password))
        return endpoint if matches else None


def _sorted(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    return sorted(endpoints, key=lambda one: (one.name, one.endpoint_id))
