"""The client of the web service, against a stand-in: what it sends, and what errors become."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cep import SPOKEN_ENDPOINT_VERSION
from cep.errors import (
    CepError,
    DataError,
    NotAllowed,
    SoftwareError,
    TemporaryFailure,
    Unavailable,
)
from cep.service import auth
from cep.service.address import of_url
from cep.service.client import Registration, ServiceClient, connect
from tests.unit.service_stand_in import (
    CLIENT_ID,
    ENDPOINT_ID,
    SECRET,
    StandIn,
    registration_answer,
    serving,
)

POST = ("POST", "/v3/endpoints")
PUT = ("PUT", f"/v3/endpoints/{ENDPOINT_ID}")
VERSION = ("GET", "/v2/version")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in (
        "GLOBUS_SDK_ENVIRONMENT",
        "GLOBUS_SDK_SERVICE_URL_AUTH",
        "GLOBUS_SDK_SERVICE_URL_COMPUTE",
        "GLOBUS_COMPUTE_SCOPE",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", SECRET)
    monkeypatch.setattr(auth, "MAX_RETRIES", 0)
    with serving() as stand_in:
        yield stand_in


@pytest.fixture
def client(service: StandIn, tmp_path: Path) -> Iterator[ServiceClient]:
    with connect(of_url(service.url), interactive=False, base=tmp_path) as found:
        yield found


def test_a_client_identity_logs_in_at_the_service_itself_without_any_shell_variable(
    service: StandIn, client: ServiceClient
) -> None:
    service.answers[VERSION] = (200, {"min_ep_version": "2.0.0", "min_sdk_version": "2.0.0"})
    client.check_version()
    (asked,) = service.asked("/v2/version")
    assert asked.headers["Authorization"] == "Bearer compute-1"
    assert asked.path == "/v2/version?service=all"
    assert len(service.asked("/v2/oauth2/token")) == 1


def test_a_stored_token_is_used_again(
    service: StandIn, client: ServiceClient, tmp_path: Path
) -> None:
    service.answers[VERSION] = (200, {"min_ep_version": "2.0.0"})
    with connect(of_url(service.url), interactive=False, base=tmp_path) as second:
        second.check_version()
    assert service.tokens == 1
    client.check_version()


def test_a_token_that_the_service_forgot_is_renewed(
    service: StandIn, client: ServiceClient
) -> None:
    answers = iter([(401, {"code": "UNAUTHENTICATED"}), (200, {"min_ep_version": "2"})])
    plain = service.respond

    def respond(request: object) -> tuple[int, object]:
        if "/v2/version" in request.path:  # type: ignore[attr-defined]
            return next(answers)
        return plain(request)  # type: ignore[arg-type]

    service.respond = respond  # type: ignore[method-assign, assignment]
    client._http.retry_config.max_retries = 1
    client.check_version()
    assert service.tokens == 2


@pytest.mark.parametrize("wanted", ["2.19.0", "2.19", "2.0.0", "1.9rc1", "0"])
def test_versions_up_to_the_spoken_one_are_fine(
    wanted: str, service: StandIn, client: ServiceClient
) -> None:
    service.answers[VERSION] = (200, {"min_ep_version": wanted})
    client.check_version()


@pytest.mark.parametrize("wanted", ["2.19.1", "3", "4.19.0", "10.0"])
def test_a_service_that_wants_a_newer_endpoint_is_refused(
    wanted: str, service: StandIn, client: ServiceClient
) -> None:
    service.answers[VERSION] = (200, {"min_ep_version": wanted})
    with pytest.raises(Unavailable) as caught:
        client.check_version()
    assert wanted in str(caught.value)
    assert SPOKEN_ENDPOINT_VERSION in str(caught.value)


@pytest.mark.parametrize("answer", [{}, {"min_ep_version": 3}, {"min_ep_version": "new"}, []])
def test_a_version_that_cannot_be_read_is_bad_data(
    answer: object, service: StandIn, client: ServiceClient
) -> None:
    service.answers[VERSION] = (200, answer)
    with pytest.raises(DataError):
        client.check_version()


def test_the_first_registration_is_a_post_and_sends_only_what_is_set(
    service: StandIn, client: ServiceClient
) -> None:
    service.answers[POST] = (200, registration_answer())
    registered = client.register(
        Registration(endpoint_name="e1", metadata={"hostname": "h"}, public=False), None
    )
    (asked,) = service.asked("/v3/endpoints")
    assert asked.body == {"endpoint_name": "e1", "metadata": {"hostname": "h"}, "public": False}
    assert registered.endpoint_id == ENDPOINT_ID
    assert registered.tasks.queue == f"{ENDPOINT_ID}.tasks"
    assert registered.tasks.publish is None
    assert registered.results.publish is not None
    assert registered.results.publish.routing_key == f"{ENDPOINT_ID}.results"
    assert registered.results.publish.properties == {"delivery_mode": 2}
    assert registered.heartbeats is not None


def test_a_known_id_is_registered_again_with_everything_that_is_set(
    service: StandIn, client: ServiceClient
) -> None:
    service.answers[PUT] = (200, registration_answer())
    client.register(
        Registration(
            endpoint_name="e1",
            display_name="",
            allowed_functions=(ENDPOINT_ID,),
            authentication_policy=ENDPOINT_ID,
            subscription_id=ENDPOINT_ID,
            high_assurance=True,
            admins=(ENDPOINT_ID,),
        ),
        ENDPOINT_ID,
    )
    (asked,) = service.asked(f"/v3/endpoints/{ENDPOINT_ID}")
    assert asked.body == {
        "endpoint_name": "e1",
        "display_name": "",
        "allowed_functions": [ENDPOINT_ID],
        "authentication_policy": ENDPOINT_ID,
        "subscription_uuid": ENDPOINT_ID,
        "high_assurance": True,
        "admins": [ENDPOINT_ID],
    }


def test_a_registration_without_a_heartbeat_queue_is_that_of_2_19(
    service: StandIn, client: ServiceClient
) -> None:
    answer = registration_answer()
    del answer["heartbeat_queue_info"]
    service.answers[POST] = (200, answer)
    assert client.register(Registration("e1"), None).heartbeats is None


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("endpoint_id", None),
        ("task_queue_info", None),
        ("task_queue_info", "connection_url"),
        ("task_queue_info", "queue"),
        ("result_queue_info", None),
        ("result_queue_info", "queue_publish_kwargs"),
    ],
)
def test_an_answer_with_something_missing_is_bad_data_and_names_it(
    block: str, key: str | None, service: StandIn, client: ServiceClient
) -> None:
    answer = registration_answer()
    if key is None:
        del answer[block]
    else:
        del answer[block][key]
    service.answers[POST] = (200, answer)
    with pytest.raises(DataError) as caught:
        client.register(Registration("e1"), None)
    assert caught.value.exit_code == 65
    assert (key or block) in str(caught.value)
    assert "password" not in str(caught.value)


def test_another_endpoint_s_id_in_the_answer_is_a_fault(
    service: StandIn, client: ServiceClient
) -> None:
    service.answers[PUT] = (200, registration_answer("2f0e9a52-0000-4000-8000-00000000000b"))
    with pytest.raises(SoftwareError) as caught:
        client.register(Registration("e1"), ENDPOINT_ID)
    assert caught.value.exit_code == 70


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, DataError, 65),
        (422, DataError, 65),
        (401, NotAllowed, 77),
        (403, NotAllowed, 77),
        (404, Unavailable, 69),
        (409, Unavailable, 69),
        (423, Unavailable, 69),
    ],
)
def test_a_blocked_registration_has_the_published_line_and_exit_code(
    status: int, kind: type[CepError], code: int, service: StandIn, client: ServiceClient
) -> None:
    service.answers[POST] = (status, {"code": "NO", "message": "because of x"})
    with pytest.raises(kind) as caught:
        client.register(Registration("e1"), None)
    assert caught.value.exit_code == code
    assert caught.value.message == (
        'Endpoint registration blocked.  [{"code": "NO", "message": "because of x"}]'
    )
    assert "because of x" in str(caught.value.hint)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_error_is_a_passing_trouble(
    status: int, service: StandIn, client: ServiceClient
) -> None:
    service.answers[POST] = (status, "<html>oops</html>")
    with pytest.raises(TemporaryFailure) as caught:
        client.register(Registration("e1"), None)
    assert caught.value.exit_code == 75


def test_a_service_that_is_not_there_is_a_passing_trouble_in_one_sentence(
    service: StandIn, tmp_path: Path
) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = of_url(f"http://127.0.0.1:{held.getsockname()[1]}")
        del service
        with pytest.raises(TemporaryFailure) as caught:
            connect(address, interactive=False, base=tmp_path)
    assert caught.value.exit_code == 75
    assert address.url in caught.value.message
    assert "\n" not in caught.value.message


def test_wrong_credentials_are_77_and_the_secret_is_not_told(
    service: StandIn, tmp_path: Path
) -> None:
    service.secret = "another"
    with pytest.raises(NotAllowed) as caught:
        connect(of_url(service.url), interactive=False, base=tmp_path)
    assert caught.value.exit_code == 77
    assert SECRET not in str(caught.value)


def test_lock_delete_and_status_use_the_published_routes(
    service: StandIn, client: ServiceClient
) -> None:
    lock = f"/v3/endpoints/{ENDPOINT_ID}/lock"
    service.answers["POST", lock] = (200, "")
    service.answers["DELETE", f"/v2/endpoints/{ENDPOINT_ID}"] = (200, {"result": 302})
    service.answers["GET", f"/v2/endpoints/{ENDPOINT_ID}/status"] = (
        200,
        {"status": "offline", "details": {}},
    )
    client.lock(ENDPOINT_ID)
    client.delete(ENDPOINT_ID)
    assert client.status(ENDPOINT_ID) == "offline"
    assert len(service.asked(lock)) == 1


def test_deleting_what_the_service_does_not_know_is_unavailable(
    service: StandIn, client: ServiceClient
) -> None:
    service.answers["DELETE", f"/v2/endpoints/{ENDPOINT_ID}"] = (404, {"message": "unknown"})
    with pytest.raises(Unavailable, match="unknown"):
        client.delete(ENDPOINT_ID)
