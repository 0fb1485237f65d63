"""`login`, `logout`, `whoami`: the identity behind the endpoints of this account."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cep.cli import naming
from cep.cli.command import CepCommand, Shared, interactive
from cep.cli.table import draw
from cep.errors import Unavailable

if TYPE_CHECKING:
    from cep.service.address import ServiceAddress

_SERVICE = click.option("--service", metavar="URL", help="Address of the web service or hub.")


@click.command(cls=CepCommand)
@click.option("--force", is_flag=True, help="Log in even if there is a login.")
@_SERVICE
@click.pass_obj
def login(shared: Shared, *, force: bool, service: str | None) -> None:
    """Log in to the service. Shows a link, and asks for the code that its page gives."""
    from cep.service.auth import Login

    with Login(_address(service), base=shared.base, interactive=interactive()) as found:
        done = found.ensure(force=force)
    click.echo("You are logged in." if done else "You are logged in already.", err=True)


@click.command(cls=CepCommand)
@click.option("--force", is_flag=True, help="Even if endpoints run.")
@_SERVICE
@click.pass_obj
def logout(shared: Shared, *, force: bool, service: str | None) -> None:
    """Revoke and forget the login."""
    from cep.service.auth import Login

    running = [] if force else _running(shared)
    if running:
        raise Unavailable(
            f"These endpoints are running: {', '.join(running)}. They could not register again.",
            hint="Stop them first, or log out with --force.",
        )
    with Login(_address(service), base=shared.base, interactive=False) as found:
        had_one = found.logout()
    click.echo("You are logged out." if had_one else "You were not logged in.", err=True)


@click.command(cls=CepCommand)
@click.option("--linked-identities", is_flag=True, help="All linked identities.")
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
@_SERVICE
@click.pass_obj
def whoami(shared: Shared, *, linked_identities: bool, as_json: bool, service: str | None) -> None:
    """Show who is logged in."""
    from cep.service.auth import Login

    with Login(_address(service), base=shared.base, interactive=False) as found:
        people = found.whoami(linked=linked_identities)
    if as_json:
        click.echo(json.dumps({"identities": people}))
        return
    rows = [(p["username"], p["name"], p["id"], p["email"]) for p in people]
    click.echo(draw(("Username", "Name", "ID", "Email"), rows))


def _address(url: str | None) -> ServiceAddress:
    from cep.service.address import of_url, resolve_service

    return resolve_service(None) if url is None else of_url(url, "--service")


def _running(shared: Shared) -> list[str]:
    from cep.agent.state import EndpointState, observe

    return [
        root.name
        for root in naming.roots(shared.base)
        if observe(naming.find(shared.base, root.name)).state is EndpointState.RUNNING
    ]
