"""`blocks`: the batch jobs (or processes) that workers run in, and whether more are asked for."""

from __future__ import annotations

import json
from typing import Any

import click

from cep.cli import naming
from cep.cli.block_lines import block_lines
from cep.cli.command import CepCommand, Shared
from cep.errors import Unavailable
from cep.paths import EndpointPaths
from cep.safety.text import printable


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.argument(
    "action", type=click.Choice(["list", "pause", "resume"]), default="list", required=False
)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_obj
def blocks(shared: Shared, *, name: str, action: str, as_json: bool) -> None:
    """List an endpoint's blocks, ask for no more (pause), or ask again (resume).

    `resume` also forgets the failures after which the endpoint has paused by itself.
    """
    found = naming.find(shared.base, name)
    agent = _ask(found, action)
    if action == "pause":
        click.echo(f"Endpoint <{found.name}> asks for no more blocks", err=True)
    elif action == "resume":
        click.echo(f"Endpoint <{found.name}> asks for blocks again", err=True)
    engine = agent.get("engine")
    engine = engine if isinstance(engine, dict) else {}
    if as_json:
        told = {key: engine.get(key) for key in ("blocks", "ended_blocks", "breaker")}
        click.echo(json.dumps({"name": found.name, **told}))
    elif action == "list":
        for line in block_lines(engine, found.name) or ["There are no blocks."]:
            click.echo(printable(line).encode("utf-8", "replace").decode())


def _ask(found: EndpointPaths, action: str) -> dict[str, Any]:
    """Ask the agent; one that does not run keeps nothing but the count of failures."""
    from cep.agent.control import call
    from cep.agent.state import EndpointState, observe

    seen = observe(found)
    if seen.state is EndpointState.RUNNING:
        if not seen.here:
            host = seen.lease.host if seen.lease is not None else "another host"
            raise Unavailable(
                f"Endpoint {found.name} runs on {host}, not on this host.",
                hint=f"Ask there: ssh {host} cep blocks {found.name} {action}",
            )
        return call(found, {"do": "blocks", "action": action})
    if action == "pause":
        raise Unavailable(f"Endpoint {found.name} does not run, so it asks for no blocks.")
    if action == "resume":
        found.blocks_file.unlink(missing_ok=True)
    return {}
