"""`status`: what one endpoint is doing, from local truth; the service's word only when asked."""

from __future__ import annotations

import json
from typing import Any

import click

from cep.cli import managed, naming
from cep.cli.block_lines import block_lines
from cep.cli.command import CepCommand, Shared, interactive
from cep.errors import CepError
from cep.paths import EndpointPaths
from cep.safety.text import printable

_HOLDS = {
    "paused": "paused; take tasks again with: resume",
    "disk": "no new tasks: the journal's disk is full or broken",
    "audit log not writable": "no new tasks: the audit log cannot be written",
    "stopping": "stopping",
    "high mark reached": "no new tasks until some of those waiting are done",
}


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.option("--remote", is_flag=True, help="Ask the service too, whether it is online there.")
@click.pass_obj
def status(shared: Shared, *, name: str, as_json: bool, remote: bool) -> None:
    """Show what an endpoint is doing, and why nothing runs yet."""
    found = naming.find(shared.base, name)
    picture = describe(found)
    if remote:
        picture["service"] = _ask_service(found, picture["id"])
    if as_json:
        click.echo(json.dumps(picture))
        return
    for line in sentences(picture):
        click.echo(
            printable(line).encode("utf-8", "replace").decode()
        )  # JSON can hold half a surrogate pair


def describe(found: EndpointPaths) -> dict[str, Any]:
    """Return the picture of one endpoint; docs/cli.md documents the names.

    `agent` is what the agent says of itself, now or (when it cannot be asked from here) in its
    last status file; None when none runs.
    """
    from cep.agent.state import EndpointState, observe

    seen = observe(found)
    runs = seen.state is EndpointState.RUNNING
    unit = managed.unit_of(found.root)
    return {
        "name": found.name,
        "id": seen.endpoint_id,
        "status": seen.state.value,
        "host": seen.lease.host if seen.lease is not None else None,
        "pid": seen.lease.pid if seen.lease is not None and runs else None,
        "directory": str(found.root),
        "paused": found.paused_mark.exists(),
        "agent": _agent(found, seen.here) if runs else None,
        "service": None,
        "unit": None if unit is None else unit.words,
    }


def _agent(found: EndpointPaths, here: bool) -> dict[str, Any] | None:
    from cep.agent.control import call

    if here:
        try:
            return call(found, {"do": "status"})
        except CepError as exc:
            click.echo(
                f"The agent does not answer ({exc.message}) This is its last word:", err=True
            )
    return last_word(found)


def last_word(found: EndpointPaths) -> dict[str, Any] | None:
    """What the agent said of itself last, in its status file; None when nothing is to be read."""
    try:
        written = json.loads(found.status_json.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return written if isinstance(written, dict) else None


def _ask_service(found: EndpointPaths, endpoint_id: str | None) -> str | None:
    if endpoint_id is None:
        return None
    from cep.service.address import resolve_service
    from cep.service.client import connect

    address = resolve_service(naming.readable_settings(found.root))
    with connect(address, interactive=interactive(), base=found.root.parent) as service:
        return service.status(endpoint_id)


def sentences(picture: dict[str, Any]) -> list[str]:
    """The picture for people, one fact a line."""
    lines = [
        f"Endpoint:  {picture['name']}",
        f"ID:        {picture['id']}",
        f"Status:    {_state(picture)}",
    ]
    if picture.get("unit") is not None:
        lines.append(f"Unit:      {picture['unit']}")
    if picture["service"] is not None:
        lines.append(f"Service:   {picture['service']}")
    agent = picture["agent"]
    if agent is not None:
        lines += _agent_lines(agent, str(picture["name"]))
    elif picture["paused"]:
        lines.append("Holds:     " + _HOLDS["paused"])
    lines.append(f"Directory: {picture['directory']}")
    return lines


def _state(picture: dict[str, Any]) -> str:
    words = {
        "Initialized": "Initialized (never started)",
        "Stopped": "Stopped",
        "Disconnected": "Disconnected (ended without being stopped; `start` cleans up first)",
    }
    if picture["status"] != "Running":
        return words.get(picture["status"], str(picture["status"]))
    where = f" on {picture['host']}" if picture["host"] else ""
    pid = f", process {picture['pid']}" if picture["pid"] else ""
    return f"Running{where}{pid}"


def _part(agent: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of the picture; empty when a file of another version or hand has something else."""
    found = agent.get(name)
    return found if isinstance(found, dict) else {}


def _agent_lines(agent: dict[str, Any], name: str) -> list[str]:
    engine, tasks, links = (_part(agent, name) for name in ("engine", "tasks", "links"))
    lines = [f"Since:     {agent.get('since', '')} (cep {agent.get('version', '')})"]
    down = [name for name, up in links.items() if not up]
    lines.append("Links:     " + (f"down: {', '.join(down)}" if down else "up"))
    troubles = agent.get("link_troubles")
    if isinstance(troubles, dict):
        lines += [f"           {why}" for why in dict.fromkeys(map(str, troubles.values()))]
    holds = agent.get("holds")
    for hold in map(str, holds if isinstance(holds, list) else ()):
        lines.append("Holds:     " + _HOLDS.get(hold, hold))
        if hold in ("disk", "audit log not writable") and agent.get("disk"):
            lines.append(f"           {agent['disk']}")
    lines.append(
        f"Engine:    {engine.get('type', '')}, {engine.get('workers', 0)} workers, "
        f"{engine.get('idle_workers', 0)} idle"
    )
    if engine.get("encrypted") is False:
        lines.append("           NOT ENCRYPTED between the endpoint and its workers")
    if engine.get("summary"):
        lines.append(f"           {engine['summary']}")
    lines += block_lines(engine, name)
    reload = _part(agent, "reload")
    if reload.get("error"):
        lines.append(f"Reload:    failed at {reload.get('at', '')}: {reload['error']}")
    elif isinstance(reload.get("restart_needed"), list) and reload["restart_needed"]:
        keys = ", ".join(map(str, reload["restart_needed"]))
        lines.append(f"Reload:    needs a restart: {keys}")
    lines.append(
        f"Tasks:     {tasks.get('running', 0)} running, {tasks.get('waiting', 0)} waiting, "
        f"{tasks.get('unsent', 0)} results to send, {tasks.get('answered', 0)} answered"
    )
    return lines
