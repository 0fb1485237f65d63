"""Certificates that are no good, for https:// and amqps://, and TLS met by plain text."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cep.amqp.probe import check_connection
from cep.errors import CepError, ConfigError, NotAllowed, PeerUntrusted, TemporaryFailure
from cep.service import trust
from cep.service.address import ServiceAddress, of_url
from cep.service.auth import Login
from cep.service.client import connect
from tests.certificates import Authority, self_signed, server_context
from tests.unit.service_stand_in import CLIENT_ID, SECRET, StandIn, serving

SECRETS = (SECRET, "amqp-password")


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell that names no authorities, with a client identity."""
    for name in trust.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("GLOBUS_SDK_SERVICE_URL_AUTH", raising=False)
    monkeypatch.delenv("GLOBUS_COMPUTE_SCOPE", raising=False)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", SECRET)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that clients are told to trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


def made(kind: str, authority: Authority, directory: Path) -> tuple[Path, Path]:
    """A certificate and its key, of one kind of being wrong."""
    if kind == "expired":
        return authority.issue("expired", "localhost", expired=True)
    if kind == "wrong name":
        return authority.issue("wrong", "other.example.org")
    if kind == "self-signed":
        return self_signed(directory / "self", "localhost")
    if kind == "wrong authority":
        return Authority(directory / "other", "another authority").issue("server", "localhost")
    return authority.issue("good", "localhost")


@dataclass(frozen=True)
class Wrong:
    """A certificate that is no good, and how that is told."""

    kind: str
    error: type[CepError]
    code: int
    words: str


WRONG = [
    Wrong("expired", TemporaryFailure, 75, "has expired"),
    Wrong("wrong name", PeerUntrusted, 77, "is not for the name localhost"),
    Wrong("self-signed", PeerUntrusted, 77, "self-signed"),
    Wrong("wrong authority", PeerUntrusted, 77, "authority is not trusted"),
]


@contextlib.contextmanager
def listening(context: ssl.SSLContext) -> Iterator[tuple[int, list[bytes]]]:
    """A TLS port that keeps what reaches it after the handshake, and answers nothing."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(60)
                    with context.wrap_socket(connection, server_side=True) as secure:
                        heard.append(secure.recv(65536))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], heard
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.kind)
def test_a_wrong_certificate_of_the_service_is_one_sentence_and_nothing_was_sent(
    wrong: Wrong, authority: Authority, tmp_path: Path
) -> None:
    context = server_context(*made(wrong.kind, authority, tmp_path))
    with listening(context) as (port, heard):
        url = f"https://localhost:{port}"
        address = ServiceAddress(url, f"hub-localhost-{port}", False, str(authority.file))
        with Login(address, base=tmp_path / "users") as login, pytest.raises(wrong.error) as caught:
            login.ensure()
    assert type(caught.value) is wrong.error
    assert caught.value.exit_code == wrong.code
    assert f"The certificate of {url} is not accepted" in caught.value.message
    assert wrong.words in caught.value.message
    assert caught.value.hint
    assert not any(heard)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.kind)
def test_a_wrong_certificate_of_the_broker_is_one_sentence_and_nothing_was_sent(
    wrong: Wrong, authority: Authority, tmp_path: Path
) -> None:
    context = server_context(*made(wrong.kind, authority, tmp_path))
    with listening(context) as (port, heard), pytest.raises(wrong.error) as caught:
        check_connection(
            f"amqps://u:amqp-password@localhost:{port}/", ssl_ca_file=str(authority.file)
        )
    assert type(caught.value) is wrong.error
    assert caught.value.exit_code == wrong.code
    assert f"the broker localhost:{port} is not accepted" in caught.value.message
    assert wrong.words in caught.value.message
    assert not any(secret in str(caught.value) for secret in SECRETS)
    assert not any(heard)


@contextlib.contextmanager
def secure_service(authority: Authority) -> Iterator[StandIn]:
    """The stand-in service over TLS: a small proxy in front of it."""
    context = server_context(*authority.issue("service", "localhost"))
    with serving() as stand_in:

        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                request = urllib.request.Request(
                    stand_in.url + self.path,
                    self.rfile.read(size) or None,
                    {k: v for k, v in self.headers.items() if k.lower() != "host"},
                    method=self.command,
                )
                opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                with opener.open(request, timeout=60) as answer:
                    body = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _pass_on

            def log_message(self, *args: object) -> None:
                """Stay silent."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        stand_in.answers["GET", "/v2/version"] = (200, {"min_ep_version": "2.0.0"})
        outer = StandIn(url=f"https://localhost:{server.server_address[1]}")
        outer.requests = stand_in.requests
        try:
            yield outer
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


@pytest.mark.parametrize("variable", [None, *trust.VARIABLES[:3]])
def test_login_and_version_pass_with_the_authority_named_in_the_file_or_the_shell(
    variable: str | None, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with secure_service(authority) as service:
        if variable is not None:
            monkeypatch.setenv(variable, str(authority.file))
            address = of_url(service.url)
        else:
            address = ServiceAddress(service.url, "hub-tls", False, str(authority.file))
        with connect(address, interactive=False, base=tmp_path / str(variable)) as client:
            client.check_version()
        assert len(service.asked("/v2/version")) == 1


def test_without_the_authority_the_good_certificate_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    with secure_service(authority) as service, pytest.raises(PeerUntrusted, match="ssl_ca_file"):
        connect(of_url(service.url), interactive=False, base=tmp_path)


def test_a_plain_address_of_a_service_with_tls_says_https(
    authority: Authority, tmp_path: Path
) -> None:
    with secure_service(authority) as service:
        plain = service.url.replace("https", "http")
        with pytest.raises(ConfigError, match="speaks TLS") as caught:
            connect(of_url(plain), interactive=False, base=tmp_path)
    assert service.url in str(caught.value.hint)


def test_a_tls_address_of_a_plain_service_says_http(tmp_path: Path) -> None:
    with serving() as service:
        secure = service.url.replace("http", "https")
        with pytest.raises(ConfigError, match="does not speak TLS") as caught:
            connect(of_url(secure), interactive=False, base=tmp_path)
    assert "http://" in str(caught.value.hint)
    assert not service.requests


def test_a_tls_address_of_a_plain_broker_says_so(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"AMQP\x00\x00\x09\x01")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TemporaryFailure, match=f"localhost:{port} does not speak TLS"):
            check_connection(
                f"amqps://u:amqp-password@localhost:{port}/", ssl_ca_file=str(authority.file)
            )
        thread.join()


def test_a_directory_of_authorities_counts_for_amqps_and_https(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert trust.trusted_authorities(None) == str(tmp_path)
    trust.check_authorities(str(tmp_path))
    # Empty, so the certificate is unknown; that it is asked at all is what counts.
    with secure_service(authority) as service, pytest.raises(PeerUntrusted):
        connect(of_url(service.url), interactive=False, base=tmp_path / "users")


def test_the_file_wins_over_the_shell_and_the_shells_variables_have_an_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in reversed(trust.VARIABLES):
        monkeypatch.setenv(variable, f"/{variable}")
        assert trust.trusted_authorities(None) == f"/{variable}"
    assert trust.trusted_authorities("/ours") == "/ours"
    monkeypatch.setenv("GLOBUS_SDK_VERIFY_SSL", "true")
    assert trust.trusted_authorities(None) == "/REQUESTS_CA_BUNDLE"


@pytest.mark.parametrize("word", ["false", "0", "No", "OFF"])
def test_the_check_cannot_be_switched_off(
    word: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_VERIFY_SSL", word)
    for configured in (None, str(authority.file)):
        with pytest.raises(ConfigError, match="never") as caught:
            trust.trusted_authorities(configured)
        assert caught.value.exit_code == 78


def test_a_file_of_authorities_that_is_missing_or_no_pem_is_named(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing of use")
    for path in (wrong, tmp_path / "missing.pem"):
        address = ServiceAddress("https://localhost:1", "hub-x", False, str(path))
        with pytest.raises(ConfigError, match=str(path)) as caught:
            connect(address, interactive=False, base=tmp_path / "users")
        assert not isinstance(caught.value, NotAllowed)
