"""`version` and `validate`: commands that look and touch nothing."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cep import SPOKEN_ENDPOINT_VERSION, __version__
from cep.cli.command import CepCommand, Shared
from cep.errors import CepError


@click.command(cls=CepCommand)
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
def version(*, as_json: bool) -> None:
    """Show the version."""
    if as_json:
        click.echo(json.dumps({"version": __version__, "speaks": SPOKEN_ENDPOINT_VERSION}))
        return
    click.echo(f"Globus Compute endpoint version: {__version__}")


@click.command(cls=CepCommand)
@click.argument("name_or_file")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@click.pass_obj
def validate(shared: Shared, name_or_file: str, as_json: bool) -> int:
    """Check the configuration of an endpoint, or a file, without starting anything.

    Exit code 0: it is right; 78: it is wrong, and every problem is listed.
    """
    from cep.cli import naming
    from cep.config.load import read_here

    path = Path(name_or_file)
    is_file = path.is_file() or "/" in name_or_file
    if not is_file:
        path = naming.find_root(shared.base, name_or_file) / "config.yaml"
    try:
        loaded = read_here(path, strange=is_file)
    except CepError as exc:
        if not as_json:
            raise
        problems = [line.strip() for line in exc.message.splitlines()[1:]] or [exc.message]
        click.echo(
            json.dumps({"file": str(path), "valid": False, "problems": problems, "warnings": []})
        )
        return exc.exit_code
    if as_json:
        click.echo(
            json.dumps(
                {
                    "file": str(path),
                    "valid": True,
                    "problems": [],
                    "warnings": list(loaded.warnings),
                }
            )
        )
        return 0
    for warning in loaded.warnings:
        click.echo(warning, err=True)
    click.echo(f"The configuration {path} is valid.")
    return 0
