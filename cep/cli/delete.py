"""`delete`: an endpoint goes away, at the service first and then here."""

from __future__ import annotations

from pathlib import Path

import click

from cep.cli import managed, naming
from cep.cli.command import CepCommand, Shared, interactive, set_up_logging
from cep.errors import AlreadyRunning, CepError, InputMissing, UsageError
from cep.paths import EndpointPaths, looks_like_uuid


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--force", is_flag=True, help="Stop it first; delete it here whatever the service says."
)
@click.option("--local-only", is_flag=True, help="Leave the registration at the service.")
@click.pass_obj
def delete(shared: Shared, *, name: str, yes: bool, force: bool, local_only: bool) -> None:
    """Delete an endpoint: its registration at the service, and its directory."""
    from cep.apply.removal import remove_directory

    set_up_logging(shared)
    try:
        found = naming.find(shared.base, name)
    except InputMissing:
        if local_only or not looks_like_uuid(name):
            raise
        _delete_registration_only(shared, name, yes)
        return
    unit = managed.unit_of(found.root)
    if unit is not None:
        raise AlreadyRunning(
            f"Endpoint {found.name} is a service of this host: {unit.words}.",
            hint=f"Remove that first: {shared.program} disable-on-boot {found.name} --now",
        )
    _refuse_running(shared, found, force)
    endpoint_id = naming.registered_id(found.root)
    _ask(f"Delete endpoint <{found.name}> and its directory {found.root}?", yes)
    if force:
        from cep.agent.stop import stop

        stop(found, now=True)
    _end_jobs(found, endpoint_id)
    if endpoint_id is not None and not local_only:
        try:
            _delete_registration(found.root, shared.base, endpoint_id)
        except CepError as exc:
            if not force:
                raise
            click.echo(f"The registration stays at the service: {exc.message}", err=True)
    remove_directory(found)
    click.echo(f"> Endpoint <{found.name}> is now deleted")


def _end_jobs(found: EndpointPaths, endpoint_id: str | None) -> None:
    """What a killed agent has left elsewhere; once the directory is gone nobody knows of it."""
    from cep.agent.leftover_jobs import cancel_leftover_jobs

    try:
        jobs = cancel_leftover_jobs(found, endpoint_id)
    except CepError as exc:
        click.echo(
            f"Jobs or containers that it may have left cannot be looked for: {exc.message}",
            err=True,
        )
        return
    if jobs:
        click.echo(f"Ended jobs or containers that it had left behind: {', '.join(jobs)}", err=True)


def _refuse_running(shared: Shared, found: EndpointPaths, force: bool) -> None:
    from cep.agent.state import EndpointState, observe

    seen = observe(found)
    if seen.state is not EndpointState.RUNNING:
        return
    if not seen.here:
        host = seen.lease.host if seen.lease is not None else "another host"
        raise AlreadyRunning(
            f"Endpoint {found.name} runs on host {host}, not on this one.",
            hint=f"Stop it there first: ssh {host} {shared.program} stop {found.name}",
        )
    if not force:
        raise AlreadyRunning(
            f"Endpoint {found.name} is running.",
            hint=f"Stop it first: {shared.program} stop {found.name}, or delete with --force",
        )


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not interactive():
        raise UsageError(
            "Standard input is no terminal, so nobody can be asked. Nothing was deleted.",
            hint="Pass --yes to delete without a question.",
        )
    click.confirm(question, abort=True, err=True)


def _delete_registration(root: Path | None, base: Path, endpoint_id: str) -> None:
    from cep.apply.removal import delete_registration

    settings = naming.readable_settings(root) if root is not None else None
    delete_registration(settings, base, endpoint_id, interactive=interactive())


def _delete_registration_only(shared: Shared, endpoint_id: str, yes: bool) -> None:
    """An id without a directory here: only the service can know it."""
    _ask(f"Delete the registration of endpoint {endpoint_id} at the service?", yes)
    _delete_registration(None, shared.base, endpoint_id)
    click.echo(f"> Endpoint <{endpoint_id}> is now deleted")
