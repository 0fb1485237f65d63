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
    warnings = [*loaded.warnings, *_about_variables(shared, path)]
    if as_json:
        click.echo(
            json.dumps(
                {
                    "file": str(path),
                    "valid": True,
                    "problems": [],
                    "warnings": warnings,
                }
            )
        )
        return 0
    for warning in warnings:
        click.echo(warning, err=True)
    click.echo(f"The configuration {path} is valid.")
    return 0


def _about_variables(shared: Shared, path: Path) -> list[str]:
    """What is wrong with the variables that `configure` keeps for the endpoint's next update."""
    from cep.profiles import endpoint, making
    from cep.profiles.search import SearchPath

    earlier = endpoint.read_record(path.parent)
    if path.name != "config.yaml" or earlier.profile is None:
        return []
    wish = making.Wish(service_url=earlier.service_url, ca_file=earlier.ca_file)
    try:
        making.make(wish, earlier, SearchPath.of(shared.base), origin=str(path))
    except CepError as exc:
        return [f"The next `configure --update` would be refused. {exc.message}"]
    return []
