"""The document of `cep apply` -> the wanted endpoints, or everything that is wrong with it at once.

Reads the files of credentials that the document names, as the calling account; nothing else of
this host. What the document says of secrets is hidden from everything that is written afterwards
(`cep.safety.text.hide`) before anything can be told about it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from cep import paths
from cep.apply import facts, schema
from cep.apply.schema import Problem
from cep.apply.unit_work import UnitWish
from cep.boot.unit import unit_name
from cep.config.document import Lines, parse
from cep.config.written import dump
from cep.errors import CepError, ConfigError, DataError, InputMissing, NotAllowed
from cep.safety.text import hide

DRAIN_S = 600.0
STOP_S = 10.0  # as `cep stop`
_SECRET_NAME = re.compile(r"(?i)secret|password|passwd|passphrase|token|api_?key")
_CONFIGURING = ("profile", "site", "vars", "config", "display_name", "service", "ca_file")

State: TypeAlias = Literal["present", "started", "stopped", "drained", "absent"]
OnChange: TypeAlias = Literal["restart", "reload", "none"]


@dataclass(frozen=True, slots=True)
class Client:
    """A client's id and secret; the secret is never part of its text."""

    client_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One endpoint as the document wants it; `input.schema.json` says what each key means.

    Attributes:
        where: Its place in the document.
        configures: It says how the endpoint is configured; else that stays as it is.
        config: The text of a whole configuration.
        client: The client that the endpoint logs in as.
        unit: Its unit; False for none, None for leaving what is there.
        drain_s: As given, or None.
    """

    where: str
    name: str
    state: State = "started"
    run_as: str | None = None
    config_dir: str | None = None
    configures: bool = False
    profile: str | None = None
    profile_dir: str | None = None
    site: str | None = None
    vars: Mapping[str, Any] = field(default_factory=dict)
    config: str | None = None
    display_name: str | None = None
    service: str | None = None
    ca_file: str | None = None
    uuid: str | None = None
    client: Client | None = None
    unit: UnitWish | Literal[False] | None = None
    unit_enabled: bool = True
    unit_scope: str | None = None
    on_change: OnChange = "restart"
    drain_s: float | None = None
    purge: bool = False
    deregister: bool = False

    @property
    def stop_s(self) -> float:
        """Seconds that running tasks get when this wish ends the agent."""
        if self.drain_s is not None:
            return self.drain_s
        return STOP_S if self.state == "stopped" else DRAIN_S


class WrongDocument(DataError):
    """The document is wrong; nothing was changed.

    Args:
        problems: Everything that is wrong, each with the endpoint's name if that is known.
    """

    def __init__(self, problems: Sequence[tuple[str | None, Problem]]) -> None:
        count = "one thing is" if len(problems) == 1 else f"{len(problems)} things are"
        listed = "\n".join(f"  {problem.sentence}" for _, problem in problems)
        super().__init__(
            f"Nothing was changed, since {count} wrong with the wanted endpoints:\n{listed}",
            hint="What the document may say: cep apply --schema input",
        )
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Document:
    """What was read.

    Attributes:
        wanted: The entries with which nothing is wrong so far.
        problems: What is wrong with the others, and with the whole; each with the endpoint's name
            if that is known.
        holds_secret: A secret stands in the document itself.
    """

    wanted: tuple[Wanted, ...]
    problems: tuple[tuple[str | None, Problem], ...] = ()
    holds_secret: bool = False


def read(text: str, origin: str) -> Document:
    """Return the wanted endpoints and what is wrong, as far as this file can tell.

    Args:
        text: YAML or JSON.
        origin: What to call it in messages.

    Raises:
        WrongDocument: It has no list of endpoints at all.
    """
    found = _values(text, origin)
    secrets = list(_secrets(found))
    hide(*secrets)
    problems: list[tuple[str | None, Problem]] = [(None, one) for one in _repeated(found, "")]
    _drop_nulls(found)
    problems += [(_name_of(found, one.where), one) for one in schema.check(found, schema.INPUT)]
    entries, defaults = found.get("endpoints"), found.get("defaults", {})
    if not isinstance(entries, list) or not isinstance(defaults, Mapping):
        raise WrongDocument(problems)
    wanted = []
    for number, given in enumerate(entries):
        place = f"endpoints[{number}]"
        if any(one.where.startswith((place, "defaults")) for _, one in problems):
            continue
        entry = _One(_with_defaults(defaults, given), place)
        made = entry.wanted()
        problems += [(given["name"], problem) for problem in entry.problems]
        if not entry.problems:
            wanted.append(made)
    problems += _twice(wanted)
    return Document(tuple(wanted), tuple(problems), bool(secrets))


def _values(text: str, origin: str) -> Lines:
    try:
        if text.lstrip().startswith("{"):
            # JSON has escapes that YAML reads differently (characters beyond 16 bits).
            return _of_json(text)
        return parse(text, origin)
    except ConfigError as exc:
        sentence = exc.message.replace("The configuration", "The document")
        raise WrongDocument([(None, Problem("", sentence))]) from exc


def _of_json(text: str) -> Lines:
    def block(pairs: list[tuple[str, Any]]) -> Lines:
        found = Lines()
        for name, value in pairs:
            if name in found:
                found.repeated.append((name, 0))
            found[name] = value
        return found

    try:
        value = json.loads(text, object_pairs_hook=block)
        if isinstance(value, Lines):
            return value
    except (ValueError, RecursionError):
        pass  # YAML's flow form looks much the same; its parser says what is wrong
    return parse(text, "the document")


def _secrets(value: Any) -> Iterator[str]:
    """Texts under keys that are named as secrets, wherever somebody has put them."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, str) and _SECRET_NAME.search(str(name)):
                yield inner
            else:
                yield from _secrets(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _secrets(inner)


def _repeated(value: Any, where: str) -> Iterator[Problem]:
    if isinstance(value, Lines):
        for name, line in value.repeated:
            place = f"{where}.{name}" if where else name
            at = f" (line {line})" if line else ""
            yield Problem(place, f"{place} is given twice{at}.")
        for name, inner in value.items():
            yield from _repeated(inner, f"{where}.{name}" if where else name)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _repeated(inner, f"{where}[{number}]")


def _drop_nulls(document: Mapping[str, Any]) -> None:
    """A key that is null is as one that is not given: programs that write documents like that."""
    entries = document.get("endpoints")
    for block in (document.get("defaults"), *(entries if isinstance(entries, list) else ())):
        if isinstance(block, dict):
            for name in [name for name, value in block.items() if value is None]:
                del block[name]


def _name_of(document: Mapping[str, Any], where: str) -> str | None:
    """The name of the endpoint that a place of the document belongs to."""
    match = re.match(r"endpoints\[(\d+)\]", where)
    entries = document.get("endpoints")
    if match is None or not isinstance(entries, list):
        return None
    entry = entries[int(match[1])]
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return name if isinstance(name, str) else None


def _with_defaults(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    whole = {**defaults, **given}
    if "config" in given:  # it takes the place of a profile that the defaults name
        for name in ("profile", "site", "vars", "profile_dir"):
            if name not in given:
                whole.pop(name, None)
    elif defaults.get("vars") and given.get("vars"):
        whole["vars"] = {**defaults["vars"], **given["vars"]}
    return whole


def _twice(wanted: list[Wanted]) -> Iterator[tuple[str | None, Problem]]:
    seen: dict[tuple[str | None, ...], str] = {}
    for one in wanted:
        key = (one.run_as, one.config_dir, one.name)
        if key in seen:
            sentence = f"{one.where} and {seen[key]} are the same endpoint, {one.name}."
            yield one.name, Problem(one.where, sentence)
        seen.setdefault(key, one.where)


class _One:
    """One entry of the document; collects what is wrong with it beyond the schema."""

    def __init__(self, given: Mapping[str, Any], where: str) -> None:
        self._given = given
        self._where = where
        self.problems: list[Problem] = []

    def wanted(self) -> Wanted:
        """The entry as values; right only if there are no problems."""
        given = self._given
        self._check_name()
        self._check_kinds()
        unit = given.get("unit")
        known = {"name", "state", "run_as", "config_dir", "profile", "profile_dir", "site"}
        known |= {"display_name", "service", "ca_file", "on_change", "purge", "deregister"}
        plain = {name: given[name] for name in known if name in given}
        return Wanted(
            where=self._where,
            configures=any(given.get(name) is not None for name in _CONFIGURING),
            vars=dict(given.get("vars") or {}),
            config=self._config(),
            uuid=self._uuid(),
            client=self._client(),
            unit=self._unit(unit)
            if isinstance(unit, Mapping)
            else (False if unit is False else None),
            unit_enabled=unit.get("enabled", True) if isinstance(unit, Mapping) else True,
            unit_scope=unit.get("scope") if isinstance(unit, Mapping) else None,
            drain_s=None if given.get("drain_s") is None else float(given["drain_s"]),
            **plain,
        )

    def _problem(self, name: str, sentence: str) -> None:
        self.problems.append(Problem(f"{self._where}.{name}", f"{self._where}.{name}: {sentence}"))

    def _tried(self, name: str, error: CepError) -> None:
        self._problem(name, str(error).replace("\n", " "))

    def _check_name(self) -> None:
        if self._given.get("state") != "absent":  # an old name may still be removed
            try:
                paths.check_new_name(self._given["name"])
            except CepError as exc:
                self._tried("name", exc)

    def _check_kinds(self) -> None:
        given = self._given
        if "config" in given:
            for name in ("profile", "site", "vars"):
                if given.get(name) is not None:
                    self._problem(
                        name,
                        "config is a whole configuration; profile, site and vars do not go "
                        "with it.",
                    )
        if given.get("profile") == "auto":
            self._problem(
                "profile", "auto asks people; name the profile that `cep profiles detect` shows."
            )
        if "service" in given:
            from cep.service.address import of_url

            try:
                of_url(given["service"])
            except ConfigError as exc:
                self._tried("service", exc)
        if given.get("unit") is True:
            self._problem("unit", "true does not say which; give its scope: {scope: system}.")
        for name in ("ca_file", "config_dir", "profile_dir"):
            value = given.get(name)
            if value is not None and not value.startswith(("/", "~/")):
                self._problem(name, f"{value!r} must be an absolute path, or begin with ~/.")

    def _config(self) -> str | None:
        found = self._given.get("config")
        return dump(found) if isinstance(found, Mapping) else found

    def _uuid(self) -> str | None:
        import uuid

        found = self._given.get("uuid")
        return None if found is None else str(uuid.UUID(found))

    def _unit(self, given: Mapping[str, Any]) -> UnitWish:
        if given.get("name") is not None:
            try:
                unit_name("", given["name"])
            except CepError as exc:
                self._tried("unit.name", exc)
        limits = {name: given.get(name) for name in ("memory_max", "cpu_quota", "tasks_max")}
        tasks = limits["tasks_max"]
        if tasks is not None and re.fullmatch(r"[0-9]+%?|infinity", str(tasks)) is None:
            self._problem("unit.tasks_max", f"{tasks} must be a number, e.g. 4096.")
        return UnitWish(
            user=given.get("scope") == "user",
            name=given.get("name"),
            hardening=given.get("hardening", "compat"),
            any_host=given.get("any_host", False),
            replace=given.get("replace", False),
            limits={key: None if value is None else str(value) for key, value in limits.items()},
        )

    def _client(self) -> Client | None:
        given = self._given.get("credentials")
        if not given:
            return None
        kinds = {name for name, value in given.items() if value is not None}
        try:
            if kinds == {"client_id", "client_secret"}:
                return self._checked(given["client_id"], given["client_secret"])
            if kinds == {"client_id", "client_secret_file"}:
                secret = _secret_in(Path(given["client_secret_file"]).expanduser())
                return self._checked(given["client_id"], secret)
            if kinds == {"file"}:
                return self._of_file(Path(given["file"]).expanduser())
        except CepError as exc:
            self._tried("credentials", exc)
            return None
        self._problem(
            "credentials",
            "give client_id with client_secret, client_id with client_secret_file, or file.",
        )
        return None

    def _of_file(self, file: Path) -> Client | None:
        from cep.service.identity import client_identity

        identity = client_identity(facts.variables_in(file))
        if identity is None:
            raise DataError(
                f"{file} sets neither GLOBUS_COMPUTE_CLIENT_ID nor GLOBUS_COMPUTE_CLIENT_SECRET."
            )
        return self._checked(identity.client_id, identity.secret)

    def _checked(self, client_id: str, secret: str) -> Client:
        hide(secret)
        for name, value in (("client's id", client_id), ("client's secret", secret)):
            if not value.isprintable() or not value.strip():
                raise DataError(f"The {name} must be one line of printable characters.")
        return Client(client_id, secret)


def _secret_in(file: Path) -> str:
    """A secret that stands alone in a file of one's own."""
    try:
        mode = file.stat().st_mode
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise InputMissing(f"The secret's file {file} cannot be read: {exc}.") from exc
    if mode & 0o077:
        raise NotAllowed(f"Others can read {file}, which holds a secret.", hint=f"chmod 600 {file}")
    hide(text)
    return text
