"""The web service's REST API, hosted or hub: version, registration, lock, delete, status.

Runs in the caller's thread and blocks on the network (retries included, about half a minute at
the most against a service that is down).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import globus_sdk

from cep import SPOKEN_ENDPOINT_VERSION
from cep.errors import DataError, SoftwareError, Unavailable
from cep.model import PublishKwargs, QueueAddress, Registered
from cep.service import refusal
from cep.service.address import ServiceAddress
from cep.service.auth import Login, retry_config
from cep.service.identity import ClientIdentity
from cep.service.transport import Transport


@dataclass(frozen=True, slots=True)
class Registration:
    """What an endpoint says of itself when it registers.

    Attributes:
        endpoint_name: Name of the endpoint's directory.
        display_name: Sent when not None, "" included.
        metadata: Facts about the endpoint, JSON values only.
        allowed_functions: UUIDs of the only functions it runs; None means all.
        authentication_policy: UUID of the policy that users must meet.
        subscription_id: UUID of the subscription.
        public: Everybody may find it.
        high_assurance: Sent when not None.
        admins: UUIDs of identities that may administer it.
    """

    endpoint_name: str
    display_name: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    allowed_functions: tuple[str, ...] | None = None
    authentication_policy: str | None = None
    subscription_id: str | None = None
    public: bool | None = None
    high_assurance: bool | None = None
    admins: tuple[str, ...] | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON document; what is not set is left out, as the published endpoint does."""
        body: dict[str, Any] = {"endpoint_name": self.endpoint_name}
        for key, value in (
            ("display_name", self.display_name),
            ("public", self.public),
            ("high_assurance", self.high_assurance),
        ):
            if value is not None:
                body[key] = value
        for key, held in (
            ("metadata", dict(self.metadata)),
            ("allowed_functions", list(self.allowed_functions or ())),
            ("authentication_policy", self.authentication_policy),
            ("subscription_uuid", self.subscription_id),
            ("admins", list(self.admins or ())),
        ):
            if held:
                body[key] = held
        return body


class ServiceClient:
    """Calls the web service with one login. Close it when done.

    Args:
        address: The service.
        login: A login for it, which `close` closes too; or an authorizer with a token of its own.
    """

    def __init__(
        self, address: ServiceAddress, login: Login | globus_sdk.authorizers.GlobusAuthorizer
    ) -> None:
        self.address = address
        self._login = login if isinstance(login, Login) else None
        self._transport = None if self._login else Transport(address.ca_file)
        retries = retry_config()
        if isinstance(login, Login):
            self._http = globus_sdk.ComputeClientV3(
                base_url=address.url,
                app=login.app,
                app_scopes=None,
                retry_config=retries,
                transport=login.transport,
            )
        else:
            self._http = globus_sdk.ComputeClientV3(
                base_url=address.url,
                environment="production",
                authorizer=login,
                retry_config=retries,
                transport=self._transport,
            )

    def __enter__(self) -> ServiceClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and the login. Idempotent."""
        self._http.close()
        if self._transport is not None:
            self._transport.close()
        if self._login is not None:
            self._login.close()

    def check_version(self) -> None:
        """Check that the service still talks to endpoints of the version we speak.

        Raises:
            Unavailable: It asks for a newer endpoint.
            DataError: Its answer cannot be understood.
            NotAllowed, TemporaryFailure: As for every call.
        """
        answer = self._call(
            "GET", "/v2/version", "asking for its version", query={"service": "all"}
        )
        wanted = answer.get("min_ep_version")
        if not isinstance(wanted, str) or not _version(wanted):
            raise self._not_understood("min_ep_version", "the version")
        if _version(wanted) > _version(SPOKEN_ENDPOINT_VERSION):
            raise Unavailable(
                f"The service {self.address.url} asks for endpoints of version {wanted} or newer; "
                f"this one speaks version {SPOKEN_ENDPOINT_VERSION}.",
                hint="Install a newer cep-endpoint.",
            )

    def register(self, registration: Registration, endpoint_id: str | None) -> Registered:
        """Register, or register again.

        Args:
            registration: What the endpoint says of itself.
            endpoint_id: UUID of an earlier registration (or wanted one); None asks for a new one.

        Returns:
            The queues to use.

        Raises:
            Unavailable: Blocked (404, 409, 423); the message is the published line.
            DataError: Refused as malformed (400, 422), or an answer with keys missing.
            SoftwareError: The service answered with another endpoint's id.
            NotAllowed: The login is refused (401, 403).
            TemporaryFailure: No answer, or a server error.
        """
        method, path = "POST", "/v3/endpoints"
        if endpoint_id is not None:
            method, path = "PUT", f"/v3/endpoints/{endpoint_id}"
        try:
            answer = self._request(method, path, registration.document())
        except globus_sdk.AuthAPIError as exc:
            raise self._converted(exc, "logging in") from exc
        except globus_sdk.GlobusAPIError as exc:
            raise refusal.registration_blocked(exc, self.address.url) from exc
        except globus_sdk.GlobusError as exc:
            raise self._converted(exc, "registering the endpoint") from exc
        registered = self._registered(answer)
        if endpoint_id is not None and registered.endpoint_id != endpoint_id.lower():
            raise SoftwareError(
                f"The service {self.address.url} was asked to register endpoint {endpoint_id} "
                f"and answered for {registered.endpoint_id}; nothing was started.",
            )
        return registered

    def lock(self, endpoint_id: str) -> None:
        """Make the service drop the endpoint's connections and refuse it for a while."""
        self._call("POST", f"/v3/endpoints/{endpoint_id}/lock", f"stopping {endpoint_id}")

    def delete(self, endpoint_id: str) -> None:
        """Delete the registration.

        Raises:
            Unavailable: The service has no such endpoint, or it is in use.
        """
        self._call("DELETE", f"/v2/endpoints/{endpoint_id}", f"deleting {endpoint_id}")

    def status(self, endpoint_id: str) -> str:
        """Return the service's word on the endpoint: `online`, `offline`, ..."""
        answer = self._call(
            "GET", f"/v2/endpoints/{endpoint_id}/status", f"asking for the status of {endpoint_id}"
        )
        status = answer.get("status")
        if not isinstance(status, str):
            raise self._not_understood("status", "the endpoint's status")
        return status

    def _call(
        self, method: str, path: str, doing: str, query: dict[str, str] | None = None
    ) -> Mapping[str, Any]:
        try:
            return self._request(method, path, None, query)
        except globus_sdk.GlobusError as exc:
            raise self._converted(exc, doing) from exc

    def _request(
        self,
        method: str,
        path: str,
        document: dict[str, Any] | None,
        query: dict[str, str] | None = None,
    ) -> Mapping[str, Any]:
        response = self._http.request(method, path, data=document, query_params=query)
        data = response.data
        # Answers to lock and delete are not inspected; they may be empty.
        return data if isinstance(data, dict) else {}

    def _converted(self, exc: globus_sdk.GlobusError, doing: str) -> Exception:
        return refusal.convert(exc, doing, self.address.url)

    def _not_understood(self, key: str, about: str) -> DataError:
        return DataError(
            f"The answer of {self.address.url} about {about} has no usable {key!r}.",
            hint="Is this address a Globus Compute service or a hub?",
        )

    def _registered(self, answer: Mapping[str, Any]) -> Registered:
        endpoint_id = answer.get("endpoint_id")
        if not isinstance(endpoint_id, str) or not endpoint_id:
            raise self._not_understood("endpoint_id", "the registration")
        heartbeats = answer.get("heartbeat_queue_info")
        return Registered(
            endpoint_id=endpoint_id.lower(),
            tasks=self._queue(answer, "task_queue_info"),
            results=self._queue(answer, "result_queue_info", publish=True),
            heartbeats=(
                self._queue(answer, "heartbeat_queue_info", publish=True) if heartbeats else None
            ),
        )

    def _queue(self, answer: Mapping[str, Any], block: str, publish: bool = False) -> QueueAddress:
        found = answer.get(block)
        if not isinstance(found, dict):
            raise self._not_understood(block, "the registration")
        url, queue = found.get("connection_url"), found.get("queue")
        if not isinstance(url, str) or urlsplit(url).scheme not in ("amqp", "amqps"):
            raise self._not_understood(f"{block}.connection_url", "the registration")
        if not isinstance(queue, str) or not queue:
            raise self._not_understood(f"{block}.queue", "the registration")
        exchange = found.get("exchange") or ""
        if not isinstance(exchange, str):
            raise self._not_understood(f"{block}.exchange", "the registration")
        kwargs = self._publish(found, block, exchange) if publish else None
        return QueueAddress(url=url, queue=queue, exchange=exchange, publish=kwargs)

    def _publish(self, found: Mapping[str, Any], block: str, exchange: str) -> PublishKwargs:
        kwargs = found.get("queue_publish_kwargs")
        if not isinstance(kwargs, dict):
            raise self._not_understood(f"{block}.queue_publish_kwargs", "the registration")
        routing_key = kwargs.get("routing_key")
        properties = kwargs.get("properties") or {}
        if not isinstance(routing_key, str) or not isinstance(properties, dict):
            raise self._not_understood(f"{block}.queue_publish_kwargs", "the registration")
        return PublishKwargs(
            exchange=str(kwargs.get("exchange", exchange)),
            routing_key=routing_key,
            mandatory=bool(kwargs.get("mandatory", False)),
            properties=properties,
        )


def connect(
    address: ServiceAddress,
    *,
    interactive: bool,
    base: Path | None = None,
    identity: ClientIdentity | None = None,
) -> ServiceClient:
    """Return a client with a login for the service, made now where needed.

    Args:
        address: The service.
        interactive: A person may be asked for a code on the terminal.
        base: The user directory with the token store; None for the account's own.
        identity: A client identity; without one, that of the environment.

    Raises:
        NotAllowed: There is no login and nobody to ask, or it was refused.
        TemporaryFailure: The service does not answer.
    """
    login = Login(address, base=base, interactive=interactive, identity=identity)
    try:
        login.ensure()
        return ServiceClient(address, login)
    except BaseException:
        login.close()
        raise


def _version(text: str) -> tuple[int, ...]:
    """The release part of a version, without trailing zeros; empty when there is none."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", text.strip())
    if match is None:
        return ()
    numbers = [int(part) for part in match[1].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
