"""docs/apply.md names every key of the document and every action of the answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cep.apply import document, schema
from cep.apply.document import read

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "apply.md").read_text()
WORDS = set(re.findall(r"`([^`\n]+)`", PAGE))
ENDPOINT = schema.schema(schema.INPUT)["$defs"]["endpoint"]["properties"]
UNIT = schema.schema(schema.INPUT)["$defs"]["unit"]["properties"]
ANSWER = schema.schema(schema.OUTPUT)["$defs"]["endpoint"]["properties"]


@pytest.mark.parametrize("key", [*ENDPOINT, *UNIT])
def test_every_key_of_the_document_is_explained(key: str) -> None:
    assert key in WORDS


@pytest.mark.parametrize("word", ANSWER["actions"]["items"]["enum"])
def test_every_action_is_listed(word: str) -> None:
    assert word in WORDS


def test_every_state_and_policy_is_explained() -> None:
    definitions = schema.schema(schema.INPUT)["$defs"]
    assert {*definitions["state"]["enum"], *definitions["on_change"]["enum"]} <= WORDS
    assert f"({document.DRAIN_S:.0f})" in PAGE


def test_the_defaults_take_the_keys_of_an_endpoint_that_many_may_share() -> None:
    defaults = schema.schema(schema.INPUT)["$defs"]["defaults"]["properties"]
    assert ENDPOINT.keys() - defaults.keys() == {"name", "uuid", "config", "display_name"}
    assert defaults.keys() <= ENDPOINT.keys()


def test_the_example_is_a_right_document() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    without_files = example.replace("client_secret_file: /root/alice.secret", "client_secret: xxx")
    found = read(without_files, "the example")
    assert found.problems == ()
    assert [one.name for one in found.wanted] == ["lab", "old"]
