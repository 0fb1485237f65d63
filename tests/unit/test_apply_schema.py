"""The schemas of `cep apply`, and the checker that reads them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cep.apply import schema
from cep.errors import SoftwareError
from tests.unit.cli_rig import Rig, rig

__all__ = ["rig"]


def said(document: Any) -> list[str]:
    return [problem.sentence for problem in schema.check(document, schema.INPUT)]


def entry(**keys: Any) -> list[str]:
    return said({"endpoints": [{"name": "lab", **keys}]})


@pytest.mark.parametrize("name", [schema.INPUT, schema.OUTPUT])
def test_the_shipped_schemas_use_only_rules_that_are_checked(name: str) -> None:
    def rules(block: Any) -> set[str]:
        if not isinstance(block, dict):
            return set()
        found = set(block)
        for inner in (*block.get("properties", {}).values(), *block.get("$defs", {}).values()):
            found |= rules(inner)
        return found | rules(block.get("items"))

    whole = schema.schema(name)
    walker = schema._Check(whole)
    about = schema._ABOUT | {"$ref"}
    assert rules(whole) <= walker._rules.keys() | about


def test_an_unknown_rule_of_a_schema_is_a_fault_and_not_passed_over() -> None:
    walker = schema._Check({"oneOf": []})
    with pytest.raises(SoftwareError, match="oneOf"):
        list(walker.problems({}, {"oneOf": []}, ""))


def test_a_right_document_has_no_problems() -> None:
    unit = {"scope": "system", "enabled": False, "memory_max": "4G", "tasks_max": 512}
    keys = {"state": "drained", "vars": {"a": 1}, "unit": unit, "drain_s": 2.5, "uuid": "1" * 32}
    assert entry(**keys) == []
    assert entry(unit=False, config={"engine": {}}) == []


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"name": "a/b"}, "endpoints[0].name must be of the form"),
        ({"name": ".a"}, "endpoints[0].name must be of the form"),
        ({"name": 7}, "endpoints[0].name must be a text, but it is 7"),
        ({"state": "running"}, "one of present, started, stopped, drained, absent"),
        (
            {"profil": "slurm"},
            "endpoints[0].profil is no key of this document. Did you mean profil",
        ),
        ({"unit": {"scope": "host"}}, "endpoints[0].unit.scope must be one of system, user"),
        ({"unit": {"memory_max": "1G\nExecStart=/bin/sh"}}, "endpoints[0].unit.memory_max"),
        ({"unit": {"cpu_quota": "4"}}, "endpoints[0].unit.cpu_quota"),
        ({"unit": {"tasks_max": True}}, "endpoints[0].unit.tasks_max must be a text or an integer"),
        ({"drain_s": -1}, "endpoints[0].drain_s must be at least 0, but it is -1"),
        ({"drain_s": float("nan")}, "endpoints[0].drain_s must be a number"),
        ({"purge": "yes"}, "endpoints[0].purge must be a boolean"),
        ({"vars": ["a"]}, "endpoints[0].vars must be a block of keys or null, but it is a list"),
        ({"run_as": "a b"}, "endpoints[0].run_as must be of the form"),
        ({"service": "hub:5000"}, "endpoints[0].service must be of the form"),
        ({"uuid": "1"}, "endpoints[0].uuid must be of the form"),
    ],
)
def test_a_wrong_key_is_named_with_what_it_takes(keys: dict[str, Any], words: str) -> None:
    found = entry(**keys)
    assert len(found) == 1
    assert words in found[0]


def test_the_value_of_a_secret_is_never_shown() -> None:
    found = entry(credentials={"client_id": "x", "client_secret": ["hunter2-hunter2"]})
    assert found == [
        "endpoints[0].credentials.client_secret must be a text, but it is something else."
    ]


def test_everything_is_told_at_once() -> None:
    assert len(said({"endpoints": [{}, {"name": 1, "nme": 2}], "else": 1})) == 4
    assert said([]) == ["The document must be a block of keys, but it is a list."]
    assert said({}) == ["endpoints is missing."]


@pytest.mark.parametrize("name", [schema.INPUT, schema.OUTPUT])
def test_the_command_prints_the_schemas(rig: Rig, name: str) -> None:
    done = rig.run("apply", "--schema", name)
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == schema.schema(name)
