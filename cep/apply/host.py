"""What is done to systemd units: those of the host as root, those of an account as that account.

As `cep.apply.home`: verbs with plain values. Nothing below an account's home is opened for a unit
of the host; what has to be known of the endpoint comes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cep.apply import facts, unit_work
from cep.apply.unit_work import UnitFile, UnitWish
from cep.boot import install, systemd
from cep.boot.managed import Unit
from cep.boot.systemd import Manager
from cep.boot.unit import CREDENTIALS_SINCE, Mark
from cep.boot.user_manager import wait_for
from cep.errors import InputMissing, Unavailable
from cep.paths import EndpointPaths


def survey(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What an account can say of its endpoint: `home` as `home.look`, `own` as `unit_look`.

    `own` is None when the document is wrong about the endpoint, which then gets no unit at all.
    """
    from cep.apply import home  # the other verbs need nothing of it, and it takes longest to load

    seen = home.look(spec)
    if seen["wrong"] or seen["hardening"]:
        return {"home": seen, "own": None}
    places = {name: seen[name] for name in ("directory", "run", "state_dir")}
    wish = spec["wish"] if spec["wish"] is not None and spec["wish"]["user"] else None
    return {"home": seen, "own": unit_look({**spec, **places, "user": True, "wish": wish})}


def unit_look(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The units that an endpoint has in one scope, and what the wanted one would be.

    Returns:
        `found` (each `name`, `path`, `text`, `user`, `enabled`, `state`,
        `pid`, `credentials`), and with a wish `wanted`:
        `name`, `path`, `before`, `after` (None: the file stays), `store` (credentials change),
        `credentials` (it has some, then), `linger` (the account's services must be let run).

    Raises:
        Unavailable: There is no systemd to have the wanted unit.
        CantCreate: Another's file is in its place.
        ConfigError: systemd does not accept it.
    """
    if not systemd.is_running():
        if spec["wish"] is not None:
            raise Unavailable(
                "This host is not run by systemd, so it can have no unit.",
                hint="Without one the endpoint runs by itself: unit: false",
            )
        return {"found": [], "wanted": None}
    who = facts.account_named(spec["account"])
    manager = Manager(user=spec["user"])
    folder = unit_work.folder(who, user=spec["user"])
    places = _places(spec)
    found = [_unit(path, mark, manager) for path, mark in install.installed(places.root, folder)]
    wanted = None if spec["wish"] is None else _wanted(spec, manager)
    return {"found": found, "wanted": wanted}


def _unit(path: Path, mark: Mark, manager: Manager) -> dict[str, Any]:
    return {
        "name": path.name,
        "path": str(path),
        "text": path.read_text(encoding="utf-8", errors="replace"),
        "user": manager.user,
        "enabled": manager.is_enabled(path.name),
        "state": manager.property(path.name, "ActiveState") or "unknown",
        "pid": manager.main_pid(path.name),
        "credentials": bool(mark.credentials),
    }


def _wanted(spec: Mapping[str, Any], manager: Manager) -> dict[str, Any]:
    unit = _file(spec)
    unit.check_place()
    before = (
        unit.path.read_text(encoding="utf-8", errors="replace") if unit.path.is_file() else None
    )
    after = unit.text
    changed = after != before
    if changed:
        manager.verify(unit.plan.unit, after)
    client = _client(spec)
    return {
        "name": unit.plan.unit,
        "path": str(unit.path),
        "before": before or "",
        "after": after if changed else None,
        "store": client is not None and unit.credentials.stored() != client,
        "credentials": client is not None or unit.credentials.there(),
        "linger": manager.user and not _lingered(spec),
    }


def unit_put(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Write the wanted unit and its credentials.

    Raises:
        CepError: As `unit_look`; or it cannot be written.
    """
    manager = Manager(user=spec["user"])
    # Where somebody has just let its services run, the account's manager is only starting.
    if manager.user and not manager.answers(systemd.MANAGER_S):
        raise Unavailable(
            f"{spec['account']} has no service manager of its own here (systemctl --user).",
            hint="Use a unit of the host: scope: system",
        )
    unit = _file(spec)
    unit.check_place()
    client = spec["client"]
    unit.put(manager, None if client is None else (client[0], client[1]))
    return {}


def unit_do(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Have systemd `start`, `stop`, `enable` or `disable` a unit.

    Raises:
        CepError: It failed; with the agent's own exit code where that is the reason.
    """
    manager = Manager(user=spec["user"])
    name, verb = spec["unit"], spec["verb"]
    if verb in ("enable", "disable"):
        manager.do(verb, name)
    else:
        Unit(name, manager, "", enabled=False).do(verb, spec["name"])
    return {}


def unit_remove(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Stop, disable and remove a unit of ours, and its credentials.

    Returns:
        `still_lingers`: It was us who let the account's services run without a login, no unit
        needs it any more, and the account itself may not end it.
    """
    path = Path(spec["path"])
    mark = install.mark_at(path)
    unit_work.take_down(path, Manager(user=spec["user"]))
    others = any(install.mark_at(one) for one in path.parent.glob("*.service"))
    ours = mark is not None and mark.lingers and not others
    return {"still_lingers": ours and systemd.lingers(spec["account"])}


def stored_client(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The client whose credentials were stored for a unit; `client` is None without."""
    path = Path(spec["path"])
    mark = install.mark_at(path)
    if mark is None:
        raise InputMissing(f"{path} is no unit file of cep.")
    for version in (CREDENTIALS_SINCE, 0):  # as it was written, whatever runs now
        credentials = install.Credentials(
            path.name, user=spec["user"], directory=Path(mark.directory), version=version
        )
        if tuple(credentials.files) == tuple(mark.credentials):
            found = credentials.stored() or {}
            client = [found.get(install.CLIENT_ID), found.get(install.CLIENT_SECRET)]
            return {"client": client if all(client) else None}
    return {"client": None}


def unlinger(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Let an account's services no longer run without a login, where that is allowed."""
    systemd.set_lingering(spec["account"], False)
    return {}


def linger(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Let an account's services run without a login, and wait for its service manager.

    Raises:
        Unavailable: This site does not let them.
    """
    if not systemd.set_lingering(spec["account"], True):
        raise Unavailable(
            f"Services of {spec['account']} cannot be let run without a login (linger) here.",
            hint=f"As root: loginctl enable-linger {spec['account']}; or use a unit of the host",
        )
    uid = facts.account_named(spec["account"]).uid
    wait_for(Path(f"/run/user/{uid}"), systemd.MANAGER_S)
    return {}


def _file(spec: Mapping[str, Any]) -> UnitFile:
    unit = UnitFile(
        _places(spec),
        facts.account_named(spec["account"]),
        UnitWish(**spec["wish"]),
        systemd.version(),
    )
    there = unit.credentials.there()
    # The mark keeps who let the account's services run: the look and the writing must agree.
    unit.complete(
        with_credentials=spec["client"] is not None or there,
        lingers=bool(spec["user"]) and not _lingered(spec),
    )
    return unit


def _lingered(spec: Mapping[str, Any]) -> bool:
    """Whether the account's services were let run before anything was changed."""
    known = spec.get("lingered")
    return systemd.lingers(spec["account"]) if known is None else bool(known)


def _client(spec: Mapping[str, Any]) -> dict[str, str] | None:
    client = spec["client"]
    if client is None:
        return None
    return {install.CLIENT_ID: client[0], install.CLIENT_SECRET: client[1]}


def _places(spec: Mapping[str, Any]) -> EndpointPaths:
    return EndpointPaths(
        root=Path(spec["directory"]), run=Path(spec["run"]), state=Path(spec["state_dir"])
    )


VERBS = {
    verb.__name__: verb
    for verb in (survey, unit_look, unit_put, unit_do, unit_remove, stored_client, linger, unlinger)
}
