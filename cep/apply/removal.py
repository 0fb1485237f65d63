"""What `delete` and `apply` take away of an endpoint: its registration, its jobs, its directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from cep.errors import CantCreate, Unavailable
from cep.paths import EndpointPaths

if TYPE_CHECKING:
    from cep.config.settings import EndpointSettings
    from cep.service.identity import ClientIdentity


def delete_registration(
    settings: EndpointSettings | None,
    base: Path,
    endpoint_id: str,
    *,
    interactive: bool = False,
    identity: ClientIdentity | None = None,
) -> None:
    """Delete a registration at its service.

    Args:
        settings: The endpoint's, which say which service; None for the shell's.
        base: The user directory, which holds the login.
        endpoint_id: UUID.
        interactive: A person may be asked to log in.
        identity: A client to log in as, in place of the environment's or the stored login.

    Raises:
        NotAllowed, TemporaryFailure, Unavailable: As the service says.
    """
    from cep.service.address import resolve_service
    from cep.service.client import connect

    address = resolve_service(settings)
    with connect(address, interactive=interactive, base=base, identity=identity) as service:
        service.delete(endpoint_id)


def is_known(
    settings: EndpointSettings | None,
    base: Path,
    endpoint_id: str,
    *,
    identity: ClientIdentity | None = None,
) -> bool:
    """Whether the service knows a registration of ours; arguments as `delete_registration`."""
    from cep.service.address import resolve_service
    from cep.service.client import connect

    with connect(
        resolve_service(settings), interactive=False, base=base, identity=identity
    ) as service:
        try:
            service.status(endpoint_id)
        except Unavailable:
            return False
    return True


def remove_directory(found: EndpointPaths) -> None:
    """Remove the directory, and what the endpoint keeps in a state directory elsewhere.

    Raises:
        CantCreate: Not all of it could be removed.
    """
    try:
        if found.state != found.root:
            database = found.journal
            for file in database.parent.glob(f"{database.name}*"):
                file.unlink()
            found.status_json.unlink(missing_ok=True)
            found.blocks_file.unlink(missing_ok=True)
            for folder in (found.journal_bodies, found.start_slots):
                if folder.exists():
                    shutil.rmtree(folder)
        shutil.rmtree(found.root)
    except OSError as exc:
        raise CantCreate(
            f"The directory of endpoint {found.name} could not be removed: {exc}.",
            hint="The registration is deleted already; remove the rest by hand.",
        ) from exc
