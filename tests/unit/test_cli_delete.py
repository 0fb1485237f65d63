"""`delete` and the login commands, against a stand-in for the service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli_rig import Rig, rig
from tests.unit.service_stand_in import CLIENT_ID, ENDPOINT_ID, SECRET, StandIn, serving
from tests.unit.test_cli_listing import documented, names, register, write_lease

__all__ = ["rig"]

DELETE = ("DELETE", f"/v2/endpoints/{ENDPOINT_ID}")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch, rig: Rig) -> Iterator[StandIn]:
    del rig
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", SECRET)
    monkeypatch.setattr("cep.service.auth.MAX_RETRIES", 0)
    with serving() as stand_in:
        yield stand_in


@pytest.fixture
def root(rig: Rig, service: StandIn) -> Path:
    found = rig.endpoint(text=f"service_url: {service.url}\nengine: {{type: ThreadPoolEngine}}\n")
    register(found)
    return found


def test_delete_asks_the_service_first_and_then_removes_the_directory(
    rig: Rig, service: StandIn, root: Path
) -> None:
    service.answers[DELETE] = (200, {})
    done = rig.run("delete", "ep", "--yes")
    assert (done.code, done.out) == (0, "> Endpoint <ep> is now deleted\n"), done.err
    assert len(service.asked(DELETE[1])) == 1
    assert not root.exists()


def test_delete_takes_the_id_in_place_of_the_name(rig: Rig, service: StandIn, root: Path) -> None:
    service.answers[DELETE] = (200, {})
    assert rig.run("delete", ENDPOINT_ID, "--yes").code == 0
    assert not root.exists()


def test_delete_of_an_id_without_a_directory_here_deletes_the_registration(
    rig: Rig, service: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOBUS_SDK_SERVICE_URL_COMPUTE", service.url)
    service.answers[DELETE] = (200, {})
    assert rig.run("delete", ENDPOINT_ID, "--yes").code == 0
    assert len(service.asked(DELETE[1])) == 1


def test_delete_without_a_terminal_and_without_yes_deletes_nothing(
    rig: Rig, service: StandIn, root: Path
) -> None:
    done = rig.run("delete", "ep")
    assert done.code == 64
    assert "--yes" in done.err
    assert root.exists()
    assert service.requests == []


@pytest.mark.parametrize(("status", "code"), [(404, 69), (409, 69), (403, 77), (503, 75)])
def test_a_service_that_refuses_keeps_the_directory_unless_forced(
    status: int, code: int, rig: Rig, service: StandIn, root: Path
) -> None:
    service.answers[DELETE] = (status, {"message": "no"})
    assert rig.run("delete", "ep", "--yes").code == code
    assert root.exists()
    done = rig.run("delete", "ep", "--yes", "--force")
    assert done.code == 0
    assert "stays at the service" in done.err
    assert not root.exists()


def test_local_only_leaves_the_registration(rig: Rig, service: StandIn, root: Path) -> None:
    assert rig.run("delete", "ep", "--yes", "--local-only").code == 0
    assert not root.exists()
    assert service.requests == []


def test_what_was_never_registered_needs_no_service(rig: Rig, service: StandIn) -> None:
    root = rig.endpoint()
    assert rig.run("delete", "ep", "--yes").code == 0
    assert not root.exists()
    assert service.requests == []


def test_a_running_endpoint_is_not_deleted(rig: Rig, service: StandIn, root: Path) -> None:
    write_lease(root)
    done = rig.run("delete", "ep", "--yes")
    assert done.code == 73
    assert "stop ep" in done.err
    assert root.exists()
    assert service.requests == []


def test_an_endpoint_that_runs_elsewhere_is_not_deleted_even_by_force(
    rig: Rig, service: StandIn, root: Path
) -> None:
    write_lease(root, host="other", machine_id="other")
    done = rig.run("delete", "ep", "--yes", "--force")
    assert done.code == 73
    assert "ssh other" in done.err
    assert root.exists()
    assert service.requests == []


def test_a_state_directory_elsewhere_is_emptied_of_what_is_ours(rig: Rig, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for name in ("journal.db", "journal.db-wal", "status.json", "somebody-else"):
        (state / name).write_text("")
    (state / "journal-bodies").mkdir()
    rig.endpoint(text=f"state_dir: {state}\nengine: {{type: ThreadPoolEngine}}\n")
    assert rig.run("delete", "ep", "--yes").code == 0
    assert [path.name for path in state.iterdir()] == ["somebody-else"]


# -- login, logout, whoami ---------------------------------------------------------------------


@pytest.fixture
def me(service: StandIn) -> dict[str, Any]:
    service.answers["GET", "/v2/oauth2/userinfo"] = (
        200,
        {"sub": CLIENT_ID, "identity_set": [{"sub": CLIENT_ID}]},
    )
    person = {"id": CLIENT_ID, "username": "u@x", "name": "U", "email": "u@x"}
    service.answers["GET", "/v2/api/identities"] = (200, {"identities": [person]})
    return person


@pytest.mark.usefixtures("me")
def test_whoami_draws_the_published_columns(rig: Rig, service: StandIn) -> None:
    done = rig.run("whoami", "--service", service.url)
    assert done.code == 0
    heading = [cell.strip() for cell in done.out.splitlines()[1].strip("|").split("|")]
    assert heading == ["Username", "Name", "ID", "Email"]
    assert CLIENT_ID in done.out


@pytest.mark.usefixtures("me")
def test_the_json_names_of_whoami_are_those_of_the_document(rig: Rig, service: StandIn) -> None:
    done = rig.run("whoami", "--linked-identities", "--json", "--service", service.url)
    assert names(json.loads(done.out)) == documented("whoami")


def test_whoami_without_a_login_is_77(rig: Rig) -> None:
    done = rig.run("whoami")
    assert done.code == 77
    assert "run: cep login" in done.err


def test_login_without_a_terminal_is_77_and_asks_nothing(rig: Rig) -> None:
    assert rig.run("login").code == 77


def test_login_and_logout_of_a_client(rig: Rig, service: StandIn) -> None:
    assert "You are logged in." in rig.run("login", "--service", service.url).err
    assert "already" in rig.run("login", "--service", service.url).err
    assert "You are logged in." in rig.run("login", "--force", "--service", service.url).err
    assert "logged out" in rig.run("logout", "--service", service.url).err
    assert "not logged in" in rig.run("logout", "--service", service.url).err


def test_logout_while_an_endpoint_runs_needs_force(rig: Rig, service: StandIn, root: Path) -> None:
    write_lease(root)
    done = rig.run("logout", "--service", service.url)
    assert done.code == 69
    assert "ep" in done.err
    assert rig.run("logout", "--force", "--service", service.url).code == 0
