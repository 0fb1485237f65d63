"""From what a person types to an endpoint's directory: its name, or the UUID it registered with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from cep import paths
from cep.errors import InputMissing, UsageError
from cep.paths import EndpointPaths

if TYPE_CHECKING:
    from cep.config.settings import EndpointSettings

DEFAULT_NAME = "default"


def find(base: Path, name: str) -> EndpointPaths:
    """Return the files of an existing endpoint, its two halves placed as its configuration says.

    A configuration that cannot be read does not hinder: the default places are used then, so that
    `stop` and `delete` still work.

    Args:
        base: The user directory.
        name: Name or UUID.

    Raises:
        InputMissing: There is no such endpoint.
        UsageError: The text can be no endpoint's name.
    """
    root = find_root(base, name)
    settings = readable_settings(root)
    if settings is None:
        return EndpointPaths.of(root)
    return EndpointPaths.of(root, run_dir=settings.run_dir, state_dir=settings.state_dir)


def find_root(base: Path, name: str) -> Path:
    """Return the directory of an existing endpoint.

    Names that the published endpoint allowed and this one does not still work when they exist.
    """
    root = paths.endpoint_root(base, name)
    if paths.looks_like_uuid(name) and not is_endpoint(root):
        wanted = name.replace("-", "").lower()
        for candidate in roots(base):
            known = registered_id(candidate)
            if known is not None and known.replace("-", "").lower() == wanted:
                return candidate
        raise InputMissing(
            f"No endpoint in {base} was registered with the id {name}.",
            hint="Show them with: cep list",
        )
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise UsageError(f"{name!r} is not the name of an endpoint.")
    if not is_endpoint(root):
        raise InputMissing(
            f"There is no endpoint named {name} in {base}.",
            hint=f"Make one with: cep configure {name}",
        )
    return root


def is_endpoint(root: Path) -> bool:
    """Whether a directory is an endpoint's: it has a configuration."""
    return any((root / file).is_file() for file in ("config.yaml", "config.py"))


def roots(base: Path) -> list[Path]:
    """The directories of all endpoints, by name."""
    try:
        found = [entry for entry in base.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(entry for entry in found if is_endpoint(entry))


def registered_id(root: Path) -> str | None:
    """The id that the service gave the endpoint; None before its first registration."""
    try:
        found = json.loads((root / "endpoint.json").read_text(encoding="utf-8"))
        text = found["endpoint_id"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return text if isinstance(text, str) and text else None


def readable_settings(root: Path) -> EndpointSettings | None:
    """The endpoint's settings; None when its configuration is wrong."""
    from cep.config.load import read
    from cep.errors import CepError

    try:
        return read(root / "config.yaml").settings
    except CepError:
        return None
