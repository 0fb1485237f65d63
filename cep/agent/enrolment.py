"""How this endpoint registers at the service: with what its configuration says, under its id.

`register` blocks on the network and may be called from any thread, one call at a time; `settings`
is changed by the main thread, between calls or during one (which then still says the old ones).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cep import SPOKEN_ENDPOINT_VERSION
from cep.agent.report import registration_metadata
from cep.config.settings import EndpointSettings
from cep.errors import DataError
from cep.model import Registered
from cep.paths import EndpointPaths

if TYPE_CHECKING:
    from cep.service.client import ServiceClient


class Enrolment:
    """See the module.

    Args:
        service: The service's client, which keeps the login.
        paths: The endpoint's files; the id of an earlier registration is in there.
        settings: What the endpoint says of itself.
        asked_id: Register under this id whatever is stored.

    Attributes:
        settings: What the next `register` says.
    """

    def __init__(
        self,
        service: ServiceClient,
        paths: EndpointPaths,
        settings: EndpointSettings,
        asked_id: str | None,
    ) -> None:
        self._service = service
        self._paths = paths
        self._asked_id = asked_id
        self.settings = settings

    def register(self, settings: EndpointSettings | None = None) -> Registered:
        """Register, under the endpoint's id once it has one.

        Args:
            settings: Say this instead of what holds now.

        Raises:
            CepError: As `ServiceClient.register`.
        """
        from cep.service.client import Registration

        said = settings or self.settings
        request = Registration(
            endpoint_name=self._paths.name,
            display_name=said.display_name,
            metadata=registration_metadata(said, SPOKEN_ENDPOINT_VERSION),
            allowed_functions=said.allowed_functions,
            authentication_policy=said.authentication_policy,
            subscription_id=said.subscription_id,
            public=said.public,
            high_assurance=said.high_assurance,
            admins=said.admins,
        )
        return self._service.register(request, self._asked_id or stored_endpoint_id(self._paths))

    def check_version(self) -> None:
        """See that the service talks to endpoints of our version.

        Raises:
            CepError: As `ServiceClient.check_version`.
        """
        self._service.check_version()

    @property
    def ca_file(self) -> str | None:
        """PEM file of the authorities to trust, or None for the usual ones."""
        return self._service.address.ca_file


def stored_endpoint_id(paths: EndpointPaths) -> str | None:
    """The id of an earlier registration, or None.

    Raises:
        DataError: `endpoint.json` is there and cannot be understood.
    """
    try:
        content = paths.endpoint_json.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return str(json.loads(content)["endpoint_id"])
    except (ValueError, KeyError, TypeError, RecursionError) as exc:
        raise DataError(
            f"{paths.endpoint_json} does not hold an endpoint id. Restore it, or remove it to "
            "register as a new endpoint."
        ) from exc
