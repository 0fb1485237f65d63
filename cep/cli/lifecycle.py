"""`start`, `stop`, `restart`, `pause`, `resume`: the life of an endpoint's agent, from outside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cep.cli import foreground, managed, naming
from cep.cli.command import CepCommand, Shared, interactive, set_up_logging
from cep.cycles import do_not_look_while_loading
from cep.errors import CepError, InputMissing, Unavailable, UsageError
from cep.paths import EndpointPaths, looks_like_uuid

if TYPE_CHECKING:
    from cep.agent.options import StartOptions
    from cep.config.settings import EndpointSettings

_DRAIN_S = 10.0  # as globus-compute-endpoint 2.19


def _start_options(command: Callable[[Shared, str, StartOptions], int]) -> Callable[..., int]:
    """Give a command the options of a start, which it gets read and checked."""

    @click.pass_obj
    @functools.wraps(command)
    def read(
        shared: Shared,
        *,
        name: str,
        foreground: bool,
        detach: bool,
        endpoint_uuid: str | None,
        take_over: bool,
        die_with_parent: bool,
    ) -> int:
        if foreground and detach:
            raise UsageError("--foreground and --detach contradict each other.")
        options = _options(shared, foreground, endpoint_uuid, take_over, die_with_parent)
        return command(shared, name, options)

    for option in (
        click.option("--foreground", is_flag=True, help="Stay; do not detach."),
        click.option("--detach", is_flag=True, help="Detach from the terminal (the default)."),
        click.option(
            "--endpoint-uuid", metavar="UUID", help="Register under this id instead of a new one."
        ),
        click.option(
            "--take-over", is_flag=True, help="The host that ran it is gone; run it here."
        ),
        click.option(
            "--die-with-parent", is_flag=True, help="With --foreground: end when the parent ends."
        ),
    ):
        read = option(read)
    return read


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@_start_options
def start(shared: Shared, name: str, options: StartOptions) -> int:
    """Start an endpoint. Returns when it takes tasks, or with the reason why it cannot."""
    return _start(shared, name, options)


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@_start_options
def restart(shared: Shared, name: str, options: StartOptions) -> int:
    """Stop an endpoint and start it again."""
    from cep.config.load import read

    root = naming.find_root(shared.base, name)
    unit = managed.unit_of(root)
    if unit is not None and unit.owns and not options.foreground:
        set_up_logging(shared)
        read(root / "config.yaml")  # root may ask for another account's; its agent looks closer
        return _start_unit(unit, root, "restart", options)
    _settings(root)  # a wrong configuration must not cost the endpoint that runs
    _stop_one(naming.find(shared.base, name), _DRAIN_S, now=False)
    return _start(shared, name, options)


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("--all", "everything", is_flag=True, help="Every endpoint of this account.")
@click.option("--now", is_flag=True, help="Do not wait for running tasks.")
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(0, 10_000_000),
    metavar="SECONDS",
    help="How long running tasks may finish (default 10).",
)
@click.option("--remote", is_flag=True, help="Also make the service drop the endpoint.")
@click.pass_context
def stop(
    ctx: click.Context,
    *,
    name: str,
    everything: bool,
    now: bool,
    drain_s: float | None,
    remote: bool,
) -> int:
    """Stop an endpoint."""
    shared: Shared = ctx.obj
    set_up_logging(shared)
    if now and drain_s is not None:
        raise UsageError("--now and --drain contradict each other.")
    named = ctx.get_parameter_source("name") is not click.core.ParameterSource.DEFAULT
    if everything and (named or remote):
        raise UsageError("--all takes neither a name nor --remote.")
    seconds = _DRAIN_S if drain_s is None else drain_s
    if everything:
        return _stop_all(shared, seconds, now)
    found = naming.find(shared.base, name)
    if remote:
        _lock(found)
    _stop_one(found, seconds, now=now)
    return 0


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.pass_obj
def pause(shared: Shared, *, name: str) -> None:
    """Take no new tasks. What was taken goes on. Holds until `resume`, over restarts too."""
    _set_paused(naming.find(shared.base, name), True)
    click.echo(f"Endpoint <{naming.find_root(shared.base, name).name}> is paused", err=True)


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.pass_obj
def resume(shared: Shared, *, name: str) -> None:
    """Take tasks again."""
    _set_paused(naming.find(shared.base, name), False)
    click.echo(f"Endpoint <{naming.find_root(shared.base, name).name}> takes tasks again", err=True)


def _options(
    shared: Shared,
    foreground: bool,
    endpoint_uuid: str | None,
    take_over: bool,
    die_with_parent: bool,
) -> StartOptions:
    from cep.agent.options import StartOptions

    if endpoint_uuid is not None:
        if not looks_like_uuid(endpoint_uuid):
            raise UsageError(f"--endpoint-uuid takes a UUID, not {endpoint_uuid!r}.")
        import uuid

        endpoint_uuid = str(uuid.UUID(endpoint_uuid))
    if die_with_parent and not foreground:
        raise UsageError(
            "--die-with-parent needs --foreground: a detached endpoint's parent ends at once."
        )
    return StartOptions(
        endpoint_uuid=endpoint_uuid,
        take_over=take_over,
        foreground=foreground,
        debug=shared.debug,
        log_to_console=shared.log_to_console,
        no_color=shared.no_color,
        die_with_parent=die_with_parent,
    )


def _start(shared: Shared, name: str, options: StartOptions) -> int:
    set_up_logging(shared)
    if options.foreground:
        with foreground.reasons_told():
            foreground.check_reachable(shared.base, name)
            root = naming.find_root(shared.base, name)
            settings = _settings(root)
            _log_in(shared.base, settings)
            return _stay(root, settings, options)
    root = naming.find_root(shared.base, name)
    unit = managed.unit_of(root)
    if unit is not None and unit.owns:
        return _start_unit(unit, root, "start", options)
    from cep.agent.launch import start as launch

    endpoint_id = launch(
        shared.base,
        root.name,
        options,
        _note,
        before=lambda: _log_in(shared.base, _settings(root)),
    )
    _say_started(endpoint_id)
    return 0


def _start_unit(unit: managed.Unit, root: Path, verb: str, options: StartOptions) -> int:
    """Have systemd start the endpoint that it runs: there must never be a second copy."""
    if options.endpoint_uuid or options.take_over:
        raise UsageError(
            f"Endpoint {root.name} is run by systemd, as {unit.name}, without options.",
            hint=f"For once by hand: cep disable-on-boot {root.name} --now",
        )
    unit.do(verb, root.name)
    _say_started(naming.registered_id(root) or "")
    return 0


def _stay(root: Path, settings: EndpointSettings, options: StartOptions) -> int:
    do_not_look_while_loading()
    from cep.agent.agent import run

    paths = EndpointPaths.of(root, run_dir=settings.run_dir, state_dir=settings.state_dir)
    return run(paths, settings, options, _say_started, note=_note)


def _say_started(endpoint_id: str) -> None:
    click.echo(f"Starting endpoint; registered ID: {endpoint_id}")


def _note(text: str) -> None:
    click.echo(text, err=True)


def _settings(root: Path) -> EndpointSettings:
    from cep.config.load import load

    return load(root / "config.yaml")


def _log_in(base: Path, settings: EndpointSettings) -> None:
    """Make sure of a login here, where the terminal is; the agent has none to ask on."""
    from cep.service.identity import client_identity

    if client_identity(foreground.service_environment()) is not None:
        return  # the agent logs in by itself
    from cep.service.address import resolve_service
    from cep.service.auth import Login

    with Login(resolve_service(settings), base=base, interactive=interactive()) as login:
        login.ensure()


def _stop_one(found: EndpointPaths, drain_s: float, *, now: bool) -> None:
    from cep.agent.stop import stop as stop_agent

    stopped = stop_agent(found, drain_s=drain_s, now=now)
    if _stop_unit(found.root, stopped) or stopped:
        click.echo(f"> Endpoint <{found.name}> is now stopped")
    else:
        click.echo("Endpoint not active.")


def _stop_unit(root: Path, stopped: bool) -> bool:
    """End a service that waits for its next try, or that has just ended; whether there was one.

    The agent itself was asked before: it knows how long its tasks may take, and systemd does not
    start again what ended in order.
    """
    unit = managed.unit_of(root)
    if unit is None or not unit.is_going:
        return False
    if stopped and not unit.waits and not unit.is_ours:
        return True  # it ends just now, and only root could wait for that
    unit.do("stop", root.name)
    return True


def _stop_all(shared: Shared, drain_s: float, now: bool) -> int:
    """Stop every endpoint that runs; go on after a failure and return the first one's code."""
    from cep.agent.stop import stop as stop_agent

    code, stopped = 0, 0
    for root in naming.roots(shared.base):
        try:
            found = stop_agent(naming.find(shared.base, root.name), drain_s=drain_s, now=now)
            if _stop_unit(root, found) or found:
                click.echo(f"> Endpoint <{root.name}> is now stopped")
                stopped += 1
        except CepError as exc:
            code = code or shared.tell(exc)
    if not stopped and not code:
        click.echo("Endpoint not active.")
    return code


def _lock(found: EndpointPaths) -> None:
    endpoint_id = naming.registered_id(found.root)
    if endpoint_id is None:
        raise InputMissing(
            f"Endpoint {found.name} was never registered, so the service does not know it."
        )
    from cep.service.address import resolve_service
    from cep.service.client import connect

    address = resolve_service(naming.readable_settings(found.root))
    with connect(address, interactive=interactive(), base=found.root.parent) as service:
        service.lock(endpoint_id)
    click.echo(f"The service has dropped endpoint {endpoint_id} for a while.", err=True)


def _set_paused(found: EndpointPaths, paused: bool) -> None:
    """Tell the agent where one runs here; the mark in the directory holds for the next one."""
    from cep.agent.control import call
    from cep.agent.state import EndpointState, observe

    seen = observe(found)
    if seen.state is EndpointState.RUNNING:
        if not seen.here:
            host = seen.lease.host if seen.lease is not None else "another host"
            word = "pause" if paused else "resume"
            raise Unavailable(
                f"Endpoint {found.name} runs on {host}, not on this host.",
                hint=f"Do it there: ssh {host} cep {word} {found.name}",
            )
        call(found, {"do": "pause" if paused else "resume"})
    if paused:
        found.paused_mark.touch(mode=0o600)
    else:
        found.paused_mark.unlink(missing_ok=True)
