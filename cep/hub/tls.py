"""The hub's certificate: loaded, checked as a client will check it, loaded again on SIGHUP.

One certificate serves https:// and amqps://. Everything a client would refuse is found at the
start, by a handshake within this process.
"""

from __future__ import annotations

import hashlib
import logging
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path

from cep.errors import ConfigError, UsageError
from cep.hub.options import HubOptions

log = logging.getLogger(__name__)

HANDSHAKE_S = 10.0
_EXPIRED, _NOT_YET_VALID = 10, 9  # source: openssl/x509_vfy.h
_WRONG_NAME, _WRONG_ADDRESS = 62, 64


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate that is served.

    Attributes:
        context: What listeners use; a new certificate comes into it without a restart.
        cert: PEM file of the certificate and the authorities between it and the root.
        key: PEM file of its key.
        ca: PEM file whose authorities clients are to trust, when one was named.
    """

    context: ssl.SSLContext
    cert: str
    key: str
    ca: str | None

    def reload(self) -> bool:
        """Serve what is in the files now; the old certificate stays when they are no good."""
        try:
            _load(_server_context(), self.cert, self.key)
            _load(self.context, self.cert, self.key)
        except ConfigError as exc:
            log.error("The old certificate stays: %s", exc, extra={"event": "hub.tls_kept"})
            return False
        log.info("The certificate was loaded again", extra={"event": "hub.tls_loaded"})
        return True

    def fingerprint(self) -> str:
        """SHA-256 of the certificate, by which the commands on this machine know the hub."""
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        return hashlib.sha256(_handshake(self.context, client, None)).hexdigest()

    def trust_file(self, host: str) -> str | None:
        """Return the file that clients are to trust, None when the hub has none to name.

        That is `--tls-ca`, or the certificate's own file where it is its own authority.
        """
        if self.ca is not None:
            return self.ca
        # Clients on Python before 3.13 want the root itself, so that is what is asked for.
        trusting = ssl.create_default_context(cafile=self.cert)
        trusting.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        try:
            _handshake(self.context, trusting, host)
        except ssl.SSLError:
            return None
        return self.cert

    def check(self, host: str) -> None:
        """Check that clients which come by this name will accept the certificate.

        Raises:
            ConfigError: It has expired, or it is not signed by the authority of `--tls-ca`.
            UsageError: It is not for this name.
        """
        trusting = ssl.create_default_context(cafile=self.ca or self.cert)
        # Without --tls-ca nobody here knows the root, and only name and time can be judged.
        trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        try:
            _handshake(self.context, trusting, host)
        except ssl.SSLCertVerificationError as exc:
            if exc.verify_code in (_WRONG_NAME, _WRONG_ADDRESS):
                raise UsageError(
                    f"The certificate {self.cert} is not for the name {host!r}, by which clients "
                    "are told to come.",
                    hint="Name the address it was made for: --public-url https://NAME:PORT",
                ) from exc
            if exc.verify_code in (_EXPIRED, _NOT_YET_VALID):
                raise ConfigError(
                    f"The certificate {self.cert} cannot be used: {exc.verify_message}."
                ) from exc
            raise ConfigError(
                f"The certificate {self.cert} is not signed by an authority of {self.ca}: "
                f"{exc.verify_message}."
            ) from exc


def load_certificate(options: HubOptions) -> Certificate | None:
    """Load what `--tls-cert` and `--tls-key` name; None without them.

    Raises:
        ConfigError: A file cannot be read, they do not belong together, or others can read the key.
    """
    if options.tls_cert is None or options.tls_key is None:
        return None
    _check_key(Path(options.tls_key))
    context = _server_context()
    _load(context, options.tls_cert, options.tls_key)
    if options.tls_ca is not None:
        try:
            ssl.create_default_context(cafile=options.tls_ca)
        except (OSError, ssl.SSLError) as exc:
            raise ConfigError(
                f"The file of --tls-ca {options.tls_ca} cannot be used: {exc}."
            ) from exc
    return Certificate(context, options.tls_cert, options.tls_key, options.tls_ca)


def _check_key(key: Path) -> None:
    try:
        found = key.stat()
    except OSError as exc:
        raise ConfigError(f"The key {key} cannot be read: {exc.strerror}.") from exc
    mode = stat.S_IMODE(found.st_mode)
    # Debian keeps keys as root:ssl-cert 0640; a group that root chose may read, nobody else.
    harmless = stat.S_IRGRP if found.st_uid == 0 else 0
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~harmless:
        raise ConfigError(
            f"The key {key} can be used by other accounts (mode {mode:04o}).",
            hint=f"chmod 600 {key}; if it ever was like that on a shared machine, make a new one.",
        )


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load(context: ssl.SSLContext, cert: str, key: str) -> None:
    try:
        # An empty password, so that an encrypted key is an error and no question on the terminal.
        context.load_cert_chain(cert, key, password="")
    except ssl.SSLError as exc:
        reason = "they do not belong together" if "MISMATCH" in str(exc) else str(exc.reason or exc)
        raise ConfigError(
            f"The certificate {cert} and the key {key} cannot be used: {reason}."
        ) from exc
    except OSError as exc:
        raise ConfigError(
            f"The certificate {cert} or the key {key} cannot be read: {exc.strerror or exc}."
        ) from exc


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str | None) -> bytes:
    """Let a client and a server of this process meet; returns the certificate the client saw.

    Raises:
        ssl.SSLError: The client does not accept it.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=host)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [one, other]
    for _ in range(10):  # TLS 1.2 takes two round trips
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
    seen = one.getpeercert(binary_form=True)
    assert seen is not None
    return seen
