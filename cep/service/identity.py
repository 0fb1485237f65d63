"""A client's identity from the environment; loads nothing, so that who has one starts fast."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from cep.errors import NotAllowed

CLIENT_ID_VARIABLE = "GLOBUS_COMPUTE_CLIENT_ID"
CLIENT_SECRET_VARIABLE = "GLOBUS_COMPUTE_CLIENT_SECRET"


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """A client's id and secret, from the environment."""

    client_id: str
    secret: str

    def __repr__(self) -> str:
        return f"ClientIdentity({self.client_id})"


def client_identity(environ: Mapping[str, str] = os.environ) -> ClientIdentity | None:
    """Return the client identity that the environment sets, or None.

    Args:
        environ: Where to look; the agent has taken it out of its own.

    Raises:
        NotAllowed: Only one of the two variables is set.
    """
    client_id = environ.get(CLIENT_ID_VARIABLE)
    secret = environ.get(CLIENT_SECRET_VARIABLE)
    if client_id and secret:
        return ClientIdentity(client_id, secret)
    if client_id or secret:
        there, missing = (
            (CLIENT_ID_VARIABLE, CLIENT_SECRET_VARIABLE)
            if client_id
            else (CLIENT_SECRET_VARIABLE, CLIENT_ID_VARIABLE)
        )
        raise NotAllowed(
            f"{there} is set and {missing} is not. A client identity needs both.",
            hint="Set both variables, or unset both for a normal login.",
        )
    return None
