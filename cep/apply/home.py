"""What is done in an account's home, as that account: look, configure, start, stop, remove.

Each verb takes and returns plain values, since it may be asked from another process
(`cep.apply.places`): root applies the endpoints of accounts without opening anything of theirs.
"""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cep.agent.control import call
from cep.agent.state import EndpointState, Observed, observe, stored_endpoint_id
from cep.apply import facts, seal, texts
from cep.config.load import read_text
from cep.config.settings import EndpointSettings
from cep.errors import (
    CantCreate,
    CepError,
    ConfigError,
    DataError,
    InputMissing,
    Unavailable,
    UsageError,
)
from cep.paths import EndpointPaths, endpoint_root, user_dir
from cep.profiles import endpoint
from cep.safety.files import append_text

_TOLD = "told"
_RELOAD_S = 330.0  # a little more than the agent itself waits, for the service among others
#: Errors that are the document's, not this host's.
_WRONG = (UsageError, DataError, InputMissing, ConfigError)


def look(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What an endpoint is now and what its configuration would become; changes nothing.

    Returns:
        `directory`, `exists`, `before` and `after` (texts of the configuration; `after` None for
        leaving it), `notes`, `wrong` (sentences: what the document wants cannot be), `reloads` (a
        running agent can take over all of the change), `other_client` (it runs with other
        credentials than the document's), and of the endpoint `endpoint_id`, `state`, `here`,
        `host`, `pid`, `paused`, `due`, `profile`, `site`, `service`, `agent`, `login`, `shell`,
        `hub`, `run`, `state_dir`, `hardening`.

    Raises:
        CantCreate, ConfigError: What is there cannot be used.
    """
    root = _root(spec)
    old = texts.old_text(root)
    new, wrong = _wanted(spec, root, old)
    now, then = _settings(old, root), _settings(new.text if new else old, root)
    found = places_of(root, then)
    # Where a change moves its directories, the agent that runs is still in the old ones.
    seen = observe(places_of(root, now))
    record = endpoint.read_record(root) if new is None else new.record
    return {
        "directory": str(root),
        "exists": old is not None or (root / "config.py").is_file(),
        "before": old,
        "after": None if new is None or new.text == old else new.text,
        "notes": [] if new is None else list(new.notes),
        "wrong": wrong,
        "profile": record.profile,
        "site": record.site,
        "service": None if then is None else then.service_url,
        "run": str(found.run),
        "state_dir": str(found.state),
        "hardening": _hardening(then, spec.get("hardening")),
        "reloads": _reloads(now, then),
        "other_client": _other_client(found, seen, spec),
        **_login(spec, root, then, wrong),
        **_seen(found, seen),
    }


def _wanted(
    spec: Mapping[str, Any], root: Path, old: str | None
) -> tuple[texts.Text | None, list[str]]:
    """The configuration that is to be, if any is wanted, and why it cannot be."""
    if old is None and spec["state"] != "absent" and root.exists():
        raise CantCreate(
            f"{root} exists and has no config.yaml, so it is not an endpoint of this program.",
            hint=f"One of a published version is taken over by: cep import {root} --as NAME",
        )
    if spec["configures"]:
        try:
            return texts.wanted_text(spec, root, old), []
        except _WRONG as exc:
            return None, [str(exc)]
    if old is None and spec["state"] != "absent":
        return None, [
            f"There is no endpoint named {root.name} in {root.parent}, and nothing says how to "
            "configure one: give a profile."
        ]
    return None, []


def _login(
    spec: Mapping[str, Any], root: Path, settings: EndpointSettings | None, wrong: list[str]
) -> dict[str, Any]:
    """Whether an agent of this account could log in by itself, and at what.

    With a client's credentials nobody has to: then no login is looked for, since the library for
    that costs more than all the rest.
    """
    if settings is None or wrong:
        return {"login": False, "shell": False, "hub": False}
    from cep.service.address import resolve_service

    found = {"login": False, "shell": False, "hub": not resolve_service(settings).hosted}
    if spec["client"] is None and spec["state"] != "absent":
        from cep.service.identity import client_identity

        found["shell"] = client_identity() is not None
        found["login"] = not found["shell"] and facts.has_login(root.parent, settings)
    return found


def state(spec: Mapping[str, Any]) -> dict[str, Any]:
    """How an endpoint stands now: `endpoint_id`, `state`, `here`, `host`, `pid`, `paused`, ..."""
    found = _found(spec)
    return _seen(found, observe(found))


def _seen(found: EndpointPaths, seen: Observed) -> dict[str, Any]:
    running = seen.state is EndpointState.RUNNING
    exists = found.config.is_file() or (found.root / "config.py").is_file()
    lease = seen.lease
    return {
        "endpoint_id": seen.endpoint_id,
        "state": seen.state.value if exists or running else "Absent",
        "here": seen.here,
        "host": lease.host if running and lease is not None else None,
        "pid": lease.pid if running and lease is not None else None,
        "paused": found.paused_mark.exists(),
        "due": _due(found, lease.token) if running and lease is not None else None,
        "agent": _agent(found, seen) if running else None,
    }


def _reloads(now: EndpointSettings | None, wanted: EndpointSettings | None) -> bool:
    if now is None or wanted is None:
        return False
    from cep.agent.live import compare

    return not compare(now, wanted).restart


def _other_client(found: EndpointPaths, seen: Observed, spec: Mapping[str, Any]) -> bool:
    if seen.state is not EndpointState.RUNNING or seen.lease is None or spec["client"] is None:
        return False
    return not seal.fits(found.client_seal, seen.lease.token, spec["client"])


def _agent(found: EndpointPaths, seen: Observed) -> dict[str, Any]:
    answer: Mapping[str, Any] = {}
    if seen.here:
        # It may begin or end just now; that it runs is known from its lease.
        with contextlib.suppress(CepError):
            answer = call(found, {"do": "status"})
    lease = seen.lease
    return {
        "version": answer.get("version"),
        "host": lease.host if lease is not None else None,
        "pid": lease.pid if lease is not None else None,
        "state": answer.get("state"),
        "summary": answer.get("summary"),
    }


def configure(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write the configuration and the registered id, as `look` said.

    Raises:
        CantCreate: It cannot be written.
    """
    root = _root(spec)
    old = texts.old_text(root)
    new = texts.wanted_text(spec, root, old) if spec["configures"] else None
    if old is None and new is not None:
        endpoint.create(root, new.text, new.record, endpoint_id=spec["uuid"])
        return {}
    if new is not None and new.text != old:
        endpoint.change(root, new.text, new.record, keep_old=new.keep_old)
    _take_id(root, spec["uuid"])
    return {}


def _take_id(root: Path, endpoint_id: str | None) -> None:
    from cep.agent.report import write_atomically

    found = EndpointPaths.of(root)
    if endpoint_id is not None and stored_endpoint_id(found) is None:
        write_atomically(found.endpoint_json, {"endpoint_id": endpoint_id})


def mark(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Note that the agent which runs now has not seen what is about to change.

    The note is worth something as long as that very agent runs, however this process ends.
    """
    found = _found(spec)
    _mark(found, "")
    return {}


def _mark(found: EndpointPaths, more: str) -> None:
    seen = observe(found)
    if seen.state is EndpointState.RUNNING and seen.lease is not None:
        found.restart_due.unlink(missing_ok=True)
        with append_text(found.restart_due) as file:
            file.write(seen.lease.token + more)


def _due(found: EndpointPaths, token: str) -> str | None:
    """What the running agent does not have yet.

    Returns:
        `untold`: it was not asked to take over a change; `told`: it was, and needs a restart for
        some of it; None: nothing.
    """
    try:
        noted, _, told = found.restart_due.read_text(encoding="utf-8").partition(" ")
    except (OSError, UnicodeDecodeError):
        return None
    if noted != token:
        return None
    return _TOLD if told == _TOLD else "untold"


def start(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Start the agent, detached; returns when it takes tasks.

    Raises:
        CepError: With the agent's own sentence and exit code.
    """
    from cep.agent.launch import start as launch
    from cep.agent.options import StartOptions

    found = _found(spec)
    notes: list[str] = []
    secrets = {}
    if spec.get("client") is not None:
        names = ("GLOBUS_COMPUTE_CLIENT_ID", "GLOBUS_COMPUTE_CLIENT_SECRET")
        secrets = dict(zip(names, spec["client"], strict=True))
    launch(found.root.parent, found.name, StartOptions(), notes.append, secrets=secrets)
    found.restart_due.unlink(missing_ok=True)
    lease = observe(found).lease
    if lease is not None:
        seal.put(found.client_seal, lease.token, spec.get("client"))
    return {"notes": notes}


def stop(spec: Mapping[str, Any]) -> dict[str, Any]:
    """End the agent, its running tasks get `drain_s`; also cancels jobs that a dead one left.

    Raises:
        CepError: It could not be ended, or runs on another host.
    """
    from cep.agent.stop import stop as stop_agent

    stopped = stop_agent(_found(spec), drain_s=float(spec["drain_s"]))
    return {"stopped": stopped}


def reload(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Have the running agent take over the configuration.

    Returns:
        `restart_needed`: It cannot, without a restart.

    Raises:
        CepError: It refuses the configuration, or does not answer.
    """
    found = _found(spec)
    answer = call(found, {"do": "reload", "wait": True}, timeout_s=_RELOAD_S)
    keys = [str(key) for key in answer.get("restart_needed") or ()]
    notes = [f"Needs a restart: {', '.join(keys)}."] if keys else []
    if keys:
        _mark(found, f" {_TOLD}")
    else:
        found.restart_due.unlink(missing_ok=True)
    return {"restart_needed": bool(keys), "notes": notes}


def deregister(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Delete the registration at the service, and forget the id.

    Raises:
        CepError: As the service says; one that it does not know any more is no error.
    """
    from cep.apply.removal import delete_registration, is_known
    from cep.service.identity import ClientIdentity

    found = _found(spec)
    settings = _settings_of(found.root)
    endpoint_id = observe(found).endpoint_id
    if endpoint_id is None:
        return {}
    client = spec.get("client")
    identity = None if client is None else ClientIdentity(*client)
    try:
        delete_registration(settings, found.root.parent, endpoint_id, identity=identity)
    except Unavailable:
        if is_known(settings, found.root.parent, endpoint_id, identity=identity):
            raise
    found.endpoint_json.unlink(missing_ok=True)
    return {}


def purge(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the endpoint's directory, and what it keeps elsewhere.

    Raises:
        CantCreate: Not all of it could be removed.
    """
    from cep.apply.removal import remove_directory

    remove_directory(_found(spec))
    return {}


def names(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The names of all endpoints in the user directory."""
    base = _base(spec)
    try:
        found = sorted(entry.name for entry in base.iterdir() if entry.is_dir())
    except FileNotFoundError:
        found = []
    return {
        "names": [
            name
            for name in found
            if any((base / name / file).is_file() for file in ("config.yaml", "config.py"))
        ],
        "account": getpass.getuser(),
    }


def _base(spec: Mapping[str, Any]) -> Path:
    chosen = spec["config_dir"]
    if chosen is not None:
        return Path(chosen).expanduser().absolute()
    return user_dir()


def _root(spec: Mapping[str, Any]) -> Path:
    return endpoint_root(_base(spec), spec["name"])


def _found(spec: Mapping[str, Any]) -> EndpointPaths:
    root = _root(spec)
    return places_of(root, _settings_of(root))


def places_of(root: Path, settings: EndpointSettings | None) -> EndpointPaths:
    """The endpoint's files; in their usual places when its configuration cannot be read."""
    return EndpointPaths.of(root) if settings is None else facts.places(root, settings)


def _settings_of(root: Path) -> EndpointSettings | None:
    try:
        return _settings((root / "config.yaml").read_text(encoding="utf-8"), root)
    except (OSError, UnicodeDecodeError):
        return None


def _settings(text: str | None, root: Path) -> EndpointSettings | None:
    if text is None:
        return None
    try:
        return read_text(text, str(root / "config.yaml")).settings
    except CepError:
        return None


def _hardening(settings: EndpointSettings | None, level: str | None) -> str | None:
    """Why the wanted level of the unit cannot be, or None."""
    if settings is None or level is None:
        return None
    try:
        facts.check_hardening(settings, level)
    except ConfigError as exc:
        return str(exc)
    return None


VERBS = {
    verb.__name__: verb
    for verb in (look, state, configure, mark, start, stop, reload, deregister, purge, names)
}
