"""`cep apply` as a command, without a service: configurations, refusals, answers."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest

from cep.apply import schema
from cep.apply.places import Becoming
from cep.safety import text
from tests.unit.cli_rig import Done, Rig, rig

__all__ = ["rig"]

ME = getpass.getuser()
THREADS = {"engine": {"type": "ThreadPoolEngine"}}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The host is not run by systemd, and what a document hides is forgotten again."""
    monkeypatch.setattr("cep.boot.systemd.BOOTED", tmp_path / "not-booted")
    monkeypatch.setattr(text, "_known", [])


@pytest.fixture
def document(tmp_path: Path) -> Path:
    return tmp_path / "doc.json"


def apply(rig: Rig, document: Path, *entries: dict[str, Any], words: tuple[str, ...] = ()) -> Done:
    whole = {"defaults": {"run_as": ME, "state": "present"}, "endpoints": list(entries)}
    document.write_text(json.dumps(whole))
    return rig.run("apply", "-f", str(document), *words)


def told(rig: Rig, document: Path, *entries: dict[str, Any], code: int = 0) -> dict[str, Any]:
    """Plan, apply, compare, and check the answer's form; returns it."""
    planned = apply(rig, document, *entries, words=("--json", "--dry-run"))
    done = apply(rig, document, *entries, words=("--json",))
    assert done.code == code, done.err
    answer: dict[str, Any] = json.loads(done.out)
    plan = json.loads(planned.out)
    assert schema.check(answer, schema.OUTPUT) == schema.check(plan, schema.OUTPUT) == []
    names = ("changed", "actions", "diff", "waiting")
    for one, other in zip(plan["endpoints"], answer["endpoints"], strict=True):
        assert [one[name] for name in names] == [other[name] for name in names]
    return answer


def actions(answer: dict[str, Any]) -> list[list[str]]:
    return [one["actions"] for one in answer["endpoints"]]


def test_the_command_line_must_name_a_document(rig: Rig, document: Path) -> None:
    for words, code in (((), 64), (("--info", "--diff"), 64), (("-f", str(document)), 66)):
        done = rig.run("apply", "--json", *words)
        answer = json.loads(done.out)
        assert done.code == answer["error"]["code"] == code
        assert schema.check(answer, schema.OUTPUT) == []
    assert rig.run("apply", "-f", "-").code in (65, 66)  # standard input is closed or empty


def test_endpoints_are_made_once(rig: Rig, document: Path) -> None:
    entries = ({"name": "one", "profile": "threads"}, {"name": "two", "config": THREADS})
    assert apply(rig, document, *entries, words=("--dry-run",)).code == 0
    assert not rig.base.exists()
    assert actions(told(rig, document, *entries)) == [["create"], ["create"]]
    again = told(rig, document, *entries)
    assert (again["changed"], actions(again)) == (False, [[], []])
    assert (rig.base / "one" / "config.yaml").stat().st_mode & 0o777 == 0o600


def test_a_variable_that_is_no_longer_named_has_its_default_again(rig: Rig, document: Path) -> None:
    config = rig.base / "one" / "config.yaml"
    told(rig, document, {"name": "one", "profile": "threads", "vars": {"max_workers": 3}})
    assert "max_workers: 3" in config.read_text()
    again = told(rig, document, {"name": "one", "profile": "threads"})
    assert actions(again) == [["configure"]]
    assert "max_workers" not in config.read_text()


def test_a_whole_configuration_is_taken_as_it_is_and_put_back(rig: Rig, document: Path) -> None:
    whole = "# ours\nengine: {type: ThreadPoolEngine}\n"
    config = rig.base / "one" / "config.yaml"
    told(rig, document, {"name": "one", "config": whole})
    assert config.read_text() == whole
    config.write_text(whole + "debug: true\n")
    assert actions(told(rig, document, {"name": "one", "config": whole})) == [["configure"]]
    assert config.read_text() == whole
    assert (rig.base / "one" / "config.yaml.backup").read_text() == whole + "debug: true\n"
    refused = apply(rig, document, {"name": "one", "vars": {"max_workers": 1}})
    assert refused.code == 65
    assert "was taken from a file" in refused.err


def test_everything_wrong_is_told_together_and_nothing_is_changed(rig: Rig, document: Path) -> None:
    entries: list[dict[str, Any]] = [
        {"name": "good", "profile": "threads"},
        {"name": "unknown", "profile": "nonsense"},
        {"name": "vars", "profile": "threads", "vars": {"max_workrs": 1, "amqp_port": "x"}},
        {"name": "file", "config": "engine: {type: ThreadPoolEngine}\nnonsense: 1\n"},
        {"name": "nobody", "profile": "threads", "run_as": "no-such-account"},
        {"name": "missing"},
        {"name": "typo", "profil": "threads"},
        {"name": "preset", "site": "polaris"},
    ]
    done = apply(rig, document, *entries, words=("--json",))
    assert done.code == 65
    answer = json.loads(done.out)
    assert schema.check(answer, schema.OUTPUT) == []
    assert {one["endpoint"] for one in answer["problems"]} == {one["name"] for one in entries[1:]}
    sentences = "\n".join(one["sentence"] for one in answer["problems"])
    for word in ("nonsense", "max_workrs", "amqp_port", "no-such-account", "profil", "missing"):
        assert word in sentences
    assert (answer["changed"], answer["endpoints"]) == (False, [])
    assert not rig.base.exists() or not list(rig.base.iterdir())


def test_a_directory_that_is_no_endpoint_fails_alone(rig: Rig, document: Path) -> None:
    (rig.base / "one").mkdir(parents=True, mode=0o700)
    entries = [{"name": name, "profile": "threads"} for name in ("one", "two")]
    answer = told(rig, document, *entries, code=73)
    assert actions(answer) == [[], ["create"]]
    assert answer["endpoints"][0]["error"]["code"] == 73
    assert apply(rig, document, *entries).out == "one: failed\ntwo: unchanged\n"


def test_a_fault_in_one_endpoint_is_told_and_the_others_go_on(
    rig: Rig, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cep.apply import home

    def faulty(spec: dict[str, Any]) -> dict[str, Any]:
        if spec["name"] == "one":
            raise ZeroDivisionError("never")
        return configure(spec)

    configure = home.VERBS["configure"]
    monkeypatch.setitem(home.VERBS, "configure", faulty)
    entries = [{"name": name, "profile": "threads"} for name in ("one", "two")]
    done = apply(rig, document, *entries, words=("--json",))
    one, two = json.loads(done.out)["endpoints"]
    assert done.code == one["error"]["code"] == 70
    assert (one["actions"], two["actions"]) == ([], ["create"])


def test_an_endpoint_others_can_write_is_not_touched(rig: Rig, document: Path) -> None:
    told(rig, document, {"name": "one", "profile": "threads"})
    (rig.base / "one").chmod(0o777)
    answer = told(rig, document, {"name": "one", "profile": "local"}, code=78)
    assert actions(answer) == [[]]


def test_without_systemd_there_is_no_unit(rig: Rig, document: Path) -> None:
    entry = {"name": "one", "profile": "threads", "unit": {"scope": "user"}}
    answer = told(rig, document, entry, code=69)
    assert "not run by systemd" in answer["endpoints"][0]["error"]["sentence"]
    assert not (rig.base / "one").exists()
    assert actions(told(rig, document, {**entry, "unit": False})) == [["create"]]


def test_without_a_login_it_waits_and_says_for_whom(rig: Rig, document: Path) -> None:
    entry = {"name": "one", "profile": "threads", "state": "started"}
    first = told(rig, document, entry)
    assert actions(first) == [["create"]]
    assert first["endpoints"][0]["waiting"].startswith(
        f"waiting for login: run `cep login` as {ME}"
    )
    again = told(rig, document, entry)
    assert not again["changed"]
    assert again["endpoints"][0]["waiting"] == first["endpoints"][0]["waiting"]
    (looked,) = json.loads(rig.run("apply", "--info", "--json").out)["endpoints"]
    assert looked["waiting"] == first["endpoints"][0]["waiting"]


def test_a_hub_needs_a_client(rig: Rig, document: Path) -> None:
    entry = {"name": "one", "profile": "threads", "service": "http://localhost:1"}
    answer = told(rig, document, {**entry, "state": "started"}, code=77)
    assert "knows clients only" in answer["endpoints"][0]["error"]["sentence"]
    assert actions(answer) == [[]]


def test_an_id_is_taken_back(rig: Rig, document: Path) -> None:
    uuid = "4cf29807-cf21-49ec-9443-ff9a3fb9f81c"
    entry = {"name": "one", "profile": "threads", "uuid": uuid.upper()}
    assert actions(told(rig, document, entry)) == [["create", "set_id"]]
    assert json.loads((rig.base / "one" / "endpoint.json").read_text()) == {"endpoint_id": uuid}
    (rig.base / "one" / "endpoint.json").write_text("damaged")
    answer = told(rig, document, entry)
    assert actions(answer) == [["set_id"]]
    assert answer["endpoints"][0]["endpoint_id"] == uuid


def test_secrets_in_variables_are_masked_in_what_is_shown(rig: Rig, document: Path) -> None:
    entry = {
        "name": "one",
        "profile": "local",
        "vars": {"worker_init": "export API_TOKEN=hunter2-hunter2"},
    }
    for words in (("--dry-run", "--diff"), ("--diff",), ("--json",)):
        done = apply(rig, document, entry, words=words)
        assert done.code == 0
        assert "hunter2" not in done.out + done.err
    entry["vars"] = {"worker_init": "export API_TOKEN=hunter3-hunter3"}
    done = apply(rig, document, entry, words=("--diff",))
    assert "only what is masked differs" in done.out
    assert "hunter3-hunter3" in (rig.base / "one" / "config.yaml").read_text()


def test_a_document_with_a_secret_must_be_private(rig: Rig, document: Path) -> None:
    given = {"client_id": "an-id", "client_secret": "hunter2-hunter2"}
    entry = {"name": "one", "profile": "threads", "credentials": given}
    document.touch(mode=0o644)
    document.chmod(0o644)
    done = apply(rig, document, entry)
    assert done.code == 77
    assert "chmod 600" in done.err
    assert not (rig.base / "one").exists()
    document.chmod(0o600)
    assert apply(rig, document, entry).code == 0


def test_info_tells_of_all_endpoints_or_of_those_in_the_document(rig: Rig, document: Path) -> None:
    told(rig, document, {"name": "one", "profile": "threads"}, {"name": "two", "config": THREADS})
    everything = json.loads(rig.run("apply", "--info", "--json").out)
    assert schema.check(everything, schema.OUTPUT) == []
    assert [(one["name"], one["profile"]) for one in everything["endpoints"]] == [
        ("one", "threads"),
        ("two", None),
    ]
    done = apply(rig, document, {"name": "two"}, {"name": "none"}, words=("--info", "--json"))
    named = json.loads(done.out)["endpoints"]
    assert [(one["name"], one["state"]) for one in named] == [
        ("two", "Initialized"),
        ("none", "Absent"),
    ]
    assert rig.run("apply", "--info").out.splitlines()[0] == "one: Initialized; None"


def test_lines_for_people_say_what_was_done(rig: Rig, document: Path) -> None:
    entry = {"name": "one", "profile": "threads"}
    first = apply(rig, document, entry, words=("--diff",))
    assert first.out.splitlines()[0] == "one: create"
    assert "+  type: ThreadPoolEngine" in first.out
    assert first.err == "one: create ...\n"
    assert apply(rig, document, entry).out == "one: unchanged\n"


def test_the_installation_must_be_usable_by_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    from cep.apply import facts, places
    from cep.errors import SoftwareError

    monkeypatch.setattr(places.facts, "becoming", lambda _who: {"env": {"PYTHONHOME": "/none"}})
    with pytest.raises(SoftwareError, match="gave no answer"):
        Becoming(facts.account_named("nobody")).ask("names", {"config_dir": None})


def test_a_verb_in_another_process_answers_and_fails_as_in_this_one(
    monkeypatch: pytest.MonkeyPatch, rig: Rig
) -> None:
    import os

    from cep.apply import facts, places
    from cep.errors import InputMissing

    rig.endpoint("one")
    monkeypatch.setattr(places.facts, "becoming", lambda _who: {"env": dict(os.environ)})
    other = Becoming(facts.account_named(ME))
    assert other.ask("names", {"config_dir": None})["names"] == ["one"]
    with pytest.raises(InputMissing, match="no unit file"):
        other.ask("stored_client", {"path": "/none", "user": False})
