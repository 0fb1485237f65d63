"""The embedded broker over TLS, driven by pika."""

from __future__ import annotations

import asyncio
import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pika
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.unit.broker_rig import running


def certificate(directory: Path) -> Path:
    """A certificate of its own authority for `localhost`, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def test_a_client_publishes_and_gets_over_tls_and_plain_text_gets_nowhere(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    body = b"x" * 3_000_000

    def talk(port: int) -> bytes | None:
        trusting = ssl.create_default_context(cafile=str(pem))
        parameters = pika.ConnectionParameters(
            "localhost",
            port,
            credentials=pika.PlainCredentials("u", "right"),
            ssl_options=pika.SSLOptions(trusting, "localhost"),
        )
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.queue_declare("q", durable=True)
            channel.confirm_delivery()
            channel.basic_publish("", "q", body, pika.BasicProperties(delivery_mode=2))
            got: bytes | None = channel.basic_get("q", auto_ack=True)[2]
            return got

    async def scenario() -> None:
        async with running(tmp_path / "state", ssl_context=context, host="127.0.0.1") as (_b, port):
            assert await asyncio.to_thread(talk, port) == body
            plain = pika.URLParameters(f"amqp://u:right@localhost:{port}/")
            with pytest.raises(pika.exceptions.AMQPConnectionError):
                await asyncio.to_thread(pika.BlockingConnection, plain)

    asyncio.run(scenario())
