"""docs/configuration.md says what the tables of the code say."""

from __future__ import annotations

from pathlib import Path

from cep.config.load import load_text
from cep.config.reference import tables, updated
from cep.config.settings import HtexSettings
from cep.config.tables import ENGINES, TOP

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_document_is_what_the_tables_write() -> None:
    text = DOCUMENT.read_text()
    assert text == updated(text), "run: python -m cep.config.reference docs/configuration.md"


def test_every_key_is_in_the_document() -> None:
    text = DOCUMENT.read_text()
    for key in TOP:
        assert f"| `{key.name}` |" in text
    for keys in ENGINES.values():
        for key in keys:
            assert f"| `engine.{key.name}` |" in text


def test_a_changed_table_would_be_noticed() -> None:
    text = DOCUMENT.read_text()
    assert updated(text.replace("| `amqp_port` |", "| `amqp_prt` |")) == text
    assert "amqp_port" in tables()


def test_the_example_of_the_document_is_valid() -> None:
    example = DOCUMENT.read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    settings = load_text(example, "example")
    assert isinstance(settings.engine, HtexSettings)
    assert settings.amqp_port == 443
