"""Who may reach the hub, and with which certificate: what is refused before anything listens."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest

from cep.errors import ConfigError, UsageError
from cep.hub.app import serve
from cep.hub.exposure import check_exposure
from cep.hub.options import HubOptions
from cep.hub.tls import load_certificate
from tests.certificates import Authority, self_signed


def options(state_dir: Path, **values: object) -> HubOptions:
    return HubOptions(state_dir=state_dir, port=0, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "hub.example.org"])
def test_an_address_that_others_reach_needs_tls_or_a_word(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without TLS") as caught:
        serve(options(tmp_path, host=host))
    assert caught.value.exit_code == 64
    assert "--tls-cert" in str(caught.value.hint)
    assert "--insecure" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "more", [{"insecure": True}, {"tls_cert": "/cert.pem", "tls_key": "/key.pem"}]
)
def test_the_embedded_broker_needs_another_word(more: dict[str, object], tmp_path: Path) -> None:
    exposed = options(tmp_path, host="0.0.0.0", **more)
    with pytest.raises(UsageError, match="embedded broker") as caught:
        check_exposure(exposed)
    assert "--embedded-broker-exposed" in str(caught.value.hint)
    check_exposure(exposed, embedded_broker=False)
    check_exposure(options(tmp_path, host="0.0.0.0", embedded_broker_exposed=True, **more))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_no_word(host: str, tmp_path: Path) -> None:
    check_exposure(options(tmp_path, host=host))


@pytest.mark.parametrize(
    ("half", "words"),
    [
        ({"tls_cert": "/c"}, "--tls-cert is given without --tls-key"),
        ({"tls_key": "/k"}, "--tls-key is given without --tls-cert"),
        ({"tls_ca": "/a"}, "--tls-ca"),
    ],
)
def test_half_a_certificate_is_refused(half: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        check_exposure(options(tmp_path, **half))


def with_files(state_dir: Path, files: tuple[Path, Path], ca: Path | None = None) -> HubOptions:
    cert, key = files
    return options(
        state_dir, tls_cert=str(cert), tls_key=str(key), tls_ca=None if ca is None else str(ca)
    )


def test_a_key_that_others_can_use_is_refused(tmp_path: Path) -> None:
    files = self_signed(tmp_path / "hub", "localhost")
    for mode in (0o604, 0o602, 0o660, 0o620, 0o601):
        files[1].chmod(mode)
        with pytest.raises(ConfigError, match=f"mode 0{mode:o}") as caught:
            load_certificate(with_files(tmp_path, files))
        assert "chmod 600" in str(caught.value.hint)
    for mode in (0o600, 0o400):
        files[1].chmod(mode)
        assert load_certificate(with_files(tmp_path, files)) is not None


def test_files_that_are_missing_wrong_or_do_not_belong_together_are_named(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path / "one", "localhost")
    _, other_key = self_signed(tmp_path / "two", "localhost")
    damaged = tmp_path / "damaged.pem"
    damaged.write_text("no certificate")
    for files, words in (
        ((cert, other_key), "do not belong together"),
        ((damaged, key), "cannot be used"),
        ((tmp_path / "missing", key), "missing"),
        ((cert, tmp_path / "missing"), "missing"),
    ):
        with pytest.raises(ConfigError, match=words):
            load_certificate(with_files(tmp_path, files))
    with pytest.raises(ConfigError, match="damaged"):
        load_certificate(with_files(tmp_path, (cert, key), damaged))


def test_what_clients_would_refuse_is_refused_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    other = Authority(tmp_path / "other", "another")
    good = authority.issue("good", "hub.example.org", "192.0.2.7")
    for files, ca, host, error, words in (
        (good, authority.file, "localhost", UsageError, "is not for the name 'localhost'"),
        (good, None, "localhost", UsageError, "is not for the name"),
        (good, None, "192.0.2.8", UsageError, "is not for the name"),
        (authority.issue("old", "localhost", expired=True), None, "localhost", ConfigError, "exp"),
        (good, other.file, "hub.example.org", ConfigError, "not signed by an authority"),
    ):
        certificate = load_certificate(with_files(tmp_path, files, ca))
        assert certificate is not None
        with pytest.raises(error, match=words):
            certificate.check(host)
    for ca in (authority.file, None):
        certificate = load_certificate(with_files(tmp_path, good, ca))
        assert certificate is not None
        certificate.check("hub.example.org")
        certificate.check("192.0.2.7")


def test_what_clients_are_told_to_trust(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    issued = authority.issue("hub", "localhost")
    own = self_signed(tmp_path / "own", "localhost")
    for files, ca, told in (
        (issued, authority.file, authority.file),
        (issued, None, None),
        (own, None, own[0]),
    ):
        certificate = load_certificate(with_files(tmp_path, files, ca))
        assert certificate is not None
        assert certificate.trust_file("localhost") == (None if told is None else str(told))


def test_a_certificate_is_loaded_again_and_a_bad_one_leaves_the_old(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("hub", "localhost")
    certificate = load_certificate(with_files(tmp_path, files))
    assert certificate is not None

    def digest() -> str:
        der = ssl.PEM_cert_to_DER_cert(files[0].read_text())
        return hashlib.sha256(der).hexdigest()

    first = certificate.fingerprint()
    assert first == digest()
    authority.issue("hub", "localhost")
    assert certificate.reload()
    assert certificate.fingerprint() == digest() != first
    second = certificate.fingerprint()
    files[1].write_text("damaged")
    assert not certificate.reload()
    assert certificate.fingerprint() == second
