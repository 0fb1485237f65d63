"""What an endpoint tells the service about itself when it registers. Pure but for host facts."""

from __future__ import annotations

import dataclasses
import os
import platform
import pwd
import socket
from typing import Any

from cep import SPOKEN_ENDPOINT_VERSION, __version__
from cep.config.settings import EndpointSettings
from cep.service.client import Registration


def registration(settings: EndpointSettings, name: str) -> Registration:
    """Return the registration of an endpoint.

    Args:
        settings: The endpoint's settings.
        name: Name of its directory.
    """
    return Registration(
        endpoint_name=name,
        display_name=settings.display_name,
        metadata=metadata(settings),
        allowed_functions=settings.allowed_functions,
        authentication_policy=settings.authentication_policy,
        subscription_id=settings.subscription_id,
        public=bool(settings.public),
        high_assurance=settings.high_assurance,
        admins=settings.admins,
    )


def metadata(settings: EndpointSettings) -> dict[str, Any]:
    """Return the facts that the service keeps about an endpoint.

    The keys are those of globus-compute-endpoint 2.19 (`config`) and 4.19 (`endpoint_config`),
    so that one answer suits readers of both.
    """
    config = dataclasses.asdict(dataclasses.replace(settings, raw_text=""))
    del config["raw_text"]
    config["engine"]["type"] = type(settings.engine).__name__.replace("Settings", "")
    return {
        "endpoint_version": SPOKEN_ENDPOINT_VERSION,
        "cep_version": __version__,
        "python_version": platform.python_version(),
        # Not getfqdn(), which waits for a name server that may not answer.
        "hostname": socket.gethostname(),
        "local_user": _account(),
        "config": _plain(config),
        "endpoint_config": settings.raw_text,
    }


def _account() -> str:
    """The account's name by its number, which is right under su and cron too."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
