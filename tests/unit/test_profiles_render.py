"""Profiles: found in a checkout, rendered in a sandbox, safe against whatever a person types."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cep.config.load import load_text
from cep.errors import ConfigError, SoftwareError, UsageError
from cep.profiles import catalog
from cep.profiles.render import as_yaml, chosen, difference, render
from tests.unit.test_config_load import PUBLISHED_DEFAULT

LOCAL = catalog.find("local")


def rendered(values: dict[str, Any], **changes: Any) -> str:
    options: dict[str, Any] = {"service_url": None, "service_is_hub": False, "origin": "x"}
    return render(LOCAL, values, **{**options, **changes})


def test_the_default_render_of_local_is_the_published_default_file() -> None:
    assert rendered({}) == PUBLISHED_DEFAULT


def test_every_profile_has_a_schema_whose_defaults_render_to_a_valid_file() -> None:
    for name in catalog.names():
        profile = catalog.find(name)
        assert profile.summary
        text = render(profile, {}, service_url=None, service_is_hub=False, origin="x")
        assert load_text(text, "x").engine is not None


def test_every_variable_has_a_type_a_description_and_a_default_of_its_kind() -> None:
    for variable in LOCAL.variables.values():
        assert variable.type in ("text", "integer", "flag", "choice")
        assert variable.description.endswith(".")
        assert variable.type != "choice" or variable.default in variable.options


def test_every_variable_reaches_the_file() -> None:
    samples: dict[str, Any] = {
        "amqp_port": 5671,
        "authentication_policy": "1f0e9a52-0000-4000-8000-00000000000a",
        "subscription_id": "1f0e9a52-0000-4000-8000-00000000000b",
        "high_assurance": True,
        "engine": "ThreadPoolEngine",
        "display_name": "seen",
        "worker_init": "seen",
    }
    for name in LOCAL.variables:
        assert rendered({name: samples.get(name, 1 if name == "min_blocks" else 3)}) != rendered({})


@settings(database=None, deadline=None, max_examples=50)
@given(st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc"))))
def test_any_text_survives_the_way_through_template_and_yaml(text: str) -> None:
    assert yaml.safe_load(as_yaml(text)) == text
    assert "\n" not in as_yaml(text)
    found = load_text(rendered({"worker_init": text}), "x").engine
    assert found.provider.arguments["worker_init"] == text  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["a\nb\n", "\n", " a\n  b", "#!/bin/sh\nmodule load 'x'\n", "\t"])
def test_scripts_of_several_lines_survive_too(text: str) -> None:
    found = load_text(rendered({"worker_init": text}), "x").engine
    assert found.provider.arguments["worker_init"] == text  # type: ignore[union-attr]


def test_a_template_cannot_be_reached_through_a_value() -> None:
    text = "{{ ''.__class__.__mro__ }}"
    assert load_text(rendered({"display_name": text}), "x").display_name == text


def test_an_undefined_variable_in_a_template_is_a_fault_not_an_empty_place(tmp_path: Path) -> None:
    template = tmp_path / "broken.yaml.j2"
    template.write_text("display_name: {{ nobody_knows }}\n")
    broken = dataclasses.replace(LOCAL, template=template)
    with pytest.raises(SoftwareError, match="nobody_knows"):
        render(broken, {}, service_url=None, service_is_hub=False, origin="x")


def test_a_template_has_no_way_out_of_the_sandbox(tmp_path: Path) -> None:
    template = tmp_path / "evil.yaml.j2"
    template.write_text("{{ ().__class__.__base__.__subclasses__() }}")
    evil = dataclasses.replace(LOCAL, template=template)
    with pytest.raises(SoftwareError):
        render(evil, {}, service_url=None, service_is_hub=False, origin="x")


def test_values_that_do_not_fit_together_are_refused_before_anything_is_written() -> None:
    with pytest.raises(ConfigError, match="min_blocks"):
        rendered({"min_blocks": 5})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("max_blocks=4", {"max_blocks": 4}),
        ("high_assurance=yes", {"high_assurance": True}),
        ("high_assurance=False", {"high_assurance": False}),
        ("amqp_port=5671", {"amqp_port": 5671}),
        ("worker_init=a=b", {"worker_init": "a=b"}),
        ("display_name=", {"display_name": None}),
    ],
)
def test_words_become_values(word: str, value: dict[str, Any]) -> None:
    assert chosen(LOCAL, [word]) == value


@pytest.mark.parametrize("word", ["max_blocks=-1", "max_blocks=٣", "amqp_port=80", "x=1", "=1"])
def test_wrong_words_are_refused(word: str) -> None:
    with pytest.raises(UsageError):
        chosen(LOCAL, [word])


def test_a_difference_is_empty_only_between_equal_texts() -> None:
    assert difference("a\n", "a\n", "x") == ""
    assert "+b\n" in difference("a\n", "b\n", "x")
