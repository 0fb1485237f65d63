"""Which certificate authorities the endpoint trusts, for https:// and amqps:// alike.

One file decides: `ssl_ca_file` of the configuration, or else the first of the usual variables of
the shell that is set; without any, the libraries' own authorities count. What is named replaces
those, it is not added to them. The check itself cannot be switched off.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from cep.errors import ConfigError

#: globus-sdk's own variable: a file, or a word that switches the check on or off.
SDK_VARIABLE = "GLOBUS_SDK_VERIFY_SSL"
#: Asked in this order: the one of the library that is used, requests' own, OpenSSL's own.
VARIABLES = (SDK_VARIABLE, "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")

# The words that globus-sdk 4.9 takes for true and false.
_ON = frozenset({"y", "yes", "t", "true", "on", "1"})
_OFF = frozenset({"n", "no", "f", "false", "off", "0"})


def trusted_authorities(configured: str | None) -> str | None:
    """Return the PEM file (or hashed directory) that counts; None for the libraries' own.

    Args:
        configured: `ssl_ca_file` of the configuration.

    Raises:
        ConfigError: The shell asks to switch the check of certificates off.
    """
    named = of_the_shell()
    if configured is not None:
        return str(Path(configured).expanduser())
    return named


def of_the_shell() -> str | None:
    """Return what the shell's variables name, as an absolute path.

    Raises:
        ConfigError: The shell asks to switch the check of certificates off.
    """
    for variable in VARIABLES:
        value = os.environ.get(variable, "")
        if variable == SDK_VARIABLE:
            if value.lower() in _OFF:
                raise ConfigError(
                    f"The shell variable {SDK_VARIABLE} is {value!r}, which would switch the check "
                    "of certificates off; cep never does that.",
                    hint="Unset it. A private authority is named with its path: "
                    f"export {SDK_VARIABLE}=/path/to/ca.pem",
                )
            if value.lower() in _ON:
                continue
        if value:
            return str(Path(value).expanduser().absolute())
    return None


def check_authorities(path: str, origin: str = "The file of certificate authorities") -> None:
    """Check that the file (or directory) can be used.

    Raises:
        ConfigError: It cannot.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if Path(path).is_dir():
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc)
        if isinstance(exc, ssl.SSLError):
            reason = "it holds no certificate in PEM form"
        raise ConfigError(f"{origin} {path} cannot be used: {reason}.") from exc
