"""Which web service an endpoint belongs to, and whose certificates count there.

Pure: reads settings and the environment, no network.

The configuration wins over the shell: what `configure` wrote holds at boot and in cron, where no
shell variables are set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Protocol
from urllib.parse import urlsplit

from cep.errors import ConfigError
from cep.model import LOCAL, PRODUCTION, SERVICE_ENVIRONMENTS
from cep.service.trust import trusted_authorities

ENVIRONMENT_VARIABLE = "GLOBUS_SDK_ENVIRONMENT"
URL_VARIABLE = "GLOBUS_SDK_SERVICE_URL_COMPUTE"
LOGIN_URL_VARIABLE = "GLOBUS_SDK_SERVICE_URL_AUTH"


class NamesService(Protocol):
    """What of the settings says which service is meant."""

    @property
    def service_url(self) -> str | None: ...

    @property
    def environment(self) -> str | None: ...

    @property
    def local_compute_services(self) -> bool: ...

    @property
    def ssl_ca_file(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """Where the web service is.

    Attributes:
        url: Scheme, host and port, no trailing slash.
        environment: Name that separates stored logins of different services.
        hosted: It is one of the published deployments, not a hub.
        ca_file: PEM file or directory of the authorities to trust, for it and for the broker it
            names; None for the libraries' own.
    """

    url: str
    environment: str
    hosted: bool
    ca_file: str | None = None


def resolve_service(settings: NamesService | None = None) -> ServiceAddress:
    """Return the service that the settings, or else the shell's variables, name.

    Args:
        settings: The endpoint's settings; None where there is no endpoint (`login`).

    Raises:
        ConfigError: A shell variable names no known environment or no address, or asks to switch
            the check of certificates off.
    """
    named = None if settings is None else settings.ssl_ca_file
    return replace(_where(settings), ca_file=trusted_authorities(named))


def _where(settings: NamesService | None) -> ServiceAddress:
    if settings is not None:
        if settings.service_url is not None:
            return _of_url(settings.service_url)
        if settings.environment is not None:
            return _named(settings.environment, "The configuration's `environment`")
        if settings.local_compute_services:
            return _named(LOCAL, "")
    url = os.environ.get(URL_VARIABLE)
    if url:
        return _of_url(url, f"The shell variable {URL_VARIABLE}")
    name = os.environ.get(ENVIRONMENT_VARIABLE) or PRODUCTION
    login_url = os.environ.get(LOGIN_URL_VARIABLE)
    if name == LOCAL and login_url:
        # A hub is its own login service, so this tells which hub, also on another port than 5000.
        return _of_url(login_url, f"The shell variable {LOGIN_URL_VARIABLE}")
    return _named(name, f"The shell variable {ENVIRONMENT_VARIABLE}")


def of_url(url: str, origin: str = "The service's address") -> ServiceAddress:
    """Return the address for a URL, which may be that of a published deployment.

    Raises:
        ConfigError: It is not an http(s) URL without a path, or the shell asks to switch the check
            of certificates off.
    """
    return replace(_of_url(url, origin), ca_file=trusted_authorities(None))


def _of_url(url: str, origin: str = "The service's address") -> ServiceAddress:
    clean = _clean(url)
    if clean is None:
        raise ConfigError(
            f"{origin} is {url!r}, but it must be an address like https://hub.example.org:5000."
        )
    for name, known in SERVICE_ENVIRONMENTS.items():
        if clean == known:
            return ServiceAddress(clean, name, hosted=name != LOCAL)
    parts = urlsplit(clean)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return ServiceAddress(clean, f"hub-{parts.hostname}-{port}", hosted=False)


def _named(name: str, origin: str) -> ServiceAddress:
    if name not in SERVICE_ENVIRONMENTS:
        raise ConfigError(
            f"{origin} is {name!r}, which is not one of {', '.join(SERVICE_ENVIRONMENTS)}."
        )
    return ServiceAddress(SERVICE_ENVIRONMENTS[name], name, hosted=name != LOCAL)


def _clean(url: str) -> str | None:
    """Scheme, host and port in lower case; None when it is anything else than just these."""
    try:
        parts = urlsplit(url.rstrip("/"))
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        return None
    if parts.username or parts.password or parts.path or parts.query or parts.fragment:
        return None
    return f"{parts.scheme}://{parts.netloc.lower()}"
