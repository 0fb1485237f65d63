"""What options and the shell's variables say of the service, for a configuration to be written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cep.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from cep.service.address import ServiceAddress


def named_service(option: str | None) -> tuple[ServiceAddress, str | None]:
    """The service, and the address to write into the file; None for the hosted default.

    Args:
        option: The value of `--service`; without it the shell's variables say.

    Raises:
        UsageError: The option is no address.
        ConfigError: The shell's variables are wrong.
    """
    from cep.model import PRODUCTION
    from cep.service.address import of_url, resolve_service

    if option is not None:
        try:
            address = of_url(option, "--service")
        except ConfigError as exc:
            raise UsageError(exc.message) from exc
        return address, address.url
    address = resolve_service(None)
    return address, None if address.environment == PRODUCTION else address.url


def authorities(option: str | None, address: ServiceAddress, before: str | None) -> str | None:
    """The file of authorities to write: the option's, or the shell's, or the one of before.

    The shell's only for a service with TLS: its variables are often there for other programs.

    Args:
        option: The value of `--ca-file`.
        address: The service.
        before: What the endpoint's configuration got when it was written last.

    Raises:
        UsageError: The option's file cannot be used.
        ConfigError: The shell's cannot, or it asks to switch the check off.
    """
    from cep.service import trust

    if option is not None:
        path = str(Path(option).expanduser().absolute())
        try:
            trust.check_authorities(path, "The file of --ca-file,")
        except ConfigError as exc:
            raise UsageError(exc.message) from exc
        return path
    if address.url.startswith("https://"):
        named = trust.of_the_shell()
        if named is not None:
            trust.check_authorities(named, "What the shell names as certificate authorities,")
            return named
    return before
