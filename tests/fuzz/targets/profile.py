"""Profiles: any text given to a variable is, in the configuration, that text, or is refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import yaml

from cep.config.load import load_text
from cep.errors import CepError
from cep.profiles import catalog
from cep.profiles.render import as_yaml, chosen, render
from tests.fuzz.target import Source, Target, piece

PROFILES = tuple(catalog.find(name) for name in catalog.names())


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
    try:
        values = chosen(profile, words)
        text = render(
            profile,
            values,
            service_url="http://localhost:5000",
            service_is_hub=True,
            origin="config.yaml",
        )
    except CepError:
        return
    settings = load_text(text, "config.yaml")
    assert settings.service_url == "http://localhost:5000"
    plain = render(
        profile, {}, service_url="http://localhost:5000", service_is_hub=True, origin="config.yaml"
    )
    assert type(load_text(plain, "config.yaml").engine) is type(settings.engine)


@contextlib.contextmanager
def _open() -> Iterator[Callable[[bytes], None]]:
    yield one


def seeds() -> Iterator[bytes]:
    """Variables with texts that mean something to YAML or to a shell."""
    texts = ("4", "true", "x", "a: b", "'", '"', "{{ 7 * 7 }}", "- x\nengine: y", "#", "&a", "null")
    more = ("\u2028", "a\x85b", " x ", "|", "...", "---", "*a", "!!python/name:os", "01:02:03", "é")
    for number in range(len(PROFILES)):
        for place, text in enumerate((*texts, *more, *texts)):
            yield bytes((number, place)) + piece(text.encode())


TARGET = Target("profile", "variables of site profiles", _open, seeds)
