"""AMQP URLs, the port that replaces theirs, and the sentences about failures."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pika.exceptions as px
import pytest

from cep.amqp.connection import Connection
from cep.amqp.failures import Where, as_error, explain
from cep.amqp.link import connection_parameters
from cep.amqp.probe import check_connection
from cep.errors import ConfigError, DataError, NotAllowed, PeerUntrusted, TemporaryFailure

URL = "amqp://user:top-secret@broker.example.org:5673/"
WHERE = Where("broker.example.org", 5671, "user", tls=True)


def test_the_urls_own_port_stands_unless_another_is_given() -> None:
    assert connection_parameters(URL).port == 5673
    assert connection_parameters("amqp://u:p@h").port == 5672
    assert connection_parameters("amqps://u:p@h").port == 5671
    for port in (443, 5671, 5672):
        assert connection_parameters(URL, port=port).port == port


def test_the_port_never_decides_about_tls() -> None:
    assert connection_parameters(URL, port=443).ssl_options is None
    assert connection_parameters("amqps://u:p@h", port=5672).ssl_options is not None


def test_tls_checks_certificates_and_host_names() -> None:
    context = connection_parameters("amqps://u:p@h").ssl_options.context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_virtual_host_user_and_options_come_from_the_url() -> None:
    parameters = connection_parameters("amqp://a%40b:p%2Fq@h:1/some%2Fhost?heartbeat=30")
    assert parameters.virtual_host == "some/host"
    assert (parameters.credentials.username, parameters.credentials.password) == ("a@b", "p/q")
    assert parameters.heartbeat == 30
    for url in ("amqp://u:p@h", "amqp://u:p@h/", "amqp://u:p@h/%2F"):
        assert connection_parameters(url).virtual_host == "/"


def test_without_an_option_the_brokers_heartbeat_counts_and_waits_are_bounded() -> None:
    parameters = connection_parameters(URL)
    assert parameters.heartbeat is None
    assert 0 < parameters.socket_timeout <= parameters.stack_timeout <= 30
    assert parameters.connection_attempts == 1
    chosen = connection_parameters(URL + "?socket_timeout=3&stack_timeout=4&connection_attempts=9")
    assert (chosen.socket_timeout, chosen.stack_timeout) == (3, 4)
    assert chosen.connection_attempts == 1  # trying again is the link's business


def test_the_password_is_never_in_a_repr_or_an_error() -> None:
    assert "top-secret" not in repr(connection_parameters(URL))
    for broken in (URL.replace("amqp:", "http:"), URL + "?heartbeat=x", "amqp://u:top-secret@"):
        with pytest.raises(DataError) as failure:
            connection_parameters(broken)
        assert "top-secret" not in str(failure.value)
        assert failure.value.__cause__ is None


def test_a_ca_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        connection_parameters("amqps://u:p@h", ssl_ca_file=missing)
    connection_parameters("amqp://u:p@h", ssl_ca_file=missing)  # plain: not needed


def auth_failure(code: int, said: str) -> BaseException:
    return px.ProbableAuthenticationError(repr(px.ConnectionClosedByBroker(code, said)))


def test_refused_credentials_end_the_link() -> None:
    failure = explain(auth_failure(403, "ACCESS_REFUSED - Login was refused"), WHERE)
    assert isinstance(failure.refusal, NotAllowed)
    assert "broker.example.org:5671" in failure.text
    assert "user" in failure.text


def test_a_broker_that_goes_away_during_the_login_does_not_end_the_link() -> None:
    for error in (
        px.ProbableAuthenticationError(repr(px.StreamLostError("Transport indicated EOF"))),
        auth_failure(320, "CONNECTION_FORCED - broker forced connection closure"),
    ):
        assert explain(error, WHERE).refusal is None


def test_a_virtual_host_that_is_refused_ends_the_link() -> None:
    closed = px.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost x not found")
    failure = explain(px.ProbableAccessDeniedError(repr(closed)), WHERE)
    assert isinstance(failure.refusal, NotAllowed)
    assert "vhost x not found" in failure.text


def test_an_exclusive_clash_is_waited_out_and_a_missing_permission_is_not() -> None:
    for code, said in (
        (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"),
        (405, "RESOURCE_LOCKED - cannot obtain access"),
    ):
        failure = explain(px.ChannelClosedByBroker(code, said), WHERE)
        assert failure.refusal is None
        assert "holds the queue" in failure.text
    said = "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'user'"
    assert explain(px.ChannelClosedByBroker(403, said), WHERE).refusal is not None


def test_a_missing_queue_is_waited_for() -> None:
    failure = explain(px.ChannelClosedByBroker(404, "NOT_FOUND - no queue 'q'"), WHERE)
    assert failure.refusal is None
    assert failure.code == 404


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "cannot be resolved"),
        (ConnectionRefusedError(), "refused the connection"),
        (TimeoutError(), "does not answer in time"),
        (ssl.SSLError(1, "wrong version number"), "TLS"),
        (OSError(113, "No route to host"), "No route to host"),
        (px.StreamLostError("gone"), "was lost"),
        (px.AMQPHeartbeatTimeout("idle"), "silent"),
        (px.IncompatibleProtocolError("?"), "does not speak AMQP"),
        (None, "was lost"),
    ],
)
def test_network_failures_are_sentences_with_host_and_port(
    error: BaseException | None, words: str
) -> None:
    failure = explain(error, WHERE)
    assert words in failure.text
    assert "broker.example.org" in failure.text
    assert "5671" in failure.text
    assert failure.text.endswith(".")
    assert failure.refusal is None


def test_a_refused_configured_port_is_explained_with_the_line_to_remove() -> None:
    where = Where("h", 443, "u", tls=True, service_port=5671)
    text = explain(ConnectionRefusedError(), where).text
    assert all(word in text for word in ("h:443", "5671", "`amqp_port: 443`", "remove the line"))


def test_an_unknown_name_and_a_closed_port_are_passing_troubles() -> None:
    with pytest.raises(TemporaryFailure, match="cannot be resolved"):
        check_connection("amqp://u:p@no-such-host.invalid/", timeout_s=3)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        with pytest.raises(TemporaryFailure, match="refused"):
            check_connection(f"amqp://u:p@127.0.0.1:{held.getsockname()[1]}/", timeout_s=3)


def test_a_server_that_says_nothing_is_given_up_at_the_time_out() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(TemporaryFailure, match="in time"),
    ):
        check_connection(f"amqp://u:p@127.0.0.1:{silent.getsockname()[1]}/", timeout_s=0.3)


def test_frames_written_while_corked_leave_together() -> None:
    """Fails when pika no longer calls the method that gathers frames."""
    written: list[bytes] = []
    connection = Connection(
        connection_parameters(URL), internal_connection_workflow=False, custom_ioloop=None
    )
    connection._adapter_emit_data = written.append
    connection._set_connection_state(connection.CONNECTION_OPEN)
    connection.cork()
    for _ in range(3):
        connection._send_frame(_Frame())
    assert written == []
    connection.uncork()
    assert written == [b"frame" * 3]
    connection._send_frame(_Frame())
    assert written[1:] == [b"frame"]
    assert connection.bytes_sent == 20
    connection.ioloop.close()


class _Frame:
    def marshal(self) -> bytes:
        return b"frame"


def test_who_is_not_trusted_ends_a_start_and_not_a_link() -> None:
    expired = ssl.SSLCertVerificationError(1, "certificate verify failed")
    expired.verify_code, expired.verify_message = 10, "certificate has expired"
    foreign = PeerUntrusted("Port 5672 belongs to somebody else.", hint="Use another.")
    for cause, kind in ((expired, TemporaryFailure), (foreign, PeerUntrusted)):
        failure = explain(cause, WHERE)
        assert failure.refusal is None  # a link goes on trying
        assert type(as_error(failure, WHERE)) is kind
        assert "\nUse another." in failure.text or "has expired" in failure.text
