"""`configure`: write an endpoint's configuration from a profile or from a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cep import paths
from cep.cli.command import CepCommand, Shared, interactive, refuse
from cep.cli.service_options import authorities, named_service
from cep.errors import CantCreate, ConfigError, InputMissing, UsageError
from cep.safety.files import check_trusted

if TYPE_CHECKING:
    from cep.profiles.endpoint import Record
    from cep.profiles.values import Values
    from cep.profiles.variables import Variable

#: Commands that a batch system has, each with its profile; the first that is found is told.
_SCHEDULERS = (
    ("sbatch", "slurm"),
    ("bsub", "lsf"),
    ("condor_submit", "htcondor"),
    ("qconf", "gridengine"),
    ("qsub", "pbs"),
)
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
class _Asked:
    """What the command line asks for."""

    profile: str | None
    site: str | None
    profile_dir: str | None
    files: tuple[str, ...]
    assignments: tuple[str, ...]
    service: str | None
    ca_file: str | None
    endpoint_config: str | None
    named: dict[str, Any]  # values of options that are variables or keys of their own

    @property
    def options_of_the_service(self) -> frozenset[str]:
        """Which keys of the service options name, as `making.Wish.asked` wants them."""
        given = {"service_url": self.service, "ca_file": self.ca_file}
        return frozenset(name for name, value in given.items() if value is not None)

    @property
    def nothing(self) -> bool:
        """Whether `configure NAME` stands alone."""
        return not (self.profile or self.site or self.files or self.endpoint_config)


def _refuse_all(command: Callable[..., Any]) -> Callable[..., Any]:
    for option, advice in _REFUSED.items():
        harmless = ("false", "no", "0") if option == "--multi-user" else ()
        command = refuse(option, advice, harmless=harmless)(command)
    return command


@click.command(cls=CepCommand)
@click.argument("name", default="default")
@click.option("--profile", metavar="PROFILE", help="Kind of site: local, slurm, ...; auto.")
@click.option("--site", metavar="PRESET", help="A site whose values are known, e.g. polaris.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="A variable of the profile; may be given again.",
)
@click.option(
    "--vars",
    "files",
    multiple=True,
    metavar="FILE",
    help="Variables from a file of YAML or JSON; --set wins over it.",
)
@click.option("--profile-dir", metavar="DIR", help="Look for profiles here first.")
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
    site: str | None,
    assignments: tuple[str, ...],
    files: tuple[str, ...],
    profile_dir: str | None,
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
    asked = _Asked(
        profile,
        site,
        profile_dir,
        files,
        assignments,
        service,
        ca_file,
        endpoint_config,
        {key: value for key, value in named.items() if value is not None},
    )
    if endpoint_config is not None and (profile or site or files or assignments):
        raise UsageError(
            "--endpoint-config takes a whole file; --profile, --site, --vars and --set do not go "
            "with it."
        )
    root = _place(shared.base, name, update)
    old = _old_text(root) if (root / "config.yaml").is_file() else None
    new = _from_file(asked, root) if endpoint_config else _from_profile(shared, asked, root, old)
    if show_diff or (dry_run and old is not None):
        from cep.profiles.render import difference

        click.echo(difference(old or "", new.text, str(root / "config.yaml")), nl=False)
    elif dry_run:
        click.echo(new.text, nl=False)
    for note in new.notes:
        click.echo(note, err=True)
    if not dry_run:
        _write(shared, root, old, new)
    if asked.nothing and not update:
        _name_scheduler(shared, root.name)


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
    """The file to go on from; what others could have written into it must not be carried over."""
    from cep.profiles.endpoint import RECORD

    check_trusted(root, ConfigError, "The endpoint's directory")
    for file in ("config.yaml", RECORD):
        check_trusted(root / file, ConfigError, "The configuration")
    try:
        return (root / "config.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"The configuration {root / 'config.yaml'} cannot be read: {exc}."
        ) from exc


@dataclass(frozen=True, slots=True)
class _New:
    """What is to be written, and what a person should know of it."""

    text: str
    record: Record
    notes: tuple[str, ...] = ()


def _from_profile(shared: Shared, asked: _Asked, root: Path, old: str | None) -> _New:
    from cep.cli import detection
    from cep.profiles import endpoint, making
    from cep.profiles.search import SearchPath
    from cep.service.address import of_url

    earlier = endpoint.read_record(root)
    if old is not None and earlier.digest and not (earlier.profile or asked.profile or asked.site):
        raise UsageError(
            f"The configuration of {root.name} was taken from a file (by import, or by "
            "--endpoint-config), so no profile says how to change it.",
            hint=f"Change {root / 'config.yaml'} itself, or name a profile to replace all of it: "
            "--profile PROFILE",
        )
    address, url = named_service(asked.service)
    if url is None and earlier.service_url is not None:
        address = of_url(earlier.service_url)
        url = address.url
    origin = str(root / "config.yaml")
    profile, ask = detection.profile_of(shared, asked.profile, asked.site, _ask)
    made = making.make(
        making.Wish(
            profile=profile,
            site=asked.site,
            files=tuple(Path(file).expanduser() for file in asked.files),
            assignments=asked.assignments,
            named=asked.named,
            service_url=url,
            service_is_hub=not address.hosted,
            ca_file=authorities(asked.ca_file, address, earlier.ca_file),
            asked=asked.options_of_the_service,
        ),
        earlier,
        SearchPath.of(shared.base, asked.profile_dir),
        origin=origin,
        ask=ask,
    )
    if old is None:
        return _New(made.text, made.record, _unset_notes(shared, made.text, made.required, root))
    merged = making.updated(old, earlier, made, origin)
    notes = list(_unset_notes(shared, merged.text, made.required, root))
    if merged.kept:
        notes.append(f"Your own changes stay: {', '.join(merged.kept)}.")
    if merged.replaced:
        notes.append(f"Set anew in place of your own: {', '.join(merged.replaced)}.")
    if merged.comments_lost:
        notes.append("The file was written out anew; its comments are only in the old one.")
    return _New(merged.text, made.record, tuple(notes))


def _ask(values: Values) -> None:
    """Ask on the terminal for what is missing; an empty answer leaves what a preset leaves open."""
    from cep.cli import detection

    detection.tell(values)
    if not interactive():
        return
    asked: set[str] = set()
    # An answer may make another variable needed.
    while open_ones := [one for one in values.missing() if one.name not in asked]:
        variable = open_ones[0]
        asked.add(variable.name)
        answer = _answer(variable, values)
        if answer is not None:
            values.add({variable.name: answer})


def _answer(variable: Variable, values: Values) -> Any:
    proposal = values.detected.get(variable.name)
    if proposal is not None:
        click.echo(f"Found here: {proposal.value} ({proposal.reason})", err=True)
    example = "" if variable.example is None else f" Example: {variable.example}"
    click.echo(f"{variable.description}{example}", err=True)
    return click.prompt(
        variable.name,
        default="" if proposal is None else str(proposal.value),
        show_default=proposal is not None,
        value_proc=_checked(variable, may_be_empty=variable.name in values.required),
        err=True,
    )


def _checked(variable: Variable, *, may_be_empty: bool) -> Callable[[str], Any]:
    from cep.profiles.variables import WrongVariable

    def read(text: str) -> Any:
        try:
            value = variable.read_word(text)
        except WrongVariable as exc:
            raise click.UsageError(f"It must be {exc}.") from exc
        if value is None and not may_be_empty:
            raise click.UsageError("It is needed.")
        return value

    return read


def _unset_notes(
    shared: Shared, text: str, required: tuple[str, ...], root: Path
) -> tuple[str, ...]:
    """A sentence for each value that the owner still has to write."""
    from cep.config.unset import placeholder

    notes = []
    for number, line in enumerate(text.splitlines(), 1):
        for name in required:
            if line.endswith(placeholder(name)):
                notes.append(
                    f"The variable {name} is not set, and the endpoint does not start before it "
                    f"is: write it into line {number} of {root / 'config.yaml'}, or run: "
                    f"{shared.program} configure {root.name} --update --set {name}=VALUE"
                )
    return tuple(notes)


def _name_scheduler(shared: Shared, name: str) -> None:
    """Say so when this host belongs to a batch system, which the default file does not use."""
    import shutil

    for command, profile in _SCHEDULERS:
        if shutil.which(command) is not None:
            click.echo(
                f"This host has {command}, but tasks of this endpoint run on this host itself. "
                f"For batch jobs: {shared.program} configure {name} --update --profile {profile}",
                err=True,
            )
            return


def _from_file(asked: _Asked, root: Path) -> _New:
    from cep.config.load import load_text
    from cep.profiles import endpoint, making
    from cep.safety.files import check_trusted
    from cep.service.address import of_url

    source = Path(str(asked.endpoint_config)).expanduser()
    check_trusted(source, ConfigError, "The configuration", any_owner=True)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InputMissing(f"The configuration {source} cannot be read: {exc}.") from exc
    settings = load_text(text, str(source))
    keys = dict(asked.named)
    address, url = named_service(asked.service)
    names_one = settings.service_url or settings.environment or settings.local_compute_services
    if asked.service is not None or (url is not None and not names_one):
        keys["service_url"] = url
    if settings.service_url is not None and asked.service is None:
        address = of_url(settings.service_url)
    trusted = None
    if asked.ca_file is not None or settings.ssl_ca_file is None:
        trusted = authorities(asked.ca_file, address, None)
    if trusted is not None:
        keys["ssl_ca_file"] = trusted
    text, notes = making.whole_file(text, str(root / "config.yaml"), keys)
    return _New(text, endpoint.Record.of(text, service_url=url, ca_file=trusted), notes)


def _write(shared: Shared, root: Path, old: str | None, new: _New) -> None:
    from cep.profiles import endpoint

    config = root / "config.yaml"
    if old is None:
        endpoint.create(root, new.text, new.record)
        click.echo(f"Created profile for endpoint named <{root.name}>\n")
        click.echo(f"\tConfiguration file: {config}\n")
        click.echo("Use the `start` subcommand to run it:\n")
        click.echo(f"\t$ {shared.program} start {root.name}")
        return
    if old == new.text:
        click.echo(f"Endpoint <{root.name}> is configured like that already; nothing changed.")
        return
    earlier = endpoint.read_record(root)
    by_hand = endpoint.edited_by_hand(old, earlier)
    other = earlier.profile != new.record.profile
    kept = endpoint.change(root, new.text, new.record, keep_old=by_hand or other)
    click.echo(f"Updated configuration of endpoint <{root.name}>: {config}")
    if kept is not None:
        why = "had been edited by hand" if by_hand else "was of another profile"
        click.echo(f"The old file {why}; it is kept as {kept}.", err=True)
    click.echo(f"It holds from the next start: {shared.program} restart {root.name}", err=True)
