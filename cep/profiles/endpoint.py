"""Make or change an endpoint's directory: the only place that writes configurations.

Everything is checked before anything is written; files are written beside their place and moved
there, so that a reader sees the old file or the new one. Directory 0700, files 0600.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cep.errors import CantCreate
from cep.safety.files import make_parents, replace_text

#: In an endpoint's directory: how its configuration was made.
RECORD = "profile.json"


@dataclass(frozen=True, slots=True)
class Record:
    """How a configuration was made, so that `--update` can go on from there.

    Attributes:
        profile: The profile's name; None when the text came from a file.
        values: What was chosen with it, by variable.
        service_url: What was written as the service's address.
        ca_file: What was written as the file of authorities to trust.
        digest: SHA-256 of the text, to notice later edits by hand.
        site: The preset's name, if one was used.
        written: The text itself, to tell a later edit from what was written; empty in records
            of earlier versions.
    """

    profile: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    service_url: str | None = None
    digest: str = ""
    ca_file: str | None = None
    site: str | None = None
    written: str = ""

    @classmethod
    def of(
        cls,
        text: str,
        *,
        profile: str | None = None,
        values: Mapping[str, Any] | None = None,
        service_url: str | None = None,
        ca_file: str | None = None,
        site: str | None = None,
    ) -> Record:
        """The record of a text that is about to be written."""
        return cls(profile, dict(values or {}), service_url, digest(text), ca_file, site, text)


def read_record(root: Path) -> Record:
    """Return the record of a directory; an empty one when there is none to be read."""
    try:
        found = json.loads((root / RECORD).read_text(encoding="utf-8"))
        return Record(
            profile=found.get("profile"),
            values=dict(found.get("values") or {}),
            service_url=found.get("service_url"),
            digest=str(found.get("digest") or ""),
            ca_file=found.get("ca_file"),
            site=found.get("site"),
            written=str(found.get("written") or ""),
        )
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return Record()


def edited_by_hand(text: str, record: Record) -> bool:
    """Whether a configuration is not the one that its record was written with."""
    return record.digest != digest(text)


def digest(text: str) -> str:
    """The digest of a configuration's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def create(root: Path, text: str, record: Record, *, endpoint_id: str | None = None) -> None:
    """Make a new endpoint's directory with its configuration.

    Args:
        root: The directory.
        text: The configuration.
        record: How it was made.
        endpoint_id: UUID that the endpoint is registered with already.

    Raises:
        CantCreate: The directory exists, or cannot be made; nothing was changed.
    """
    try:
        make_parents(root)
        # Made under another name and moved, so that no half-made endpoint is ever seen.
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=root.parent))
        try:
            replace_text(fresh / "config.yaml", text)
            replace_text(fresh / RECORD, _as_json(record))
            if endpoint_id is not None:
                replace_text(fresh / "endpoint.json", json.dumps({"endpoint_id": endpoint_id}))
            _move_in_place(fresh, root)
        except BaseException:
            for file in fresh.iterdir():
                file.unlink()
            fresh.rmdir()
            raise
    except OSError as exc:
        raise CantCreate(f"The endpoint's directory {root} cannot be made: {exc}.") from exc


def change(root: Path, text: str, record: Record, *, keep_old: bool) -> Path | None:
    """Replace an endpoint's configuration; returns where the old one was kept, if it was.

    Args:
        root: The endpoint's directory.
        text: The new configuration.
        record: How it was made.
        keep_old: Keep the old file beside it as `config.yaml.backup`.

    Raises:
        CantCreate: It cannot be written; the old file is untouched.
    """
    config, kept = root / "config.yaml", None
    try:
        if keep_old:
            kept = root / "config.yaml.backup"
            replace_text(kept, config.read_text(encoding="utf-8"))
        replace_text(config, text)
        replace_text(root / RECORD, _as_json(record))
    except OSError as exc:
        raise CantCreate(f"The configuration {config} cannot be written: {exc}.") from exc
    return kept


def _move_in_place(fresh: Path, root: Path) -> None:
    """Rename the new directory; fails when there is one already, an empty one excepted."""
    if root.exists() or root.is_symlink():
        raise FileExistsError(f"{root} exists already")
    fresh.rename(root)


def _as_json(record: Record) -> str:
    content = {
        "profile": record.profile,
        "values": dict(record.values),
        "service_url": record.service_url,
        "ca_file": record.ca_file,
        "digest": record.digest,
        "site": record.site,
        "written": record.written,
    }
    return json.dumps(content, indent=2) + "\n"
