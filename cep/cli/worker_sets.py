"""`worker-sets`: what is lent to Pythons that lack the worker; made once, also without an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cep import paths
from cep.cli.command import HELP_OPTIONS, CepCommand, CepGroup, Shared
from cep.cli.table import draw
from cep.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])


def _directory(function: _F) -> _F:
    return click.option(
        "--directory",
        metavar="DIR",
        type=click.Path(path_type=Path),
        help="Where the sets are, as `worker_sets` in a configuration says it.",
    )(function)


_JSON = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


@click.group("worker-sets", cls=CepGroup, context_settings=HELP_OPTIONS)
def worker_sets() -> None:
    """Keep what is lent to Pythons that lack the worker.

    An environment that tasks run in needs packages of the worker. A set holds them for one version
    of Python and one kind of machine.
    """


@worker_sets.command("add", cls=CepCommand)
@click.option(
    "--python",
    "pythons",
    metavar="VERSION|PATH",
    multiple=True,
    help="For this Python, as 3.12 or /path/to/python3; may be repeated. Default: as cep's own.",
)
@click.option(
    "--wheels",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="From the wheels in this directory; no package index is asked.",
)
@click.option("--download", is_flag=True, help="Fetch, even where cep's own packages would do.")
@click.option("--machine", metavar="NAME", help="For this machine, as x86_64. Default: this one's.")
@click.option("--glibc", metavar="VERSION", help="The oldest C library that has to do, as 2.28.")
@_directory
@_JSON
@click.pass_obj
def add(
    shared: Shared,
    *,
    pythons: tuple[str, ...],
    wheels: Path | None,
    download: bool,
    machine: str | None,
    glibc: str | None,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Make a set, in the place of an older one.

    Without --wheels it is fetched from the package index that pip uses, or, for the Python that cep
    itself runs on, copied from cep's own packages.
    """
    from cep.agent.worker_sets import make

    if wheels is not None and download:
        raise UsageError("--wheels and --download contradict each other.")
    place = _place(shared, directory)
    made = make(place, pythons, wheels=wheels, machine=machine, glibc=glibc, download=download)
    for one in made:
        if as_json:
            click.echo(json.dumps(one))
        else:
            click.echo(f"{place / one['name']}: {len(one['packages'])} packages")


@worker_sets.command("list", cls=CepCommand)
@_directory
@_JSON
@click.pass_obj
def list_sets(shared: Shared, *, directory: Path | None, as_json: bool) -> None:
    """List the sets."""
    from cep.agent.worker_sets import sets_of

    place = _place(shared, directory)
    found = sets_of(place)
    if as_json:
        click.echo(json.dumps(found))
        return
    if not found:
        click.echo(f"There are no sets in {place}.", err=True)
        click.echo(f"Make one with: {shared.program} worker-sets add --python 3.12", err=True)
        return
    heading = ("Set", "Made", "From", "glibc", "Parsl", "Trouble")
    click.echo(draw(heading, [_row(one) for one in found]))


@worker_sets.command("remove", cls=CepCommand)
@click.argument("name")
@_directory
@click.pass_obj
def remove(shared: Shared, *, name: str, directory: Path | None) -> None:
    """Remove a set. Blocks that use it must have ended."""
    from cep.agent.worker_sets import remove as remove_set

    remove_set(_place(shared, directory), name)


def _place(shared: Shared, directory: Path | None) -> Path:
    if directory is None:
        return paths.worker_sets(shared.base)
    return directory.expanduser().absolute()


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["name"],
        one["made"],
        one["source"],
        f"{one['glibc']} or newer" if one["glibc"] else "any",
        one["packages"].get("parsl", ""),
        one["trouble"],
    )
