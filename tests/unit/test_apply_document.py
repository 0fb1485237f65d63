"""The document of `cep apply`: what it means, and that all that is wrong is told together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cep.apply.document import Wanted, WrongDocument, read
from cep.apply.places import decode, encode
from cep.safety import text

SECRET = "hunter2-hunter2"


@pytest.fixture(autouse=True)
def no_known_secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a document hides is forgotten again."""
    monkeypatch.setattr(text, "_known", [])
    yield


def right(text: str) -> list[Wanted]:
    document = read(text, "doc")
    assert document.problems == ()
    return list(document.wanted)


def one(**keys: Any) -> Wanted:
    return right(json.dumps({"endpoints": [{"name": "lab", **keys}]}))[0]


def wrong(document: Any) -> list[tuple[str | None, str, str]]:
    given = document if isinstance(document, str) else json.dumps(document)
    try:
        problems = read(given, "doc").problems
    except WrongDocument as exc:
        assert exc.exit_code == 65
        problems = tuple(exc.problems)
    assert problems
    return [(name, one.where, one.sentence) for name, one in problems]


def test_yaml_and_json_mean_the_same() -> None:
    yaml = "endpoints:\n  - name: lab\n    profile: slurm\n    vars: {account: chem, nodes: 2}\n"
    values = {"name": "lab", "profile": "slurm", "vars": {"account": "chem", "nodes": 2}}
    assert right(yaml) == right(json.dumps({"endpoints": [values]}))


def test_json_keeps_characters_that_yaml_reads_otherwise() -> None:
    assert one(display_name="\U0001f9ea").display_name == "\U0001f9ea"


def test_numbers_are_kept_as_they_were_written_also_on_the_way_to_another_process() -> None:
    found = right("endpoints:\n- {name: lab, vars: {account: 007, hours: 1.50, nodes: 2}}\n")
    there = decode(json.loads(json.dumps(encode(found[0].vars))))
    assert there == {"account": 7, "hours": 1.5, "nodes": 2}
    assert (there["account"].written, there["hours"].written) == ("007", "1.50")
    assert type(there["nodes"]) is int


def test_defaults_hold_where_an_entry_says_nothing_and_variables_are_merged() -> None:
    document = {
        "defaults": {"state": "present", "profile": "slurm", "vars": {"account": "a", "nodes": 1}},
        "endpoints": [
            {"name": "one", "vars": {"nodes": 2}, "state": None},
            {"name": "two", "config": {"engine": {"type": "ThreadPoolEngine"}}},
            {"name": "three", "state": "started", "vars": None},
        ],
    }
    one, two, three = right(json.dumps(document))
    assert (one.state, one.vars) == ("present", {"account": "a", "nodes": 2})
    assert (two.profile, two.vars) == (None, {})
    assert two.config == "engine:\n  type: ThreadPoolEngine\n"
    assert (three.state, three.vars) == ("started", {"account": "a", "nodes": 1})


def test_without_a_key_that_configures_the_configuration_is_left_alone() -> None:
    assert not one(state="drained", drain_s=5).configures
    assert one(profile="local").configures
    assert one(display_name="x").configures


def test_a_drain_is_ten_minutes_a_stop_ten_seconds_unless_it_is_said() -> None:
    assert one(state="drained").stop_s == one(state="absent").stop_s == one().stop_s == 600
    assert one(state="stopped").stop_s == 10
    assert one(state="stopped", drain_s=3).stop_s == 3


def test_everything_that_is_wrong_is_told_with_its_endpoint() -> None:
    found = wrong(
        {
            "endpoints": [
                {"name": "a", "profile": "auto", "unit": True, "config_dir": "relative"},
                {"name": "b", "config": "x: 1", "vars": {"a": 1}, "service": "http://h/path"},
                {"name": "c", "credentials": {"client_id": "x"}, "unit": {"tasks_max": -1}},
                {"name": "d", "stat": "absent"},
                {"name": "e"},
                {"name": "e"},
            ]
        }
    )
    assert [(name, where) for name, where, _ in found] == [
        ("d", "endpoints[3].stat"),
        ("a", "endpoints[0].profile"),
        ("a", "endpoints[0].unit"),
        ("a", "endpoints[0].config_dir"),
        ("b", "endpoints[1].vars"),
        ("b", "endpoints[1].service"),
        ("c", "endpoints[2].credentials"),
        ("c", "endpoints[2].unit.tasks_max"),
        ("e", "endpoints[5]"),
    ]


@pytest.mark.parametrize(
    "given",
    ["", "[", "- name: a", '{"endpoints": [', "endpoints: &a [*a]", "a: b: c", "endpoints: 7"],
)
def test_what_is_no_document_is_told_in_a_sentence(given: str) -> None:
    assert len(wrong(given)) == 1


@pytest.mark.parametrize(
    "given", ['{"endpoints": [{"name": "a", "name": "b"}]}', "endpoints:\n- name: a\n  name: b\n"]
)
def test_a_key_that_is_given_twice_is_wrong(given: str) -> None:
    assert "given twice" in wrong(given)[0][2]


def test_a_uuid_for_a_name_is_refused_but_may_be_removed() -> None:
    name = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
    assert wrong({"endpoints": [{"name": name}]})[0][1] == "endpoints[0].name"
    assert right(json.dumps({"endpoints": [{"name": name, "state": "absent"}]}))


def test_a_secret_comes_from_the_document_or_a_private_file(tmp_path: Path) -> None:
    given = {"client_id": "an-id", "client_secret": SECRET}
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    lines = tmp_path / "client.env"
    lines.write_text(
        f"export GLOBUS_COMPUTE_CLIENT_ID=an-id\nGLOBUS_COMPUTE_CLIENT_SECRET='{SECRET}'\n"
    )
    lines.chmod(0o600)
    forms = [given, {"client_id": "an-id", "client_secret_file": str(file)}, {"file": str(lines)}]
    for form in forms:
        client = one(credentials=form).client
        assert client is not None
        assert (client.client_id, client.secret) == ("an-id", SECRET)
        assert SECRET not in repr(client)
    lines.chmod(0o640)
    file.chmod(0o604)
    for form in forms[1:]:
        found = wrong({"endpoints": [{"name": "lab", "credentials": form}]})
        assert "Others can read" in found[0][2]


def test_a_secret_that_stands_in_a_wrong_place_is_still_hidden() -> None:
    document = {"endpoints": [{"name": "a", "vars": {"my_token": SECRET}, "client_secret": SECRET}]}
    told = str(wrong(document))
    assert SECRET not in told
    assert text.redact(f"x {SECRET} y") == "x *** y"


def test_a_secret_of_several_lines_is_refused_without_showing_it() -> None:
    given = {"client_id": "an-id", "client_secret": f"{SECRET}\nx"}
    found = wrong({"endpoints": [{"name": "a", "credentials": given}]})
    assert "one line" in found[0][2]
    assert SECRET not in str(found)
