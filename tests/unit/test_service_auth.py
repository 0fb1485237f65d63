"""Logins: the published client, scopes and token store; client identities; who one is."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cep.errors import ConfigError, DataError, NotAllowed
from cep.safety.files import link_exclusively
from cep.service import auth
from cep.service.address import ServiceAddress, of_url
from cep.service.auth import CLIENT_ID, Login, scopes
from cep.service.identity import client_identity
from tests.unit.service_stand_in import CLIENT_ID as STAND_IN_CLIENT
from tests.unit.service_stand_in import SECRET, StandIn, serving

HOSTED = of_url("https://compute.api.globus.org")
COMPUTE_SCOPE = "https://auth.globus.org/scopes/facd7ccc-c5f4-42aa-916b-a0e270e2c2a9/all"


@pytest.fixture(autouse=True)
def plain_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "GLOBUS_SDK_ENVIRONMENT",
        "GLOBUS_SDK_SERVICE_URL_AUTH",
        "GLOBUS_COMPUTE_CLIENT_ID",
        "GLOBUS_COMPUTE_CLIENT_SECRET",
        "GLOBUS_COMPUTE_SCOPE",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def service() -> Iterator[StandIn]:
    with serving() as stand_in:
        yield stand_in


@pytest.fixture
def as_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", STAND_IN_CLIENT)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", SECRET)


def store_published_login(base: Path, *, with_identity: bool) -> None:
    """Write storage.db as the published SDK does (2.19: without identity_id)."""
    tokens = {
        "funcx_service": COMPUTE_SCOPE,
        "auth.globus.org": "openid urn:globus:auth:scope:auth.globus.org:manage_projects",
    }
    with closing(sqlite3.connect(base / "storage.db")) as database:
        database.execute(
            "CREATE TABLE token_storage (namespace VARCHAR NOT NULL, resource_server VARCHAR "
            "NOT NULL, token_data_json VARCHAR NOT NULL, PRIMARY KEY (namespace, resource_server))"
        )
        if not with_identity:
            database.execute("CREATE TABLE config_storage (namespace VARCHAR, x VARCHAR)")
        for server, scope in tokens.items():
            data = {
                "scope": scope,
                "access_token": f"stored-{server}",
                "refresh_token": f"refresh-{server}",
                "expires_at_seconds": int(time.time()) + 3600,
                "token_type": "Bearer",
                "resource_server": server,
            }
            if with_identity:
                data["identity_id"] = STAND_IN_CLIENT
            database.execute(
                "INSERT INTO token_storage VALUES (?, ?, ?)",
                ("user/production", server, json.dumps(data)),
            )
        database.commit()


@pytest.mark.parametrize("with_identity", [True, False], ids=["4.19", "2.19"])
def test_an_existing_login_of_the_published_endpoint_is_used(
    with_identity: bool, tmp_path: Path
) -> None:
    store_published_login(tmp_path, with_identity=with_identity)
    with Login(HOSTED, base=tmp_path) as login:
        assert not login.needed()
        assert not login.ensure()
        header = login.app.get_authorizer("funcx_service").get_authorization_header()
    assert header == "Bearer stored-funcx_service"


def test_the_client_and_the_scopes_are_the_published_ones() -> None:
    assert CLIENT_ID == "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
    wanted = {server: [str(scope) for scope in found] for server, found in scopes().items()}
    assert wanted == {
        "funcx_service": [COMPUTE_SCOPE],
        "auth.globus.org": ["openid", "urn:globus:auth:scope:auth.globus.org:manage_projects"],
    }


def test_without_a_login_and_without_a_terminal_it_ends_with_the_command_to_run(
    tmp_path: Path,
) -> None:
    with Login(HOSTED, base=tmp_path) as login, pytest.raises(NotAllowed) as caught:
        login.ensure()
    assert caught.value.exit_code == 77
    assert "run: cep login" in str(caught.value)


def test_a_login_of_another_service_is_not_used(tmp_path: Path) -> None:
    store_published_login(tmp_path, with_identity=True)
    with Login(of_url("https://compute.api.preview.globus.org"), base=tmp_path) as login:
        assert login.needed()


def test_a_hub_without_client_variables_says_how_to_get_them(tmp_path: Path) -> None:
    hub = of_url("http://localhost:5000")
    with Login(hub, base=tmp_path, interactive=True) as login:
        assert login.needed()
        with pytest.raises(NotAllowed, match="cep hub env"):
            login.ensure()


@pytest.mark.parametrize("there", ["ID", "SECRET"])
def test_half_a_client_identity_is_an_error(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GLOBUS_COMPUTE_CLIENT_{there}", "x")
    with pytest.raises(NotAllowed, match="needs both"):
        client_identity()


@pytest.mark.usefixtures("as_client")
def test_a_client_identity_wins_over_a_stored_login(service: StandIn, tmp_path: Path) -> None:
    store_published_login(tmp_path, with_identity=True)
    with Login(of_url(service.url), base=tmp_path) as login:
        assert login.ensure()
        header = login.app.get_authorizer("funcx_service").get_authorization_header()
    assert header == "Bearer compute-1"
    assert SECRET not in repr(login.identity)


@pytest.mark.usefixtures("as_client")
def test_the_shell_s_login_service_wins_over_the_hub_s_own(
    service: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_AUTH", service.url + "/")
    with Login(ServiceAddress("http://127.0.0.1:1", "hub-x", False), base=tmp_path) as login:
        assert login.ensure()
    assert service.tokens == 1


@pytest.mark.usefixtures("as_client")
def test_the_token_store_is_private_and_named_as_published(
    service: StandIn, tmp_path: Path
) -> None:
    base = tmp_path / "new"
    with Login(of_url(service.url), base=base) as login:
        login.ensure()
    assert base.stat().st_mode & 0o777 == 0o700
    assert (base / "storage.db").stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(base / "storage.db")) as database:
        namespaces = {row[0] for row in database.execute("SELECT namespace FROM token_storage")}
    environment = of_url(service.url).environment
    assert namespaces == {f"clientprofile/{environment}/{STAND_IN_CLIENT}"}


@pytest.mark.usefixtures("as_client")
def test_a_new_token_store_appears_whole_and_never_in_the_place_of_another(
    service: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[Path] = []

    def slow(made: Path, file: Path) -> None:
        files.append(file)
        if len(files) == 1:
            assert not file.exists()
            with Login(of_url(service.url), base=tmp_path) as quicker:
                quicker.ensure()
        link_exclusively(made, file)

    monkeypatch.setattr(auth, "link_exclusively", slow)
    with Login(of_url(service.url), base=tmp_path) as login:
        login.ensure()
    assert files == [tmp_path / "storage.db"] * 2
    assert service.tokens == 1, "the quicker one's token is there"
    assert [one.name for one in tmp_path.iterdir()] == ["storage.db"]


@pytest.mark.usefixtures("as_client")
def test_whoami_tells_the_identity_and_the_linked_ones(service: StandIn, tmp_path: Path) -> None:
    other = "0b0b0b0b-0000-4000-8000-000000000002"
    service.answers["GET", "/v2/oauth2/userinfo"] = (
        200,
        {"sub": STAND_IN_CLIENT, "identity_set": [{"sub": STAND_IN_CLIENT}, {"sub": other}]},
    )
    service.answers["GET", "/v2/api/identities"] = (
        200,
        {
            "identities": [
                {"id": STAND_IN_CLIENT, "username": "a", "name": "A", "email": None},
                {"id": other, "username": "b", "name": "B", "email": "b@x"},
            ]
        },
    )
    with Login(of_url(service.url), base=tmp_path) as login:
        assert [person["username"] for person in login.whoami()] == ["a"]
        people = login.whoami(linked=True)
    assert people[1] == {"username": "b", "name": "B", "id": other, "email": "b@x"}
    assert people[0]["email"] == ""


def test_whoami_without_a_login_is_77(tmp_path: Path) -> None:
    with Login(HOSTED, base=tmp_path) as login, pytest.raises(NotAllowed, match="not logged in"):
        login.whoami()


@pytest.mark.usefixtures("as_client")
def test_logout_revokes_and_forgets(service: StandIn, tmp_path: Path) -> None:
    with Login(of_url(service.url), base=tmp_path) as login:
        login.ensure()
        assert login.logout()
        assert not login.logout()
        assert login.needed()
    assert len(service.asked("/v2/oauth2/token/revoke")) == 2


def test_the_service_room_never_loads_the_compute_sdk() -> None:
    code = (
        "import sys, cep.service.client\n"
        "assert not {'globus_compute_sdk', 'parsl', 'pika', 'click'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("content", [b"this is no database, not at all", b""])
def test_a_damaged_token_store_is_told_and_left_alone(content: bytes, tmp_path: Path) -> None:
    store = tmp_path / "storage.db"
    store.write_bytes(content)
    with pytest.raises(DataError, match=r"storage\.db"):
        Login(HOSTED, base=tmp_path)
    assert store.read_bytes() == content


def test_a_wrong_setting_of_the_library_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_VERIFY_SSL", "/nowhere/ca.pem")
    with pytest.raises(ConfigError, match="SSL verification"):
        Login(HOSTED, base=tmp_path)
