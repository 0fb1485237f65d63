"""Read a published endpoint's configuration and write it in today's keys. Reads files only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cep.config.foreign.findings import Findings
from cep.config.foreign.source import Source, read_source
from cep.config.foreign.translate import translate
from cep.config.load import load_text, read_text
from cep.config.written import dump
from cep.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Imported:
    """A configuration that is ready to be written.

    Attributes:
        text: It.
        directory: Where the older endpoint is.
        files: The files it was read from.
        endpoint_id: The UUID to keep; None for an endpoint that was never registered.
        findings: What the text cannot say.
    """

    text: str
    directory: Path
    files: tuple[Path, ...]
    endpoint_id: str | None
    findings: Findings


def read(path: Path, given: Mapping[str, Any], words: Mapping[str, str], origin: str) -> Imported:
    """Read a configuration of any published version.

    Args:
        path: A directory, a `config.yaml`, a `config.py`, or a template.
        given: Variables of a template, from files.
        words: The same, as a person typed them; they win.
        origin: What to call the new file in messages, usually its path.

    Raises:
        CepError: It cannot be read, or would not be a valid configuration here.
    """
    source = read_source(path, given, words)
    text = _as_it_is(source) or _translated(source, origin)
    return Imported(text, source.directory, source.files, source.endpoint_id, source.findings)


def _as_it_is(source: Source) -> str | None:
    """The file itself, comments and all, when nothing in it is old."""
    if source.text is None:
        return None
    try:
        loaded = read_text(source.text, str(source.files[-1]))
    except ConfigError:
        return None
    return None if loaded.warnings else source.text


def _translated(source: Source, origin: str) -> str:
    values = translate(source.document, str(source.files[-1]), source.findings)
    head = ", ".join(file.name for file in source.files)
    text = f"# Imported from {head}.\n{dump(values)}"
    load_text(text, origin, unset_allowed=True)
    return text
