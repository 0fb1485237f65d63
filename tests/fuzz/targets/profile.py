"""Profiles: any text given to a variable is, in the configuration, that text, or is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from cep.config.load import load_text
from cep.config.settings import HtexSettings
from cep.errors import CepError
from cep.profiles import catalog
from cep.profiles.catalog import Profile
from cep.profiles.filters import as_yaml
from cep.profiles.reference import built_in
from cep.profiles.render import render
from cep.profiles.values import Values
from tests.fuzz.target import Source, Target, piece

_SEARCH = built_in()
PROFILES = tuple(catalog.find(name, _SEARCH) for name in catalog.names(_SEARCH))
_HUB = "http://localhost:5000"


def one(data: bytes) -> None:
    """Choose a profile, variables and values; nothing may be smuggled into other keys."""
    source = Source(data)
    profile = source.pick(PROFILES)
    names = sorted(profile.variables)
    words = []
    while source.left:
        name = source.pick(names)
        words.append(f"{name}={source.piece().decode('utf-8', 'replace')}")
    for word in words:
        text = word.partition("=")[2]
        if all(each.isprintable() or each in "\t\n" for each in text):
            assert yaml.safe_load(as_yaml(text)) == text
    values = _least(profile)
    values.add_words(words)
    try:
        text = _text(profile, values.finish())
    except CepError:
        return
    plain = _least(profile)
    # The only variable that may decide what kind of thing runs the tasks.
    plain.add({name: value for name, value in values.given.items() if name == "engine"})
    settings = load_text(text, "config.yaml", unset_allowed=True)
    assert settings.service_url == _HUB
    assert settings.ssl_ca_file is None
    assert _kind(text) == _kind(_text(profile, plain.finish()))


def _least(profile: Profile) -> Values:
    """What must be given at least, beside whatever a container needs."""
    values = Values(profile)
    values.add({one.name: one.example for one in profile.variables.values() if one.required})
    if profile.name == "container":
        values.add({"container_uri": "docker://python:3.11-slim"})
    return values


def _text(profile: Profile, values: Mapping[str, Any]) -> str:
    return render(profile, values, service_url=_HUB, service_is_hub=True, origin="config.yaml")


def _kind(text: str) -> tuple[type, str | None]:
    engine = load_text(text, "config.yaml", unset_allowed=True).engine
    return type(engine), engine.provider.type if isinstance(engine, HtexSettings) else None


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    yield one


def seeds() -> Iterator[bytes]:
    """Variables with texts that mean something to YAML or to a shell."""
    texts = ("4", "true", "x", "a: b", "'", '"', "{{ 7 * 7 }}", "- x\nengine: y", "#", "&a", "null")
    more = ("\u2028", "a\x85b", " x ", "|", "...", "---", "*a", "!!python/name:os", "01:02:03", "é")
    for number, profile in enumerate(PROFILES):
        count = len(profile.variables)
        for place, text in enumerate((*texts, *more, *texts)):
            yield bytes((number, place % count)) + piece(text.encode())


TARGET = Target("profile", "variables of site profiles", _open, seeds)
