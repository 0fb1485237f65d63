"""`list`: the endpoints of this account and their states, told from local truth only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cep.cli import naming
from cep.cli.command import CepCommand, Shared
from cep.cli.table import draw
from cep.safety.text import printable

_LEAST = (36, 12)  # a UUID and the longest status, as the published guide draws them


@click.command(name="list", cls=CepCommand)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_obj
def list_endpoints(shared: Shared, *, as_json: bool) -> None:
    """List the endpoints of this account."""
    found = [describe(root) for root in naming.roots(shared.base)]
    if as_json:
        click.echo(json.dumps({"endpoints": found}))
        return
    if not found:
        click.echo("No endpoints configured!")
        click.echo(f"Make one with: {shared.program} configure NAME", err=True)
        return
    rows = [
        (printable(str(entry["id"])), entry["status"], printable(entry["name"])) for entry in found
    ]
    click.echo(draw(("Endpoint ID", "Status", "Endpoint Name"), rows, least=_LEAST))


def describe(root: Path) -> dict[str, Any]:
    """Return one endpoint's line: name, id (None until registered), status, host, directory."""
    from cep.agent.state import observe

    seen = observe(naming.find(root.parent, root.name))
    return {
        "name": root.name,
        "id": seen.endpoint_id,
        "status": seen.state.value,
        "host": seen.lease.host if seen.lease is not None else None,
        "directory": str(root),
    }
