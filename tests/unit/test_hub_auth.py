"""Clients, tokens, broker logins and the admin routes: who may do what, and who may not."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError

from cep.errors import DataError, NotAllowed
from cep.hub.auth import (
    COMPUTE_SCOPE,
    TOKEN_LIFETIME_S,
    Credentials,
    plain_scopes,
    resource_server,
)
from cep.hub.schema import meta
from cep.hub.services import Addresses
from cep.hub.store import Store
from cep.hub.users import BrokerUsers
from tests.unit.hub_rig import Hub, run, submit_body
from tests.unit.test_hub_rest import check_refusal

PROJECTS = "urn:globus:auth:scope:auth.globus.org:manage_projects"
GROUPS = "urn:globus:auth:scope:groups.api.globus.org:view_my_groups"


def test_one_token_per_resource_server_with_all_scopes_asked_for(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        made = await hub.login("alice")
        scope = f"{COMPUTE_SCOPE} openid {COMPUTE_SCOPE} {PROJECTS} {GROUPS}"
        body = (await hub.token(made, scope)).json
        tokens = [body, *body["other_tokens"]]
        assert [one["resource_server"] for one in tokens] == [
            "funcx_service",
            "auth.globus.org",
            "groups.api.globus.org",
        ]
        assert " ".join(one["scope"] for one in tokens).split() == [
            COMPUTE_SCOPE,
            "openid",
            PROJECTS,
            GROUPS,
        ]
        assert {one["token_type"] for one in tokens} == {"Bearer"}
        assert all(one["expires_in"] == TOKEN_LIFETIME_S for one in tokens)
        assert len({one["access_token"] for one in tokens}) == 3

    run(work, tmp_path)


def test_wrong_credentials_get_no_token(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        made = await hub.login("alice")
        for wrong in (
            Credentials(made.client_id, "guess", ""),
            Credentials("nobody", made.client_secret, ""),
            Credentials("", "", ""),
        ):
            check_refusal(await hub.token(wrong, COMPUTE_SCOPE), 401, "INVALID_CLIENT")
        other = await hub.token(made, COMPUTE_SCOPE, grant_type="authorization_code")
        check_refusal(other, 400, "UNSUPPORTED_GRANT_TYPE")
        broken = {"authorization": "Basic !!!"}
        check_refusal(await hub.request("POST", "/v2/oauth2/token", headers=broken), 401)
        in_form = f"grant_type=client_credentials&client_id={made.client_id}".encode()
        in_form += f"&client_secret={made.client_secret}".encode()
        assert (await hub.request("POST", "/v2/oauth2/token", body=in_form)).status == 200
        check_refusal(await hub.request("POST", "/v2/oauth2/token", body=b"\xff=\xff"), 400)

    run(work, tmp_path)


def test_a_token_ends_by_time_by_revocation_and_with_its_scope(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        made = await hub.login("alice")
        assert (await hub.call("GET", "/v2/endpoints")).status == 200
        login = base64.b64encode(f"{made.client_id}:{made.client_secret}".encode()).decode()
        await hub.request(
            "POST",
            "/v2/oauth2/token/revoke",
            body=f"token={hub.tokens['alice']}".encode(),
            headers={"authorization": f"Basic {login}"},
        )
        check_refusal(await hub.call("GET", "/v2/endpoints"), 401)
        await hub.login("alice")
        hub.now[0] += TOKEN_LIFETIME_S - 1
        assert (await hub.call("GET", "/v2/endpoints")).status == 200
        hub.now[0] += 1
        check_refusal(await hub.call("GET", "/v2/endpoints"), 401)
        hub.tokens["alice"] = (await hub.token(made, "openid")).json["access_token"]
        check_refusal(await hub.call("GET", "/v2/endpoints"), 403, "WRONG_SCOPE")
        assert (await hub.call("GET", "/v2/oauth2/userinfo")).status == 200

    run(work, tmp_path)


def test_tokens_outlive_a_restart_of_the_hub(tmp_path: Path) -> None:
    kept: dict[str, str] = {}

    async def before(hub: Hub) -> None:
        await hub.login("alice")
        kept.update(hub.tokens)

    async def after(hub: Hub) -> None:
        hub.tokens.update(kept)
        assert (await hub.call("GET", "/v2/endpoints")).status == 200

    run(before, tmp_path)
    run(after, tmp_path)


def test_userinfo_and_identities_name_the_client(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        made = await hub.login("alice")
        info = (await hub.call("GET", "/v2/oauth2/userinfo")).json
        assert info["sub"] == made.client_id
        assert info["identity_set"][0]["sub"] == made.client_id
        assert info["name"] == "alice"
        found = (await hub.call("GET", f"/v2/api/identities?ids={made.client_id},x")).json
        assert [one["id"] for one in found["identities"]] == [made.client_id]

    run(work, tmp_path)


def test_no_secret_token_or_password_is_in_the_store_or_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets: list[str] = []
    caplog.set_level("DEBUG")

    async def work(hub: Hub) -> None:
        made = await hub.login("alice")
        answer = await hub.call("POST", "/v3/endpoints", {"endpoint_name": "site"})
        url = urlsplit(answer.json["task_queue_info"]["connection_url"])
        secrets.extend([made.client_secret, hub.tokens["alice"], url.password or "?"])
        function_id = await hub.function()
        path = f"/v3/endpoints/{answer.json['endpoint_id']}/submit"
        await hub.call("POST", path, submit_body(function_id))

    run(work, tmp_path)
    stored = b"".join(one.read_bytes() for one in tmp_path.glob("hub.db*"))
    assert len(stored) > 1000
    for one in secrets:
        assert one.encode() not in stored
        assert one not in caplog.text


def test_scopes_are_read_with_dependencies_and_marks() -> None:
    assert plain_scopes("a[b *c[d]] *e  a") == ["a", "e"]
    assert plain_scopes("") == []
    assert resource_server(COMPUTE_SCOPE) == "funcx_service"
    assert resource_server("openid") == "auth.globus.org"
    assert resource_server("https://auth.globus.org/scopes/abc/all") == "abc"


def _login_of(answer: dict[str, object]) -> tuple[str, str]:
    info = answer["task_queue_info"]
    assert isinstance(info, dict)
    url = urlsplit(info["connection_url"])
    return url.username or "", url.password or ""


def test_an_endpoint_may_touch_its_own_queue_and_keys_only(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        users = BrokerUsers(hub.services.access, hub.services.directory, "hub-password")
        first = (await hub.call("POST", "/v3/endpoints", {"endpoint_name": "a"})).json
        other = (await hub.call("POST", "/v3/endpoints", {"endpoint_name": "b"})).json
        mine, theirs = first["endpoint_id"], other["endpoint_id"]
        identity = users.authenticate(*_login_of(first))
        assert identity is not None
        assert identity.may_read(f"{mine}.tasks")
        assert identity.may_publish("results", f"{mine}.results")
        assert identity.may_publish("heartbeats", f"{mine}.heartbeats")
        assert not identity.may_read(f"{theirs}.tasks")
        assert not identity.may_read("results")
        assert not identity.may_publish("results", f"{theirs}.results")
        assert not identity.may_publish("tasks", f"{mine}.tasks")
        assert not identity.may_publish("", f"{mine}.results")
        assert not identity.may_configure(f"{mine}.tasks")
        user, _ = _login_of(first)
        assert users.authenticate(user, _login_of(other)[1]) is None
        again = (await hub.call("PUT", f"/v3/endpoints/{mine}", {"endpoint_name": "a"})).json
        assert users.authenticate(*_login_of(first)) is None
        assert users.authenticate(*_login_of(again)) is not None
        await hub.call("POST", f"/v3/endpoints/{mine}/lock")
        assert users.authenticate(*_login_of(again)) is None

    run(work, tmp_path)


def test_an_sdk_client_may_read_its_own_task_groups_only(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        users = BrokerUsers(hub.services.access, hub.services.directory, "hub-password")
        answer = (await hub.call("GET", "/v2/get_amqp_result_connection_url")).json
        url = urlsplit(answer["connection_url"])
        identity = users.authenticate(url.username or "", url.password or "")
        assert identity is not None
        assert identity.may_read(answer["queue_prefix"] + "anything")
        other = (await hub.call("GET", "/v2/get_amqp_result_connection_url", as_="bob")).json
        assert not identity.may_read(other["queue_prefix"] + "anything")
        assert not identity.may_read("results")
        assert not identity.may_publish("results", "x.results")
        assert not identity.may_configure(answer["queue_prefix"] + "anything")
        assert users.authenticate(url.username or "", "guess") is None
        assert users.authenticate("client.nobody", url.password or "") is None
        client = await hub.services.access.find("alice")
        await hub.services.access.rotate(client)
        assert users.authenticate(url.username or "", url.password or "") is None

    run(work, tmp_path)


def test_the_hubs_own_login_is_checked_too(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        users = BrokerUsers(hub.services.access, hub.services.directory, "hub-password")
        assert users.authenticate("hub", "hub-password") is not None
        assert users.authenticate("hub", "") is None
        assert users.authenticate("guest", "guest") is None

    run(work, tmp_path)


def test_admin_routes_answer_on_loopback_with_the_secret_only(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        assert (await hub.admin("GET", "/status")).status == 200
        check_refusal(await hub.admin("GET", "/status", peer="192.0.2.7"), 404)
        check_refusal(await hub.request("GET", "/cep/admin/status"), 404)
        wrong = {"X-Cep-Hub-Secret": "guess"}
        check_refusal(await hub.request("POST", "/cep/admin/env", headers=wrong), 404)

    run(work, tmp_path)


def test_a_disabled_client_and_its_endpoints_are_cut_off_at_once(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        made = await hub.login("alice")
        users = BrokerUsers(hub.services.access, hub.services.directory, "hub-password")
        registered = (await hub.call("POST", "/v3/endpoints", {"endpoint_name": "a"})).json
        hub.dropped.clear()
        answer = await hub.admin("POST", "/clients/alice/disable")
        assert answer.json["disabled"] is True
        assert set(hub.dropped) == {
            f"client.{made.client_id}",
            f"endpoint.{registered['endpoint_id']}",
        }
        check_refusal(await hub.call("GET", "/v2/endpoints"), 401)
        check_refusal(await hub.token(made, COMPUTE_SCOPE), 401)
        assert users.authenticate(*_login_of(registered)) is None
        await hub.admin("POST", "/clients/alice/enable")
        await hub.login("alice")
        assert users.authenticate(*_login_of(registered)) is not None

    run(work, tmp_path)


def test_clients_are_added_listed_rotated_and_removed(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        added = (await hub.admin("POST", "/clients", {"name": "lab"})).json
        listed = (await hub.admin("GET", "/clients")).json["clients"]
        assert [(one["name"], one["disabled"]) for one in listed] == [("lab", False)]
        assert "client_secret" not in listed[0]
        check_refusal(await hub.admin("POST", "/clients", {"name": "lab"}), 409)
        check_refusal(await hub.admin("POST", "/clients", {}), 422)
        rotated = (await hub.admin("POST", f"/clients/{added['client_id']}/rotate")).json
        assert rotated["client_id"] == added["client_id"]
        old = Credentials(added["client_id"], added["client_secret"], "lab")
        check_refusal(await hub.token(old, COMPUTE_SCOPE), 401)
        hub.secrets["lab"] = Credentials(added["client_id"], rotated["client_secret"], "lab")
        endpoint_id = await hub.endpoint(as_="lab")
        assert (await hub.admin("DELETE", "/clients/lab")).status == 200
        check_refusal(await hub.admin("POST", "/clients/lab/rotate"), 404)
        assert await hub.services.directory.known(endpoint_id) is None
        assert f"{endpoint_id}.tasks" not in hub.messaging.queues

    run(work, tmp_path)


def test_hub_env_gives_the_same_client_until_it_does_not_work(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        first = (await hub.admin("POST", "/env")).json
        assert (await hub.admin("POST", "/env")).json == first
        file = tmp_path / "env-client.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        made = Credentials(first["client_id"], first["client_secret"], "")
        assert (await hub.token(made, COMPUTE_SCOPE)).status == 200
        file.write_text("{}")
        second = (await hub.admin("POST", "/env")).json
        assert second["client_id"] == first["client_id"]
        assert second["client_secret"] != first["client_secret"]
        await hub.admin("POST", f"/clients/{first['client_id']}/disable")
        third = (await hub.admin("POST", "/env")).json
        assert third["client_id"] != first["client_id"]
        kept = json.loads(file.read_text())
        assert kept["client_id"] == third["client_id"]

    run(work, tmp_path)


def test_a_foreign_damaged_or_newer_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    foreign.write_bytes(b"not a database, certainly not one of ours" * 100)
    before = foreign.read_bytes()
    with pytest.raises(DataError, match="damaged"):
        Store(foreign).open()
    assert foreign.read_bytes() == before
    newer = tmp_path / "newer.db"
    store = Store(newer)
    store.open()
    store.call_now(lambda c: c.exec_driver_sql("UPDATE meta SET value='99' WHERE name='schema'"))
    store.close()
    with pytest.raises(DataError, match="schema 99"):
        Store(newer).open()


def test_an_error_of_the_store_does_not_repeat_what_was_to_be_stored(tmp_path: Path) -> None:
    store = Store(tmp_path / "hub.db")
    store.open()
    row = {"name": "schema", "value": "a user's payload"}
    with pytest.raises(IntegrityError) as caught:
        store.call_now(lambda connection: connection.execute(insert(meta).values(**row)))
    store.close()
    assert "payload" not in str(caught.value)


def test_amqp_addresses_are_what_the_client_can_reach() -> None:
    local = Addresses("http://localhost:5000", "127.0.0.1", 5672)
    assert local.amqp_url("u", "p:/@", "x") == "amqp://u:p%3A%2F%40@127.0.0.1:5672/"
    everywhere = Addresses("http://h:5000", None, 5672)
    assert everywhere.amqp_url("u", "p", "login1") == "amqp://u:p@login1:5672/"
    assert everywhere.amqp_url("u", "p", "fe80::1") == "amqp://u:p@[fe80::1]:5672/"
    public = Addresses("http://h", None, 1, "amqps://mq.example:5671/%2F")
    assert public.amqp_url("u", "p", "x") == "amqps://u:p@mq.example:5671/%2F"


def test_a_wrong_secret_says_nothing_about_what_was_wrong(tmp_path: Path) -> None:
    async def work(hub: Hub) -> None:
        made = await hub.login("alice")
        texts = set()
        for client_id, secret in ((made.client_id, "guess"), ("nobody", made.client_secret)):
            with pytest.raises(NotAllowed) as caught:
                await hub.services.access.check_secret(client_id, secret)
            texts.add(caught.value.message)
        assert len(texts) == 1

    run(work, tmp_path)
