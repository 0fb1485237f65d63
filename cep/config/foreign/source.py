"""A published endpoint's directory or file -> the values of its configuration.

Reads files and changes none. Source of the names and of their order: globus-compute-endpoint
2.19.0 and 4.19.0, protocol of the directory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cep.config.document import Lines, parse
from cep.config.foreign.findings import Findings, Remark
from cep.config.foreign.python_file import read_python
from cep.config.foreign.template import Variables, render
from cep.errors import ConfigError, DataError, InputMissing, UsageError
from cep.safety.files import check_trusted

_PROGRAM, _FILE = "config.py", "config.yaml"
_TEMPLATES = ("user_config_template.yaml.j2", "user_config_template.yaml")
_SCHEMA = "user_config_schema.json"
_TEMPLATE_KEY, _SCHEMA_KEY = "user_config_template_path", "user_config_schema_path"
_OURS = ("profile.json", "lease.json")  # an endpoint of cep has run or was configured here
_IDLE = ("idle_heartbeats_soft", "idle_heartbeats_hard")
_NOBODY_STARTS_IT = (
    "The manager of 4.x starts an idle endpoint again when a task comes; here nobody would, so the "
    "endpoint stays up. Idle blocks are given back all the same (max_idletime)."
)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_LARGEST = 1024 * 1024  # bytes of any file that is read


@dataclass(frozen=True, slots=True)
class Source:
    """What was found.

    Attributes:
        directory: The endpoint's directory.
        files: The files that were read, the one that decides last.
        document: Keys and values.
        text: The text of the one YAML file that says it all; None when there is none.
        rendered: It came out of a template.
        endpoint_id: The UUID it was registered with; None before the first registration.
        findings: What could not be taken over so far.
    """

    directory: Path
    files: tuple[Path, ...]
    document: Lines
    text: str | None
    rendered: bool
    endpoint_id: str | None
    findings: Findings


def read_source(path: Path, given: Mapping[str, Any], words: Mapping[str, str]) -> Source:
    """Find and read a configuration.

    Args:
        path: A directory, a `config.yaml`, a `config.py`, or a template.
        given: Variables of a template, from files.
        words: The same, as a person typed them; they win.

    Raises:
        InputMissing: There is nothing to read.
        ConfigError: What is there cannot be read as a configuration.
        UsageError: A template's variables are missing or wrong, or given without a template.
        DataError: `endpoint.json` is no such file.
    """
    chosen = _chosen(path)
    directory, endpoint_id = chosen.parent, _endpoint_id(chosen.parent)
    if chosen.suffix == ".py":
        document, findings = read_python(_text(chosen), str(chosen))
        source = Source(directory, (chosen,), document, None, False, endpoint_id, findings)
    else:
        source = _from_yaml(chosen, given, words, endpoint_id)
    variables = (*given, *words)
    if variables and not source.rendered:
        raise UsageError(
            f"{chosen} is no template, so --set and --vars have nothing to set "
            f"({', '.join(variables)})."
        )
    _look_around(source, chosen)
    return source


def _chosen(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputMissing(f"There is no {path} to import.")
    program, file = path / _PROGRAM, path / _FILE
    ours = any((path / name).exists() for name in _OURS)
    if program.is_file() and not (ours and file.is_file()):  # the published endpoint's order
        return program
    for candidate in (file, *(path / name for name in _TEMPLATES)):
        if candidate.is_file():
            return candidate
    raise InputMissing(f"{path} has no {_FILE}, no {_PROGRAM} and no {_TEMPLATES[0]}.")


def _from_yaml(
    chosen: Path, given: Mapping[str, Any], words: Mapping[str, str], endpoint_id: str | None
) -> Source:
    directory, findings = chosen.parent, Findings()
    is_template = chosen.name in _TEMPLATES or chosen.suffix == ".j2"
    core_file = directory / _FILE if is_template else chosen
    core_text = _text(core_file) if core_file.is_file() else ""
    core = parse(core_text, str(core_file))
    has_engine = core.get("engine") is not None or core.get("executors") is not None
    template = chosen if is_template else _template_of(directory, core)
    if not is_template and (has_engine or template is None):
        return Source(directory, (chosen,), core, core_text, False, endpoint_id, findings)
    assert template is not None
    schema_file = _named(directory, core, _SCHEMA_KEY) or template.parent / _SCHEMA
    variables = Variables.of(_schema(schema_file), given, words)
    rendered = render(template, variables, core)
    document = _both(core, parse(rendered, f"{template} (rendered)"), findings)
    files = [schema_file] if schema_file.is_file() else []
    files += [core_file] if core_text else []
    findings.notes.append(
        f"The template was rendered once: {_variables_told(variables)}. Users who submit cannot "
        "choose them here."
    )
    return Source(directory, (*files, template), document, None, True, endpoint_id, findings)


def _both(core: Lines, rendered: Lines, findings: Findings) -> Lines:
    """What config.yaml and the template say; of what both say, the former is registered."""
    document = Lines()
    for part in (core, rendered):
        for name, value in part.items():
            line = part.line_of.get(name, 0)
            if part is rendered and name in _IDLE and value:
                findings.left_out.append(Remark(name, line, _NOBODY_STARTS_IT))
            elif value is not None and name not in (_TEMPLATE_KEY, _SCHEMA_KEY, *document):
                document[name] = value
                document.line_of[name] = line
    return document


def _variables_told(variables: Variables) -> str:
    values = variables.whole()
    told = ", ".join(f"{name}={json.dumps(value, default=str)}" for name, value in values.items())
    return told or "it was given no variables"


def _template_of(directory: Path, core: Lines) -> Path | None:
    named = _named(directory, core, _TEMPLATE_KEY)
    if named is not None:
        if not named.is_file():
            raise InputMissing(f"There is no template {named}, which {_TEMPLATE_KEY} names.")
        return named
    found = (directory / name for name in _TEMPLATES)
    return next((file for file in found if file.is_file()), None)


def _named(directory: Path, core: Lines, key: str) -> Path | None:
    value = core.get(key)
    return directory / Path(value).expanduser() if isinstance(value, str) and value else None


def _schema(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"The schema {path} is not JSON: {exc}.") from exc
    if not isinstance(found, Mapping):
        raise ConfigError(f"The schema {path} is not a mapping.")
    return found


def _endpoint_id(directory: Path) -> str | None:
    path = directory / "endpoint.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(_text(path))["endpoint_id"]
    except (ValueError, LookupError, TypeError, RecursionError) as exc:
        raise DataError(f"{path} has no endpoint_id that can be read: {exc}.") from exc
    if not isinstance(found, str) or _UUID.fullmatch(found) is None:
        raise DataError(
            f"{path} says the endpoint_id is {str(found)[:60]!r}, which is no UUID.",
            hint="Put it right, or move the file away to have the endpoint registered anew.",
        )
    digits = found.replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _text(path: Path) -> str:
    # Whose file it is, is the user's choice: a colleague's is as good as one's own.
    check_trusted(path, ConfigError, "The file", any_owner=True)
    try:
        if path.stat().st_size > _LARGEST:
            raise ConfigError(f"{path} has more than {_LARGEST} bytes; that is no configuration.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}.") from exc


def _look_around(source: Source, chosen: Path) -> None:
    """Tell what lies beside the configuration and does not come along."""
    notes, directory = source.findings.notes, source.directory
    if source.endpoint_id is None:
        notes.append("There is no endpoint.json: the endpoint gets a new id at its first start.")
    for other in (directory / _PROGRAM, directory / _FILE):
        if other.is_file() and other != chosen and other not in source.files:
            notes.append(f"{other} was not read; {chosen.name} decides.")
    environment = directory / "user_environment.yaml"
    if environment.is_file():
        named = ", ".join(parse(_text(environment), str(environment))) or "nothing"
        reason = f"It sets {named}. Put `export NAME=VALUE` lines into worker_init instead."
        source.findings.left_out.append(Remark(environment.name, None, reason))
    if (directory / "identity_mapping_config.json").is_file():
        reason = "Identities are not mapped to accounts; an endpoint runs for its one account."
        source.findings.left_out.append(Remark("identity_mapping_config.json", None, reason))
    unsent = directory / "unacked_results"
    count = sum(1 for _ in unsent.iterdir()) if unsent.is_dir() else 0
    if count:
        notes.append(
            f"{unsent} holds {count} results that were never delivered; only the old endpoint can "
            "send them, so start that once more if they are wanted."
        )
