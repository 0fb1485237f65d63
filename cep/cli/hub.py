"""`cep hub`: serve, stop, status, env, and the hub's clients."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cep.cli.command import HELP_OPTIONS, CepCommand, CepGroup, shared
from cep.errors import InputMissing
from cep.safety.text import printable

if TYPE_CHECKING:
    from cep.hub.options import HubFiles, HubOptions
    from cep.hub.running import RunningHub


_SDK_ADDRESSES = ("http://localhost:5000", "http://127.0.0.1:5000")
_LIBRARIES = ("pamqp", "sqlalchemy", "starlette", "urllib3", "uvicorn")  # the extra `hub`


class _HubGroup(CepGroup):
    """A group whose commands have the shared options."""

    command_class = CepCommand
    group_class = type


def _state_dir_option(command: Any) -> Any:
    return click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        default=None,
        help="The hub's directory.  [default: hub in the user directory]",
    )(command)


def _json_option(command: Any) -> Any:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


def _keep_option(name: str, default: float, text: str) -> Callable[[Any], Any]:
    kind: Any = click.IntRange(0) if isinstance(default, int) else click.FloatRange(0)
    return click.option(name, type=kind, default=default, show_default=True, help=text)


def _files(state_dir: Path | None) -> HubFiles:
    from cep.hub.options import HubFiles, default_state_dir

    return HubFiles((state_dir or default_state_dir()).expanduser().absolute())


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).expanduser().absolute())


def _ask(
    files: HubFiles, method: str, path: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    from cep.hub.running import ask, no_hub, read_running

    running = read_running(files)
    if running is None:
        raise no_hub(files)
    return ask(running, method, path, body)


def _check_libraries() -> None:
    """Say what to install when the extra `hub` is not there."""
    from importlib.util import find_spec

    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputMissing(
            f"The hub needs libraries that cannot be found: {', '.join(missing)}.",
            hint="Install them: pip install 'cep-endpoint[hub]'",
        )


def _hide_command_line() -> None:
    """Take what was typed, which may hold passwords, out of what `ps` shows."""
    import setproctitle

    setproctitle.setproctitle("cep hub serve")


@click.group(cls=_HubGroup, context_settings=HELP_OPTIONS)
def hub() -> None:
    """Serve endpoints and the SDK from this machine: REST and AMQP, no other service."""


@hub.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5000,
    show_default=True,
    help="TCP port of the REST service; 0 lets the system choose.",
)
@_state_dir_option
@click.option("--public-url", metavar="URL", help="How clients reach the REST service.")
@click.option("--public-amqp-url", metavar="URL", help="How clients reach the broker.")
@click.option(
    "--amqp-url",
    metavar="URL|@FILE",
    envvar="CEP_HUB_AMQP_URL",
    help="Use a RabbitMQ, amqp(s)://USER:PASSWORD@HOST[:PORT]/VHOST, not the embedded broker.",
)
@click.option(
    "--amqp-management-url",
    metavar="URL|@FILE",
    envvar="CEP_HUB_AMQP_MANAGEMENT_URL",
    help="RabbitMQ's management API.  [default: the same host, port 15672 or 15671]",
)
@click.option(
    "--database-url",
    metavar="URL|@FILE",
    envvar="CEP_HUB_DATABASE_URL",
    help="Use a PostgreSQL, postgresql+psycopg://USER:PASSWORD@HOST/DATABASE, not SQLite.",
)
@click.option(
    "--migrate-database",
    is_flag=True,
    help="Let the hub bring an older PostgreSQL database to its schema; take a dump first.",
)
@_keep_option("--keep-unread-days", 14.0, "Days for results that no client has fetched.")
@_keep_option("--keep-fetched-days", 3.0, "Days for results after a client has fetched them.")
@_keep_option("--keep-results-bytes", 10 * 1024**3, "Bytes of all results together.")
@_keep_option("--keep-functions-days", 180.0, "Days for functions after their last submit.")
@click.option("--tls-cert", metavar="FILE", help="Certificate (PEM) for https:// and amqps://.")
@click.option("--tls-key", metavar="FILE", help="Its key (PEM).")
@click.option("--tls-ca", metavar="FILE", help="Authorities that clients are to trust (PEM).")
@click.option("--insecure", is_flag=True, help="Serve other hosts without TLS.")
@click.option(
    "--embedded-broker-exposed", is_flag=True, help="Let other hosts reach the embedded broker."
)
@click.option(
    "--audit-log",
    metavar="FILE|journald",
    help="Where the audit goes.  [default: audit.log in the state directory]",
)
@click.option("--detach", is_flag=True, help="Return when the hub serves; it goes on.")
@click.pass_context
def serve(
    ctx: click.Context,
    *,
    host: str,
    port: int,
    state_dir: Path | None,
    public_url: str | None,
    public_amqp_url: str | None,
    amqp_url: str | None,
    amqp_management_url: str | None,
    database_url: str | None,
    migrate_database: bool,
    tls_cert: str | None,
    tls_key: str | None,
    tls_ca: str | None,
    insecure: bool,
    embedded_broker_exposed: bool,
    audit_log: str | None,
    detach: bool,
    keep_unread_days: float,
    keep_fetched_days: float,
    keep_results_bytes: int,
    keep_functions_days: float,
) -> None:
    """Serve until stopped.

    The addresses of RabbitMQ and PostgreSQL hold passwords, and a command line can be read by
    everybody on the machine: name a file (@FILE), or set CEP_HUB_AMQP_URL,
    CEP_HUB_AMQP_MANAGEMENT_URL and CEP_HUB_DATABASE_URL. What is kept (--keep-...) is kept for
    ever with 0.
    """
    if amqp_url or amqp_management_url or database_url:
        _hide_command_line()
    _check_libraries()
    from cep.errors import ConfigError
    from cep.hub.options import HubOptions, check_urls, read_address

    check_urls(public_url, public_amqp_url)
    if amqp_management_url and not amqp_url:
        raise ConfigError("--amqp-management-url is of use with --amqp-url only.")
    options = HubOptions(
        state_dir=_files(state_dir).root,
        host=host,
        port=port,
        public_url=public_url,
        public_amqp_url=public_amqp_url,
        amqp_url=read_address(amqp_url, "--amqp-url"),
        amqp_management_url=read_address(amqp_management_url, "--amqp-management-url"),
        database_url=read_address(database_url, "--database-url"),
        migrate_database=migrate_database,
        keep_unread_days=keep_unread_days,
        keep_fetched_days=keep_fetched_days,
        keep_results_bytes=keep_results_bytes,
        keep_functions_days=keep_functions_days,
        tls_cert=_absolute(tls_cert),
        tls_key=_absolute(tls_key),
        tls_ca=_absolute(tls_ca),
        insecure=insecure,
        embedded_broker_exposed=embedded_broker_exposed,
        audit_log=audit_log,
    )
    if detach:
        _serve_detached(options)
    else:
        _serve_here(options, debug=shared(ctx).debug)


def _serve_detached(options: HubOptions) -> None:
    from cep.hub.launch import start_detached

    _say_ready(start_detached(options))


def _serve_here(options: HubOptions, *, debug: bool) -> None:
    from sdnotify import SystemdNotifier

    from cep.hub.app import serve as serve_hub
    from cep.hub.logs import log_to_stderr

    def tell(running: RunningHub) -> None:
        _say_ready(running)
        # For a unit of Type=notify; sd_notify(3). Without such a manager it does nothing.
        SystemdNotifier().notify(f"READY=1\nSTATUS=serves at {running.public_url}")

    log_to_stderr(debug=debug)
    serve_hub(options, tell)


def _say_ready(running: RunningHub) -> None:
    click.echo(f"The hub serves at {running.public_url} (process {running.pid}).", err=True)


@hub.command()
@_state_dir_option
def stop(state_dir: Path | None) -> None:
    """Stop the hub; what it keeps stays."""
    from cep.hub.launch import stop as stop_hub

    stopped = stop_hub(_files(state_dir))
    click.echo("The hub is stopped." if stopped else "The hub is not running.", err=True)


@hub.command()
@_state_dir_option
@_json_option
def status(state_dir: Path | None, as_json: bool) -> None:
    """Say whether the hub serves, and what it has done (exit code 69 when it does not)."""
    found = _ask(_files(state_dir), "GET", "/status")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"The hub serves at {found['url']} (process {found['pid']}).")
    click.echo(
        f"{found['endpoints']} endpoints ({found['endpoints_online']} online), "
        f"{found['clients']} clients, {found['results']} results since its start."
    )


@hub.command()
@_state_dir_option
def env(state_dir: Path | None) -> None:
    """Print `export` lines that point the SDK and cep at this hub; source them."""
    from cep.hub.running import ask, no_hub, read_running

    files = _files(state_dir)
    running = read_running(files)
    if running is None:
        raise no_hub(files)
    found = ask(running, "POST", "/env")
    lines = {
        "GLOBUS_SDK_ENVIRONMENT": "local",
        "GLOBUS_SDK_SERVICE_URL_AUTH": f"{found['url']}/",
        "GLOBUS_COMPUTE_CLIENT_ID": found["client_id"],
        "GLOBUS_COMPUTE_CLIENT_SECRET": found["client_secret"],
    }
    if running.ca_file is not None:
        # The first for globus-sdk's REST, the second for the SDK's AMQP; cep takes either.
        lines |= {"GLOBUS_SDK_VERIFY_SSL": running.ca_file, "SSL_CERT_FILE": running.ca_file}
    for name, value in lines.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    if running.certificate is not None and running.ca_file is None:
        click.echo(
            "Clients that do not know the authority of the hub's certificate cannot use it; name "
            "it with `cep hub serve --tls-ca FILE`.",
            err=True,
        )
    if found["url"] not in _SDK_ADDRESSES:
        click.echo(
            f"The SDK itself knows http://localhost:5000 only, and this hub is {found['url']}: see "
            "docs/hub.md.",
            err=True,
        )


@hub.group(context_settings=HELP_OPTIONS)
def client() -> None:
    """The accounts of this hub: who runs endpoints and submits functions."""


def _print_credentials(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"GLOBUS_COMPUTE_CLIENT_ID={found['client_id']}")
    click.echo(f"GLOBUS_COMPUTE_CLIENT_SECRET={found['client_secret']}")
    click.echo("The secret is shown this once.", err=True)


@client.command()
@click.argument("name")
@_state_dir_option
@_json_option
def add(name: str, state_dir: Path | None, as_json: bool) -> None:
    """Make a client called NAME and print its id and secret."""
    _print_credentials(_ask(_files(state_dir), "POST", "/clients", {"name": name}), as_json)


@client.command("list")
@_state_dir_option
@_json_option
def list_clients(state_dir: Path | None, as_json: bool) -> None:
    """List the clients."""
    found = _ask(_files(state_dir), "GET", "/clients")["clients"]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for one in found:
        state = "disabled" if one["disabled"] else "enabled"
        click.echo(f"{one['client_id']}  {state:<8}  {printable(one['name'])}")


@client.command()
@click.argument("client_name", metavar="CLIENT")
@_state_dir_option
@_json_option
def rotate(client_name: str, state_dir: Path | None, as_json: bool) -> None:
    """Give CLIENT (name or id) a new secret; the old one, its tokens and its connections end."""
    _print_credentials(_change(state_dir, "POST", client_name, "/rotate"), as_json)


@client.command()
@click.argument("client_name", metavar="CLIENT")
@_state_dir_option
def disable(client_name: str, state_dir: Path | None) -> None:
    """Cut CLIENT (name or id), its endpoints and their connections off at once."""
    found = _change(state_dir, "POST", client_name, "/disable")
    click.echo(
        f"The client {found['name']} is disabled; {found['connections_closed']} connections were "
        "closed.",
        err=True,
    )


@client.command()
@click.argument("client_name", metavar="CLIENT")
@_state_dir_option
def enable(client_name: str, state_dir: Path | None) -> None:
    """Let a disabled CLIENT (name or id) in again."""
    found = _change(state_dir, "POST", client_name, "/enable")
    click.echo(f"The client {found['name']} is enabled.", err=True)


@client.command()
@click.argument("client_name", metavar="CLIENT")
@_state_dir_option
def remove(client_name: str, state_dir: Path | None) -> None:
    """Forget CLIENT (name or id), its endpoints and its functions."""
    found = _change(state_dir, "DELETE", client_name, "")
    click.echo(f"The client {found['name']} is removed.", err=True)


def _change(state_dir: Path | None, method: str, name: str, action: str) -> dict[str, Any]:
    from urllib.parse import quote

    return _ask(_files(state_dir), method, f"/clients/{quote(name, safe='')}{action}")
