"""`configure`: write an endpoint's configuration from a profile or from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cep import paths
from cep.cli.command import CepCommand, Shared, refuse
from cep.errors import CantCreate, ConfigError, InputMissing, UsageError

if TYPE_CHECKING:
    from cep.profiles.endpoint import Record
    from cep.service.address import ServiceAddress

_DEFAULT_PROFILE = "local"
_CORE = "There are no per-user endpoints here; an endpoint has one config.yaml."
_POLICY = "Make the policy at https://app.globus.org and give its id with --auth-policy."
_REFUSED = {
    "--multi-user": "An endpoint of cep runs tasks for the one account that started it.",
    "--core-config": _CORE + " Use --endpoint-config FILE.",
    "--manager-config": _CORE + " Use --endpoint-config FILE.",
    "--template-config": _CORE + " Use --endpoint-config FILE, or --profile and --set.",
    "--schema-config": _CORE,
    "--user-env-config": "Set variables in `worker_init`: --set worker_init='export NAME=VALUE'.",
    "--id-mapping-config": "Identities are not mapped to accounts. " + _CORE,
    "--contact-email": "The service knows the owner by the identity that registers.",
    "--auth-policy-project-id": _POLICY,
    "--auth-policy-display-name": _POLICY,
    "--auth-policy-mfa-required": _POLICY,
    "--auth-policy-description": _POLICY,
    "--allowed-domains": _POLICY,
    "--excluded-domains": _POLICY,
    "--auth-timeout": _POLICY,
}


@dataclass(frozen=True, slots=True)
class _Wish:
    """What the command line asks for."""

    profile: str | None
    assignments: tuple[str, ...]
    service: str | None
    ca_file: str | None
    endpoint_config: str | None
    named: dict[str, Any]  # values of options that are variables or keys of their own


def _refuse_all(command: Callable[..., Any]) -> Callable[..., Any]:
    for option, advice in _REFUSED.items():
        harmless = ("false", "no", "0") if option == "--multi-user" else ()
        command = refuse(option, advice, harmless=harmless)(command)
    return command


@click.command(cls=CepCommand)
@click.argument("name", default="default")
@click.option("--profile", metavar="PROFILE", help="Kind of site (default: local).")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A variable of the profile; may be given again.",
)
@click.option("--service", metavar="URL", help="Address of the web service or hub.")
@click.option("--ca-file", metavar="FILE", help="Certificate authorities to trust (PEM).")
@click.option("--endpoint-config", metavar="FILE", help="Take this configuration as it is.")
@click.option("--display-name", metavar="TEXT", help="Name shown by the service's web pages.")
@click.option("--auth-policy", metavar="UUID", help="Policy that users must meet.")
@click.option("--subscription-id", metavar="UUID", help="Subscription of the endpoint.")
@click.option("--high-assurance", is_flag=True, help="Register as a high-assurance endpoint.")
@click.option("--update", is_flag=True, help="Change an endpoint that exists.")
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would be written.")
@click.option("--diff", "show_diff", is_flag=True, help="Show what changes.")
@_refuse_all
@click.pass_obj
def configure(
    shared: Shared,
    *,
    name: str,
    profile: str | None,
    assignments: tuple[str, ...],
    service: str | None,
    ca_file: str | None,
    endpoint_config: str | None,
    display_name: str | None,
    auth_policy: str | None,
    subscription_id: str | None,
    high_assurance: bool,
    update: bool,
    dry_run: bool,
    show_diff: bool,
) -> None:
    """Make an endpoint's configuration, or with --update change it.

    NAME is 1 to 64 letters, digits, '_', '-' or '.' (default: default).
    """
    named: dict[str, Any] = {
        "display_name": display_name,
        "authentication_policy": auth_policy,
        "subscription_id": subscription_id,
        "high_assurance": high_assurance or None,
    }
    wish = _Wish(
        profile,
        assignments,
        service,
        ca_file,
        endpoint_config,
        {key: value for key, value in named.items() if value is not None},
    )
    if endpoint_config is not None and (profile is not None or assignments):
        raise UsageError(
            "--endpoint-config takes a whole file; --profile and --set do not go with it."
        )
    root = _place(shared.base, name, update)
    exists = (root / "config.yaml").is_file()
    text, record = _from_file(wish, root) if endpoint_config else _from_profile(wish, root)
    old = _old_text(root) if exists else ""
    if show_diff or (dry_run and exists):
        from cep.profiles.render import difference

        click.echo(difference(old, text, str(root / "config.yaml")), nl=False)
    elif dry_run:
        click.echo(text, nl=False)
    if dry_run:
        return
    _write(shared, root, old if exists else None, text, record)


def _place(base: Path, name: str, update: bool) -> Path:
    """The endpoint's directory, when it may be written to."""
    root = paths.endpoint_root(base, name)
    if update:
        from cep.cli.naming import find_root, is_endpoint

        # An older name is fine as long as it exists; only new names must keep the rule.
        if paths.looks_like_uuid(name) or is_endpoint(root):
            return find_root(base, name)
    paths.check_new_name(name)
    if os.path.lexists(root) and not update:
        raise CantCreate(
            f"There is an endpoint named {name} already: {root}.",
            hint=f"To change it: configure {name} --update",
        )
    if root.exists():
        raise CantCreate(f"{root} exists and is not an endpoint's directory.")
    return root


def _old_text(root: Path) -> str:
    try:
        return (root / "config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"The configuration {root / 'config.yaml'} cannot be read: {exc}."
        ) from exc


def _from_profile(wish: _Wish, root: Path) -> tuple[str, Record]:
    from cep.profiles import catalog, endpoint, render
    from cep.service.address import of_url

    before = endpoint.read_record(root)
    profile = catalog.find(wish.profile or before.profile or _DEFAULT_PROFILE)
    values = dict(before.values) if before.profile == profile.name else {}
    values.update(wish.named)
    values.update(render.chosen(profile, wish.assignments))
    render.check_names(profile, values)
    address, url = _service(wish.service)
    if url is None and before.service_url is not None:
        address = of_url(before.service_url)
        url = address.url
    authorities = _authorities(wish.ca_file, address, before.ca_file)
    text = render.render(
        profile,
        values,
        service_url=url,
        service_is_hub=not address.hosted,
        ca_file=authorities,
        origin=str(root / "config.yaml"),
    )
    return text, endpoint.Record(profile.name, values, url, endpoint.digest(text), authorities)


def _from_file(wish: _Wish, root: Path) -> tuple[str, Record]:
    import yaml

    from cep.config.load import load_text
    from cep.profiles import endpoint
    from cep.service.address import of_url

    source = Path(str(wish.endpoint_config)).expanduser()
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputMissing(f"The configuration {source} cannot be read: {exc}.") from exc
    settings = load_text(text, str(source))
    keys = dict(wish.named)
    address, url = _service(wish.service)
    names_one = settings.service_url or settings.environment or settings.local_compute_services
    if wish.service is not None or (url is not None and not names_one):
        keys["service_url"] = url
    if settings.service_url is not None and wish.service is None:
        address = of_url(settings.service_url)
    authorities = None
    if wish.ca_file is not None or settings.ssl_ca_file is None:
        authorities = _authorities(wish.ca_file, address, None)
    if authorities is not None:
        keys["ssl_ca_file"] = authorities
    if keys:
        whole = {**yaml.safe_load(text), **keys}
        text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
        load_text(text, str(root / "config.yaml"))
        click.echo(
            "The options were written into the copy; comments of the file are not in it.", err=True
        )
    return text, endpoint.Record(None, {}, url, endpoint.digest(text), authorities)


def _authorities(option: str | None, address: ServiceAddress, before: str | None) -> str | None:
    """The file of authorities to write: the option's, or the shell's, or the one of before.

    Only for a service with TLS: the shell's variables are often there for other programs.
    """
    from cep.service import trust

    if option is not None:
        path = str(Path(option).expanduser().absolute())
        try:
            trust.check_authorities(path, "The file of --ca-file,")
        except ConfigError as exc:
            raise UsageError(exc.message) from exc
        return path
    if address.url.startswith("https://"):
        named = trust.of_the_shell()
        if named is not None:
            trust.check_authorities(named, "What the shell names as certificate authorities,")
            return named
    return before


def _service(option: str | None) -> tuple[ServiceAddress, str | None]:
    """The service, and the address to write into the file; None for the hosted default."""
    from cep.model import PRODUCTION
    from cep.service.address import of_url, resolve_service

    if option is not None:
        try:
            address = of_url(option, "--service")
        except ConfigError as exc:
            raise UsageError(exc.message) from exc
        return address, address.url
    address = resolve_service(None)
    return address, None if address.environment == PRODUCTION else address.url


def _write(shared: Shared, root: Path, old: str | None, text: str, record: Record) -> None:
    from cep.profiles import endpoint

    config = root / "config.yaml"
    if old is None:
        endpoint.create(root, text, record)
        click.echo(f"Created profile for endpoint named <{root.name}>\n")
        click.echo(f"\tConfiguration file: {config}\n")
        click.echo("Use the `start` subcommand to run it:\n")
        click.echo(f"\t$ {shared.program} start {root.name}")
        return
    if old == text:
        click.echo(f"Endpoint <{root.name}> is configured like that already; nothing changed.")
        return
    by_hand = endpoint.edited_by_hand(old, endpoint.read_record(root))
    kept = endpoint.change(root, text, record, keep_old=by_hand)
    click.echo(f"Updated configuration of endpoint <{root.name}>: {config}")
    if kept is not None:
        click.echo(f"The old file had been edited by hand; it is kept as {kept}.", err=True)
    click.echo(f"It holds from the next start: {shared.program} restart {root.name}", err=True)
