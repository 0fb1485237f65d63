"""What an endpoint's configuration is to be: from a wish and what is there to the new text.

Reads the endpoint's directory and the profiles, as the account; writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cep.config.load import load_text
from cep.errors import ConfigError, UsageError
from cep.profiles import endpoint, making
from cep.profiles.endpoint import Record
from cep.profiles.search import SearchPath
from cep.safety.files import check_trusted
from cep.service import trust
from cep.service.address import of_url


@dataclass(frozen=True, slots=True)
class Text:
    """A configuration that is to be written.

    Attributes:
        text: The file.
        record: How it was made.
        notes: Sentences for people.
        keep_old: The file that is there has what no record can give back.
    """

    text: str
    record: Record
    notes: tuple[str, ...] = ()
    keep_old: bool = False


def old_text(root: Path) -> str | None:
    """The configuration that is there; None without one.

    Raises:
        ConfigError: It cannot be read, or others can change it: what they wrote must not be
            carried over.
    """
    config = root / "config.yaml"
    if not config.is_file():
        return None
    check_trusted(root, ConfigError, "The endpoint's directory")
    for file in (config, root / endpoint.RECORD):
        check_trusted(file, ConfigError, "The configuration")
    try:
        return config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"The configuration {config} cannot be read: {exc}.") from exc


def wanted_text(spec: Mapping[str, Any], root: Path, old: str | None) -> Text:
    """What is to be written.

    Args:
        spec: A wish, as `cep.apply.home` takes it.
        root: The endpoint's directory.
        old: What its configuration is now.

    Raises:
        UsageError, ConfigError, InputMissing: The wish is wrong.
    """
    earlier = endpoint.read_record(root)
    origin = str(root / "config.yaml")
    if spec["ca_file"] is not None:
        trust.check_authorities(str(Path(spec["ca_file"]).expanduser()), "The file of ca_file,")
    if spec["config"] is not None:
        return _whole(spec, earlier, origin, old)
    return _of_profile(spec, earlier, root, origin, old)


def _whole(spec: Mapping[str, Any], earlier: Record, origin: str, old: str | None) -> Text:
    load_text(spec["config"], origin)
    keys = {
        "display_name": spec["display_name"],
        "service_url": None if spec["service"] is None else of_url(spec["service"]).url,
        "ssl_ca_file": _authorities(spec),
    }
    given = {name: value for name, value in keys.items() if value is not None}
    text, _ = making.whole_file(spec["config"], origin, given)
    record = Record.of(text, service_url=keys["service_url"], ca_file=keys["ssl_ca_file"])
    return Text(text, record, keep_old=old is not None and endpoint.edited_by_hand(old, earlier))


def _of_profile(
    spec: Mapping[str, Any], earlier: Record, root: Path, origin: str, old: str | None
) -> Text:
    named = spec["profile"] is not None or spec["site"] is not None
    if old is not None and earlier.digest and not (earlier.profile or named):
        raise UsageError(
            f"The configuration of {root.name} was taken from a file, so no profile says how to "
            "change it. Name a profile, or give the whole configuration with config."
        )
    before = _before(earlier, keeps_site=not named)
    service = spec["service"] or earlier.service_url
    address = None if service is None else of_url(service)
    values = dict(spec["vars"])
    if spec["display_name"] is not None:
        values["display_name"] = spec["display_name"]
    wish = making.Wish(
        profile=spec["profile"],
        site=spec["site"],
        named=values,
        service_url=None if address is None else address.url,
        service_is_hub=address is not None and not address.hosted,
        ca_file=_authorities(spec) or earlier.ca_file,
    )
    made = making.make(wish, before, SearchPath.of(root.parent, spec["profile_dir"]), origin=origin)
    load_text(made.text, origin)  # variables that only the owner knows must be given here
    if old is None:
        return Text(made.text, made.record)
    merged = making.declared(old, before, made, origin)
    other = earlier.profile != made.record.profile
    return Text(
        merged.text,
        made.record,
        _notes(merged.kept, merged.replaced),
        keep_old=endpoint.edited_by_hand(old, earlier) or other,
    )


def _before(earlier: Record, *, keeps_site: bool) -> Record:
    """What to go on from.

    The document is the whole wish: variables that it names no longer have their defaults again.
    """
    return Record(
        profile=earlier.profile,
        service_url=earlier.service_url,
        digest=earlier.digest,
        ca_file=earlier.ca_file,
        site=earlier.site if keeps_site else None,
        written=earlier.written,
    )


def _authorities(spec: Mapping[str, Any]) -> str | None:
    given = spec["ca_file"]
    return None if given is None else str(Path(given).expanduser().absolute())


def _notes(kept: tuple[str, ...], replaced: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if kept:
        notes.append(f"What was added to the file by hand stays: {', '.join(kept)}.")
    if replaced:
        notes.append(f"Set back, after somebody had changed it: {', '.join(replaced)}.")
    return tuple(notes)
