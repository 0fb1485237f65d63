"""`list`, `status`, `logs`: local truth, told in published words and in JSON with frozen names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from cep.agent.host import own_start, this_host
from cep.agent.lease_file import Lease
from cep.cli.status import sentences
from cep.cli.table import draw
from cep.engines.blocks import Block, BlockEnd
from cep.engines.breaker import BlockBreaker
from cep.engines.job_words import JobWord
from cep.paths import EndpointPaths
from tests.unit.cli_rig import Rig, rig
from tests.unit.service_stand_in import CLIENT_ID, ENDPOINT_ID, SECRET, serving

__all__ = ["rig"]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def register(root: Path, endpoint_id: str = ENDPOINT_ID) -> None:
    (root / "endpoint.json").write_text(json.dumps({"endpoint_id": endpoint_id}))


def write_lease(root: Path, **changes: Any) -> None:
    """A lease of this very process, or one changed from that."""
    host = this_host()
    lease = Lease(
        host=host.name,
        machine_id=host.machine_id,
        boot_id=host.boot_id,
        pid=os.getpid(),
        start_time=own_start(),
        token="0" * 32,
        renewed=datetime.now(timezone.utc),
        period_s=30.0,
        control_socket="/nowhere/socket",
    )
    (root / "lease.json").write_bytes(replace(lease, **changes).encode())


def documented(heading: str) -> set[str]:
    """The field names that docs/cli.md lists for JSON in the tables below a heading."""
    text = DOCUMENT.read_text().split("\n## JSON\n", 1)[1]
    section = text.split(f"### {heading}\n", 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \|", section, flags=re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([a-z_.]+)`", cell)}


def names(value: Any, prefix: str = "") -> set[str]:
    """Every field name of a JSON object, nested ones with dots; lists by their items."""
    if isinstance(value, list):
        return set().union(*(names(item, prefix) for item in value)) if value else set()
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, item in value.items():
        found |= {prefix + key} | names(item, f"{prefix}{key}.")
    return found


def test_an_empty_list_has_the_published_words(rig: Rig) -> None:
    done = rig.run("list")
    assert (done.code, done.out) == (0, "No endpoints configured!\n")


def test_the_table_is_drawn_as_in_the_published_guide(rig: Rig) -> None:
    rig.endpoint("my_first_endpoint")
    done = rig.run("list")
    assert done.out == (
        "+--------------------------------------+--------------+-------------------+\n"
        "|             Endpoint ID              |    Status    |   Endpoint Name   |\n"
        "+======================================+==============+===================+\n"
        "| None                                 | Initialized  | my_first_endpoint |\n"
        "+--------------------------------------+--------------+-------------------+\n"
    )


def test_the_four_states_are_told(rig: Rig) -> None:
    rig.endpoint("a")
    for name in ("b", "c", "d"):
        register(rig.endpoint(name))
    write_lease(rig.base / "b")
    write_lease(rig.base / "c", pid=2**22 - 1)
    found = json.loads(rig.run("list", "--json").out)["endpoints"]
    assert [(entry["name"], entry["id"], entry["status"]) for entry in found] == [
        ("a", None, "Initialized"),
        ("b", ENDPOINT_ID, "Running"),
        ("c", ENDPOINT_ID, "Disconnected"),
        ("d", ENDPOINT_ID, "Stopped"),
    ]


def test_the_list_shows_endpoints_with_wrong_or_old_configurations_too(rig: Rig) -> None:
    rig.endpoint("broken", text="engine: [")
    old = rig.base / "old"
    old.mkdir()
    (old / "config.py").write_text("raise SystemExit\n")
    (rig.base / "not-an-endpoint").mkdir()
    (rig.base / "a-file").write_text("")
    done = rig.run("list", "--json")
    assert [entry["name"] for entry in json.loads(done.out)["endpoints"]] == ["broken", "old"]


def test_garbage_in_endpoint_json_is_no_id(rig: Rig) -> None:
    root = rig.endpoint()
    (root / "endpoint.json").write_bytes(b"\xff{")
    assert "| None " in rig.run("list").out


def test_a_long_name_widens_the_table(rig: Rig) -> None:
    rig.endpoint("x" * 80)
    lines = rig.run("list").out.splitlines()
    assert len({len(line) for line in lines}) == 1


def test_an_empty_table_is_closed() -> None:
    assert draw(("A",), []).splitlines() == ["+---+", "| A |", "+===+", "+---+"]


# -- status ------------------------------------------------------------------------------------


def test_status_of_what_never_ran_says_so(rig: Rig) -> None:
    rig.endpoint()
    done = rig.run("status", "ep")
    assert done.code == 0
    assert "Initialized (never started)" in done.out


def test_status_asks_nobody_unless_told_to(rig: Rig) -> None:
    register(rig.endpoint())
    assert json.loads(rig.run("status", "ep", "--json").out)["service"] is None


def test_status_remote_tells_the_service_s_word(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_ID", CLIENT_ID)
    monkeypatch.setenv("GLOBUS_COMPUTE_CLIENT_SECRET", SECRET)
    with serving() as service:
        text = f"service_url: {service.url}\nengine: {{type: ThreadPoolEngine}}\n"
        register(rig.endpoint(text=text))
        path = f"/v2/endpoints/{ENDPOINT_ID}/status"
        service.answers["GET", path] = (200, {"status": "offline"})
        assert json.loads(rig.run("status", "ep", "--json", "--remote").out)["service"] == "offline"
        assert "Service:   offline" in rig.run("status", "ep", "--remote").out


PICTURE = {
    "version": "0.1.0",
    "endpoint_id": ENDPOINT_ID,
    "name": "ep",
    "host": "h",
    "pid": 1,
    "since": "2026-11-22T00:00:00+00:00",
    "written": "2026-11-22T00:00:00+00:00",
    "state": "running",
    "holds": [],
    "audit_log": None,
    "disk": None,
    "reload": {
        "at": "2026-11-22T00:00:00+00:00",
        "error": None,
        "hint": None,
        "kind": None,
        "changed": ["intake"],
        "restart_needed": ["engine.label"],
    },
    "summary": "running",
    "links": {"tasks": True, "results": True},
    "link_troubles": {},
    "tasks": dict.fromkeys(
        (
            "waiting",
            "running",
            "unsent",
            "answered",
            "received",
            "done",
            "lost",
            "retried",
            "refused",
            "malformed",
            "repeated",
        ),
        0,
    ),
    "engine": {
        "type": "GlobusComputeEngine",
        "workers": 0,
        "idle_workers": 0,
        "slots": 0,
        "encrypted": None,
        "summary": "blocks 0/1, first starts with the first task",
        "blocks": [dict(Block("0", "77", 0.0).describe())],
        "ended_blocks": [
            dict(BlockEnd("1", "78", JobWord("TIMEOUT"), False, 0.0, True).describe())
        ],
        "scheduler": "",
        "breaker": BlockBreaker().describe(0.0),
    },
}


def running(rig: Rig, monkeypatch: pytest.MonkeyPatch, picture: dict[str, Any]) -> None:
    root = rig.endpoint()
    register(root)
    write_lease(root)
    monkeypatch.setattr("cep.agent.control.call", lambda _paths, _request: picture)


def test_status_says_why_nothing_runs_yet(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    running(rig, monkeypatch, PICTURE)
    done = rig.run("status", "ep")
    assert "Running on " in done.out
    assert "blocks 0/1, first starts with the first task" in done.out
    assert "0 running, 0 waiting" in done.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"holds": ["paused"]}, "paused; take tasks again with: resume"),
        ({"holds": ["disk"]}, "no new tasks: the journal's disk is full or broken"),
        ({"holds": ["disk"], "disk": "No quota is left."}, "No quota is left."),
        ({"holds": ["audit log not writable"]}, "the audit log cannot be written"),
        ({"links": {"tasks": False, "results": True}}, "down: tasks"),
        ({"engine": {"type": "x", "encrypted": False}}, "NOT ENCRYPTED"),
    ],
)
def test_status_says_what_is_in_the_way(
    change: dict[str, Any], said: str, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(rig, monkeypatch, {**PICTURE, **change})
    assert said in rig.run("status", "ep").out


def test_the_words_for_holds_are_those_the_agent_uses() -> None:
    from cep.agent import intake
    from cep.cli import status

    used = {value for name, value in vars(intake).items() if name.startswith("HOLD_")}
    assert used == set(status._HOLDS)


def test_an_agent_that_does_not_answer_is_told_from_its_last_word(rig: Rig) -> None:
    root = rig.endpoint()
    register(root)
    write_lease(root)
    EndpointPaths.of(root).status_json.write_text(json.dumps(PICTURE))
    done = rig.run("status", "ep")
    assert done.code == 0
    assert "last word" in done.err
    assert "blocks 0/1" in done.out


def test_every_line_of_a_status_is_a_fact() -> None:
    told = sentences(
        {
            "name": "ep",
            "id": None,
            "status": "Stopped",
            "host": None,
            "pid": None,
            "directory": "/x",
            "paused": True,
            "agent": None,
            "service": None,
        }
    )
    assert any("paused" in line for line in told)


# -- frozen names ------------------------------------------------------------------------------


def test_the_json_names_of_list_are_those_of_the_document(rig: Rig) -> None:
    rig.endpoint()
    assert names(json.loads(rig.run("list", "--json").out)) == documented("list")


def test_the_json_names_of_status_are_those_of_the_document(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(rig, monkeypatch, PICTURE)
    assert names(json.loads(rig.run("status", "ep", "--json").out)) == documented("status")


def test_the_json_names_of_validate_are_those_of_the_document(rig: Rig) -> None:
    rig.endpoint()
    for text in ("engine: {type: ThreadPoolEngine}", "nonsense: 1"):
        (rig.base / "ep" / "config.yaml").write_text(text)
        assert names(json.loads(rig.run("validate", "ep", "--json").out)) == documented("validate")


def test_the_json_names_of_version_are_those_of_the_document(rig: Rig) -> None:
    assert names(json.loads(rig.run("version", "--json").out)) == documented("version")


def test_the_json_names_of_profiles_are_those_of_the_document(rig: Rig) -> None:
    told = json.loads(rig.run("profiles", "list", "--json").out)
    assert set(told) == {"profiles", "presets"}
    rows = [{"profiles": {**one, "files": None}} for one in told["profiles"]]
    assert names(rows) | {"presets"} == documented("profiles list")
    profile = json.loads(rig.run("profiles", "show", "slurm", "--json").out)
    # The keys below these are names of files and variables.
    free = ("files.", "variables.default.", "variables.example.", "variables.required_when.")
    shown = {one for one in names(profile) if not one.startswith((*free, "variables.rules."))}
    preset = json.loads(rig.run("profiles", "show", "polaris", "--json").out)
    assert shown | set(preset) == documented("profiles show")
    assert set(told["presets"][0]) == set(preset)


def test_the_json_names_of_render_are_those_of_the_document(rig: Rig) -> None:
    rig.run("configure", "ep", "--profile", "slurm", "--set", "partition=p")
    told = [{"accepted": True, "answer": ""}]  # a scheduler is asked in tests of its own
    for option in ([], ["--submit-script"]):
        told.append(json.loads(rig.run("render", "ep", *option, "--json").out))
    assert {name for one in told for name in one} == documented("render")


def test_the_agent_s_picture_has_the_documented_names() -> None:
    code = Path(__file__).resolve().parents[2] / "cep"
    files = ("agent/picture.py", "engines/blocks.py", "engines/breaker.py")
    source = "".join((code / file).read_text() for file in files)
    for name in documented("status"):
        if name.startswith("agent.") and not name.startswith("agent.links."):
            assert f'"{name.rpartition(".")[2]}"' in source, name


def test_the_json_names_of_blocks_are_those_of_the_document(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    running(rig, monkeypatch, PICTURE)
    assert set(json.loads(rig.run("blocks", "ep", "--json").out)) == documented("blocks")


def test_blocks_are_listed_with_the_schedulers_words(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = BlockBreaker()
    for _ in range(3):
        breaker.failed(0.0, "no module named science", progress=False)
    waiting = Block("2", "79", 0.0, word=JobWord("PENDING", "Resources"))
    word = JobWord("FAILED", "NonZeroExitCode", exit_code=3)
    end = BlockEnd("1", "78", word, True, 0.0, False, "no module\x1b[31m named science")
    engine = {
        **PICTURE["engine"],
        "blocks": [waiting.describe()],
        "ended_blocks": [end.describe()],
        "scheduler": "squeue did not answer within 10 s.",
        "breaker": breaker.describe(0.0),
    }
    running(rig, monkeypatch, {**PICTURE, "engine": engine})
    for command in ("blocks", "status"):
        told = rig.run(command, "ep").out
        assert (
            "Block 2:   job 79, pending, the scheduler says PENDING (Resources), 0 workers" in told
        )
        assert "block 1, job 78, FAILED, exit status 3 (NonZeroExitCode), no worker came" in told
        assert "PAUSED, 3 failed in a row; next try in 600 s, or ask again with: cep blocks" in told
        assert "Scheduler: does not answer: squeue did not answer within 10 s." in told
        assert "\x1b" not in told


def test_an_old_or_odd_picture_of_blocks_is_no_trouble(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = {"blocks": ["x", {}], "ended_blocks": {"a": 1}, "breaker": "none"}
    running(rig, monkeypatch, {**PICTURE, "engine": odd})
    assert rig.run("blocks", "ep").code == 0
    assert rig.run("status", "ep").code == 0


def test_blocks_of_an_endpoint_that_does_not_run(rig: Rig) -> None:
    root = rig.endpoint()
    (root / "blocks.json").write_text("{}")
    assert "There are no blocks." in rig.run("blocks", "ep").out
    assert rig.run("blocks", "ep", "pause").code == 69
    assert rig.run("blocks", "ep", "resume").code == 0
    assert not (root / "blocks.json").exists()
    assert rig.run("blocks", "ep", "shoot").code == 64


# -- logs --------------------------------------------------------------------------------------


def test_logs_shows_the_last_lines(rig: Rig) -> None:
    (rig.endpoint() / "endpoint.log").write_text("".join(f"line {n}\n" for n in range(10)))
    done = subprocess.run(
        [sys.executable, "-m", "cep", "-c", str(rig.base), "logs", "ep", "-n", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "line 8\nline 9\n"


def test_logs_of_what_never_ran_says_so(rig: Rig) -> None:
    rig.endpoint()
    assert rig.run("logs", "ep").code == 66


def test_logs_follow_shows_what_is_written_and_goes_through_a_rotation(rig: Rig) -> None:
    log = rig.endpoint() / "endpoint.log"
    log.write_text("first\n")
    with subprocess.Popen(
        [sys.executable, "-m", "cep", "-c", str(rig.base), "logs", "ep", "-f"],
        stdout=subprocess.PIPE,
        text=True,
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        with log.open("a") as file:
            file.write("second\n")
        assert follower.stdout.readline() == "second\n"
        log.rename(log.with_name("endpoint.log.1"))
        log.write_text("third\n")
        assert follower.stdout.readline() == "third\n"
        follower.send_signal(2)  # as Ctrl-C
        assert follower.wait(60) in (0, 130)
