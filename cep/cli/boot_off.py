"""`disable-on-boot`: an endpoint is no longer a systemd service."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cep.cli import naming
from cep.cli.command import CepCommand, Shared, set_up_logging
from cep.errors import NotAllowed


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("--now", is_flag=True, help="Stop and remove it, instead of saying how.")
@click.pass_obj
def disable_on_boot(shared: Shared, *, name: str, now: bool) -> int:
    """Say how to remove the endpoint's systemd unit, or with --now remove it."""
    set_up_logging(shared)
    from cep.apply import facts
    from cep.boot import install, systemd
    from cep.boot.unit import unit_name

    base = facts.base_under_sudo(shared.base, chosen=shared.base_is_chosen)
    root = naming.find_root(base, name)
    home = facts.account_of(root, _owner_name(root)).home
    folders = {False: systemd.SYSTEM_UNITS, True: systemd.user_units(home)}
    found = [
        (user, path)
        for user, folder in folders.items()
        for path, _ in install.installed(root, folder)
    ]
    if not now:
        shown = found or [(False, systemd.SYSTEM_UNITS / unit_name(root.name))]
        for user, path in shown:
            _say_how(user, path)
        return 0
    if not found:
        click.echo(f"Endpoint <{root.name}> has no unit of cep on this host.", err=True)
    for user, path in found:
        _take_down(root.name, user=user, path=path)
    return 0


def _say_how(user: bool, path: Path) -> None:
    scope = "systemctl --user" if user else "systemctl"
    service = path.name.removesuffix(".service")
    click.echo("Run the following to disable on-boot-persistence:")
    click.echo(f"\t{scope} stop {service}")
    click.echo(f"\t{scope} disable {service}")
    click.echo(f"\trm {path}")


def _take_down(name: str, *, user: bool, path: Path) -> None:
    from cep.apply.unit_work import take_down
    from cep.boot import systemd

    if user and os.getuid() != path.stat().st_uid:
        raise NotAllowed(
            f"{path} is a unit of its user.", hint="Run the same command as that account."
        )
    if not user and os.getuid() != 0:
        raise NotAllowed(
            f"Only root can remove {path}.", hint=f"Use: sudo cep disable-on-boot {name} --now"
        )
    manager = systemd.Manager(user=user)
    for gone in take_down(path, manager):
        click.echo(f"Removed {gone}.", err=True)
    changes = path.with_name(f"{path.name}.d")
    if changes.is_dir():
        click.echo(f"Your own changes stay in {changes}.", err=True)
    click.echo(f"> Endpoint <{name}> is no longer started on boot", err=True)


def _owner_name(root: Path) -> str | None:
    return "root" if root.stat().st_uid == 0 else None
