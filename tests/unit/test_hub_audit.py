"""The hub's audit: who did what, who was refused, and no deed without a line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from cep.errors import AuditUnwritable
from cep.hub.audit import TASKS_PER_LINE, HubAudit
from cep.hub.auth import COMPUTE_SCOPE, Credentials
from cep.safety.audit import FileTrail, Line, Trail
from tests.unit.hub_rig import Hub, run, submit_body


def audited(hub: Hub, trail: Trail) -> None:
    """Give the application an audit."""
    hub.app.state.services = dataclasses.replace(hub.services, audit=HubAudit(trail))


class Log:
    """An audit in a file, read back."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "audit.log"
        self.trail = FileTrail(self.file)

    def take(self) -> list[dict[str, Any]]:
        """The lines since the last look."""
        lines = [json.loads(line) for line in self.file.read_text().splitlines()]
        self.file.write_text("")
        return lines


def test_logins_registrations_submits_and_deletions_have_lines(tmp_path: Path) -> None:
    log = Log(tmp_path)

    async def work(hub: Hub) -> None:
        audited(hub, log.trail)
        alice = (await hub.login("alice")).client_id
        endpoint = await hub.endpoint("name\x1b\nforged")
        function = await hub.function()
        answer = await hub.call("POST", f"/v3/endpoints/{endpoint}/submit", submit_body(function))
        await hub.call("POST", f"/v2/endpoints/{endpoint}/lock")
        await hub.call("DELETE", f"/v2/endpoints/{endpoint}")
        lines = log.take()
        assert [line["event"] for line in lines] == [
            "login",
            "register",
            "submit",
            "endpoint-lock",
            "endpoint-delete",
        ]
        assert {line["client"] for line in lines} == {alice}
        assert {line["peer"] for line in lines} == {"127.0.0.1"}
        assert {line["endpoint"] for line in lines[1:]} == {endpoint}
        assert all(line["time"].endswith("+00:00") for line in lines)
        assert lines[1]["name"] == "name\\x1b\\x0aforged"
        assert lines[2]["tasks"] == answer.json["tasks"]
        assert lines[2]["group"] == answer.json["task_group_id"]

    run(work, tmp_path)


def test_refusals_have_lines_and_no_secret_is_in_them(tmp_path: Path) -> None:
    log = Log(tmp_path)

    async def work(hub: Hub) -> None:
        audited(hub, log.trail)
        endpoint = await hub.endpoint()
        alice, bob = hub.secrets["alice"], await hub.login("bob")
        log.take()
        wrong = Credentials(alice.client_id, "not-the-secret", "")
        assert (await hub.token(wrong, COMPUTE_SCOPE)).status == 401
        headers = {"authorization": "Bearer not-a-token"}
        assert (await hub.request("GET", "/v2/endpoints", headers=headers)).status == 401
        answer = await hub.call("DELETE", f"/v2/endpoints/{endpoint}", as_="bob")
        assert answer.status == 403
        assert (await hub.call("GET", "/v2/tasks/nothing")).status == 404
        lines = log.take()
        assert [(line["event"], line["status"], line["code"]) for line in lines] == [
            ("refusal", 401, "INVALID_CLIENT"),
            ("refusal", 401, "NOT_AUTHENTICATED"),
            ("refusal", 403, "ENDPOINT_FORBIDDEN"),
        ]
        assert [line.get("client") for line in lines] == [alice.client_id, None, bob.client_id]
        assert lines[2]["path"] == f"/v2/endpoints/{endpoint}"
        assert "not-" not in str(lines)

    run(work, tmp_path)


def test_what_becomes_of_clients_has_lines(tmp_path: Path) -> None:
    log = Log(tmp_path)

    async def work(hub: Hub) -> None:
        audited(hub, log.trail)
        made = (await hub.admin("POST", "/clients", {"name": "carol"})).json
        for verb in ("rotate", "disable", "enable"):
            answer = await hub.admin("POST", f"/clients/carol/{verb}")
            assert answer.status == 200
        await hub.admin("DELETE", "/clients/carol")
        lines = log.take()
        assert [line["event"] for line in lines] == [
            "client-add",
            "client-rotate",
            "client-disable",
            "client-enable",
            "client-remove",
        ]
        assert {line["client"] for line in lines} == {made["client_id"]}
        assert {line["name"] for line in lines} == {"carol"}
        assert made["client_secret"] not in str(lines)

    run(work, tmp_path)


class Full:
    """A trail without room, until it is given some."""

    where = "nowhere"

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.has_room = False

    def append(self, lines: list[Line]) -> None:
        if not self.has_room:
            raise AuditUnwritable("The audit log cannot be written: No space left on device.")
        self.lines += lines

    def close(self) -> None:
        """Nothing is open."""


def test_when_the_log_takes_nothing_more_no_further_deed_is_done_until_it_does(
    tmp_path: Path,
) -> None:
    trail = Full()

    async def work(hub: Hub) -> None:
        await hub.login("alice")
        audited(hub, trail)  # type: ignore[arg-type]
        first = await hub.call("POST", "/v3/endpoints", {"endpoint_name": "one"})
        assert first.status == 200  # it was done before anybody could know
        for _ in range(2):
            refused = await hub.call("POST", "/v3/endpoints", {"endpoint_name": "two"})
            assert refused.status == 503
        assert (await hub.services.directory.counts())[0] == 1
        trail.has_room = True
        assert (await hub.call("POST", "/v3/endpoints", {"endpoint_name": "two"})).status == 200
        assert [line["name"] for line in trail.lines] == ["one", "two"]

    run(work, tmp_path)


def test_a_long_submit_takes_several_lines(tmp_path: Path) -> None:
    log = Log(tmp_path)

    async def work(hub: Hub) -> None:
        audited(hub, log.trail)
        endpoint, function = await hub.endpoint(), await hub.function()
        log.take()
        body = submit_body(function, TASKS_PER_LINE + 1)
        answer = await hub.call("POST", f"/v3/endpoints/{endpoint}/submit", body)
        lines = log.take()
        assert len(lines) == 2
        told = [one for line in lines for one in line["tasks"][function]]
        assert told == answer.json["tasks"][function]

    run(work, tmp_path)
