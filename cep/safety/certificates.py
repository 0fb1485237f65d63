"""Why a server's certificate is not accepted, as a sentence that says what to do. Pure.

Used for https:// and amqps:// alike; the certificate and the host name are always checked.
"""

from __future__ import annotations

import ssl

from cep.errors import CepError, PeerUntrusted, TemporaryFailure

# What OpenSSL says of an answer that is not TLS at all, by version. Source: sslerr.h.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})

# Source: openssl/x509_vfy.h.
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN = 18, 19
_NO_ISSUER = frozenset({2, 20, 21, 27})
_WRONG_NAME, _WRONG_ADDRESS = 62, 64

_NAME_THE_CA = (
    "Name the authority of its certificate (a PEM file) as `ssl_ca_file` in config.yaml, or in the "
    "shell variable SSL_CERT_FILE; a shell variable alone does not hold at boot and in cron."
)


def is_no_tls(cause: ssl.SSLError) -> bool:
    """Whether the handshake ended because the other side does not speak TLS."""
    return getattr(cause, "reason", None) in _NO_TLS


def explain(cause: ssl.SSLCertVerificationError, who: str, host: str) -> CepError:
    """Return the error for a certificate that was refused.

    Args:
        cause: What the TLS handshake ended with.
        who: Whose it is, with the address, e.g. `the broker hub.example.org:5671`.
        host: The name that was asked for.

    Returns:
        TemporaryFailure for a matter of time (expired, not yet valid): it may be renewed without
        a change here. PeerUntrusted for everything else.
    """
    start = f"The certificate of {who} is not accepted: "
    code = cause.verify_code
    if code == _EXPIRED:
        return TemporaryFailure(
            f"{start}it has expired, or this host's clock is wrong.",
            hint="Whoever runs that server has to renew it; nothing was sent.",
        )
    if code == _NOT_YET_VALID:
        return TemporaryFailure(
            f"{start}it is not valid yet, or this host's clock is wrong.",
            hint="Look at this host's clock; nothing was sent.",
        )
    if code in (_WRONG_NAME, _WRONG_ADDRESS):
        return PeerUntrusted(
            f"{start}it is not for the name {host}.",
            hint="Use the name it was made for, or have one made that names this one; nothing was "
            "sent.",
        )
    if code == _SELF_SIGNED:
        return PeerUntrusted(f"{start}it is self-signed and not known here.", hint=_NAME_THE_CA)
    if code == _SELF_SIGNED_IN_CHAIN or code in _NO_ISSUER:
        return PeerUntrusted(f"{start}its authority is not trusted here.", hint=_NAME_THE_CA)
    return PeerUntrusted(f"{start}{cause.verify_message}.", hint=_NAME_THE_CA)
