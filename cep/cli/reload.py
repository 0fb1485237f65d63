"""`reload`: a running endpoint takes over its changed configuration."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from cep.cli import managed, naming
from cep.cli.command import CepCommand, Shared, set_up_logging
from cep.cli.status import last_word
from cep.errors import Unavailable, revived

if TYPE_CHECKING:
    from pathlib import Path

    from cep.agent.state import Observed
    from cep.paths import EndpointPaths

# The agent may have to tell the service, which takes half a minute where it does not answer.
_WAIT_S = 240.0


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("--wait", is_flag=True, help="Return when it is done, with what became of it.")
@click.pass_obj
def reload(shared: Shared, *, name: str, wait: bool) -> None:
    """Have a running endpoint take over its changed configuration. Running tasks go on."""
    set_up_logging(shared)
    root = naming.find_root(shared.base, name)
    found = naming.find(shared.base, name)
    if _asked_by_systemd(_running(found)):
        outcome = _ask(found, wait=wait)  # what is wrong, the agent tells systemd
    else:
        _check(root)
        unit = managed.unit_of(root)
        if unit is not None and unit.is_going and unit.is_ours:
            outcome = _through(unit, found, wait=wait)
        else:  # the agent obeys its owner, and tells systemd itself
            outcome = _ask(found, wait=wait)
    _tell(found.name, outcome, wait=wait)


def _check(root: Path) -> None:
    """Find what is wrong here, where somebody reads it; the agent looks once more."""
    from cep.config.load import read, read_here

    # Of another account (we are root then) the agent itself looks at who can change it.
    own = root.stat().st_uid == os.getuid()
    (read_here if own else read)(root / "config.yaml")


def _running(found: EndpointPaths) -> Observed:
    from cep.agent.state import EndpointState, observe

    seen = observe(found)
    if seen.state is not EndpointState.RUNNING:
        raise Unavailable(
            f"Endpoint {found.name} does not run, so there is nothing to reload.",
            hint=f"The next start reads the configuration: cep start {found.name}",
        )
    if not seen.here:
        host = seen.lease.host if seen.lease is not None else "another host"
        raise Unavailable(
            f"Endpoint {found.name} runs on {host}, not on this host.",
            hint=f"Do it there: ssh {host} cep reload {found.name}",
        )
    return seen


def _asked_by_systemd(seen: Observed) -> bool:
    """Whether this is the unit's own ExecReload=; systemd.exec(5) on MAINPID."""
    return seen.lease is not None and os.environ.get("MAINPID") == str(seen.lease.pid)


def _ask(found: EndpointPaths, *, wait: bool) -> Mapping[str, Any]:
    from cep.agent.control import call

    return call(found, {"do": "reload", "wait": wait}, _WAIT_S)


def _through(unit: managed.Unit, found: EndpointPaths, *, wait: bool) -> Mapping[str, Any]:
    if not unit.can_reload:
        raise Unavailable(
            f"{unit.name} was written by an older cep, and systemd cannot reload it.",
            hint=f"Write it anew with: cep enable-on-boot {found.name}",
        )
    done = unit.reload(wait=wait)
    if not wait and done:
        return {}
    said = (last_word(found) or {}).get("reload")
    outcome = said if isinstance(said, dict) else {}
    if not done:
        if outcome.get("error"):
            raise revived(outcome, Unavailable)
        scope = "--user " if unit.manager.user else ""
        raise Unavailable(
            f"systemd could not reload {unit.name}.",
            hint=f"More: systemctl {scope}status {unit.name}",
        )
    return outcome


def _tell(name: str, outcome: Mapping[str, Any], *, wait: bool) -> None:
    if not wait:
        click.echo(f"Endpoint <{name}> was asked to reload its configuration", err=True)
        return
    changed = [str(key) for key in outcome.get("changed") or ()]
    restart = [str(key) for key in outcome.get("restart_needed") or ()]
    told = f"changed: {', '.join(changed)}" if changed else "nothing to change while it runs"
    click.echo(f"> Endpoint <{name}> has reloaded its configuration; {told}", err=True)
    if restart:
        click.echo(
            f"Needs a restart: {', '.join(restart)}. Use: cep restart {name}",
            err=True,
        )
