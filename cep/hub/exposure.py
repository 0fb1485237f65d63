"""Who may reach the hub: loopback unless its operator says otherwise, in so many words. Pure."""

from __future__ import annotations

from cep.errors import UsageError
from cep.hub.options import HubOptions, is_loopback


def check_exposure(options: HubOptions, *, embedded_broker: bool = True) -> None:
    """Check that the address to listen on is covered by what the operator said.

    Args:
        options: How to serve.
        embedded_broker: AMQP is served by the hub itself, on the same address.

    Raises:
        UsageError: An address that other hosts reach without TLS and without `--insecure`, the
            embedded broker on such an address without `--embedded-broker-exposed`, or half of a
            certificate.
    """
    if (options.tls_cert is None) != (options.tls_key is None):
        there, missing = ("--tls-cert", "--tls-key")
        if options.tls_cert is None:
            there, missing = missing, there
        raise UsageError(f"{there} is given without {missing}; TLS needs both.")
    if options.tls_ca is not None and options.tls_cert is None:
        raise UsageError("--tls-ca says whom clients are to trust, and needs --tls-cert.")
    if is_loopback(options.host):
        return
    if options.tls_cert is None and not options.insecure:
        raise UsageError(
            f"The hub would listen on {options.host}, where other hosts reach it, without TLS: "
            "everybody on the way could read secrets and tasks, and send tasks of their own.",
            hint="Give it a certificate with --tls-cert FILE --tls-key FILE, or say --insecure.",
        )
    if embedded_broker and not options.embedded_broker_exposed:
        raise UsageError(
            f"The embedded broker would listen on {options.host}, where other hosts reach it; it "
            "is made for one machine.",
            hint="Say --embedded-broker-exposed if that is meant.",
        )
