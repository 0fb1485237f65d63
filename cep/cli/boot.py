"""`enable-on-boot`: an endpoint as a systemd service."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cep.cli import naming
from cep.cli.command import CepCommand, Shared, set_up_logging
from cep.errors import CepError, Unavailable, UsageError

if TYPE_CHECKING:
    from cep.apply.facts import Account
    from cep.apply.unit_work import UnitFile
    from cep.boot.systemd import Manager
    from cep.config.settings import EndpointSettings
    from cep.service.identity import ClientIdentity

_SIZE = "4G, 80% or infinity"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The words of one `enable-on-boot`."""

    now: bool
    only_print: bool
    hardening: str
    run_as: str | None
    unit: str | None
    take_over: bool
    any_host: bool
    credentials: str | None
    limits: Mapping[str, str | None]


@click.command(cls=CepCommand)
@click.argument("name", default=naming.DEFAULT_NAME)
@click.option("--user", "scope", flag_value="user", help="A unit of this account's own.")
@click.option("--system", "scope", flag_value="system", help="A unit of the host; needs root.")
@click.option("--now", is_flag=True, help="Enable and start it as well.")
@click.option("--print", "only_print", is_flag=True, help="Show the unit; change nothing.")
@click.option(
    "--hardening",
    type=click.Choice(("compat", "standard", "strict")),
    default="compat",
    help="How much systemd takes away from the service (default compat).",
)
@click.option("--run-as", metavar="USER", help="The account (default: the directory's owner).")
@click.option("--unit-name", "unit", metavar="NAME", help="Another name for the unit.")
@click.option("--replace", "take_over", is_flag=True, help="Take over a published endpoint's unit.")
@click.option("--any-host", is_flag=True, help="A user unit may start on every host of the home.")
@click.option(
    "--credentials",
    metavar="FILE",
    help="File with NAME=value lines of a client's id and secret (default: the environment).",
)
@click.option("--memory-max", metavar="SIZE", help=f"Memory of the service, e.g. {_SIZE}.")
@click.option("--cpu-quota", metavar="PERCENT", help="Processor time, e.g. 400% for four cores.")
@click.option("--tasks-max", metavar="NUMBER", help="Processes and threads.")
@click.pass_obj
def enable_on_boot(
    shared: Shared,
    /,
    *,
    name: str,
    scope: str | None,
    memory_max: str | None,
    cpu_quota: str | None,
    tasks_max: str | None,
    **words: object,
) -> int:
    """Install a systemd unit that starts the endpoint when the host boots."""
    limits = {"memory_max": memory_max, "cpu_quota": cpu_quota, "tasks_max": tasks_max}
    from cep.apply import facts, unit_work

    unit_work.check_limits(limits)
    wanted = Wanted(limits=limits, **words)  # type: ignore[arg-type]
    set_up_logging(shared)
    from cep.config.load import read

    base = facts.base_under_sudo(shared.base, chosen=shared.base_is_chosen)
    root = naming.find_root(base, name)
    # It may be another account's, whose agent looks itself at who can change it.
    settings = read(root / "config.yaml").settings
    facts.check_hardening(settings, wanted.hardening)
    return _Enabling(root, settings, wanted, scope).run()


class _Enabling:
    """One `enable-on-boot`: facts, checks, and then the changes."""

    def __init__(
        self,
        root: Path,
        settings: EndpointSettings,
        wanted: Wanted,
        scope: str | None,
    ) -> None:
        from cep.apply import facts
        from cep.boot import systemd

        self._root = root
        self._settings = settings
        self._wanted = wanted
        self._who: Account = facts.account_of(root, wanted.run_as)
        self._version = systemd.version()
        self._user = self._choose(scope)
        self._lingers_by_us = False

    def _choose(self, scope: str | None) -> bool:
        """Whether it becomes a user unit: root's is the host's, another's their own."""
        root = os.getuid() == 0
        if scope == "user" and root and self._who.uid != 0:
            raise UsageError(
                f"A user unit is {self._who.name}'s own business.",
                hint="Run the same command as that account, without sudo.",
            )
        if scope == "user" and self._who.uid != os.getuid():
            raise UsageError("--run-as is for system units; a user unit runs as its user.")
        return scope == "user" or (scope is None and not root)

    def run(self) -> int:
        """Do it; returns the exit code."""
        from cep.boot import systemd

        unit = self._unit_file(user=self._user)
        if self._wanted.only_print:
            click.echo(unit.text, nl=False)
            return 0
        if not systemd.is_running():
            return self._offer_cron()
        if not self._user and os.getuid() != 0:
            return self._offer_sudo(unit.text, "Only root can install a unit of the host.")
        manager = systemd.Manager(user=self._user)
        if self._user:
            refusal = self._why_no_user_unit(manager)
            if refusal is not None:
                return self._offer_sudo(self._unit_file(user=False).text, refusal)
        try:
            changed = self._install(unit, manager)
        except CepError:
            self._take_back()
            raise
        self._say(unit.path, manager, changed)
        return 0

    def _unit_file(self, *, user: bool) -> UnitFile:
        from cep.apply import facts
        from cep.apply.unit_work import UnitFile, UnitWish

        wanted = self._wanted
        wish = UnitWish(
            user=user,
            name=wanted.unit,
            hardening=wanted.hardening,
            any_host=wanted.any_host,
            replace=wanted.take_over,
            limits=wanted.limits,
        )
        return UnitFile(facts.places(self._root, self._settings), self._who, wish, self._version)

    # -- what stands in the way --------------------------------------------------------------------

    def _why_no_user_unit(self, manager: Manager) -> str | None:
        """Let the account's services run without a login; what stands in the way of that."""
        from cep.boot import systemd

        if not systemd.lingers(self._who.name):
            self._lingers_by_us = systemd.set_lingering(self._who.name, True)
            if not self._lingers_by_us:
                return "This site does not let services of accounts run without a login (linger)."
        if manager.answers(systemd.MANAGER_S):  # it may be only starting, whoever let it
            return None
        self._take_back()
        return "This account has no service manager of its own here (systemctl --user)."

    def _take_back(self) -> None:
        """Undo what was changed for a unit that is not installed after all."""
        from cep.boot import systemd

        if self._lingers_by_us:
            systemd.set_lingering(self._who.name, False)

    def _offer_cron(self) -> int:
        from cep.apply import facts

        words = [*facts.program(), "-c", str(self._root.parent), "start", self._root.name]
        click.echo(
            "This host is not run by systemd, so there is no service to install. cron can start "
            "the endpoint at boot (but not again after a crash). The line for `crontab -e`:",
            err=True,
        )
        # cron takes a per cent sign for the end of the command.
        click.echo("@reboot " + shlex.join(words).replace("%", "\\%"))
        return Unavailable.exit_code

    def _offer_sudo(self, text: str, why: str) -> int:
        from cep.boot.unit import unit_name

        unit = unit_name(self._root.name, self._wanted.unit)
        click.echo(f"{why} Root can install this unit as {unit}:\n", err=True)
        click.echo(text, nl=False)
        from cep.apply import facts

        program = shlex.join([*facts.program(), "-c", str(self._root.parent)])
        click.echo(
            f"\nor run this, which does all of it:\n\n\tsudo {program} enable-on-boot "
            f"{self._root.name} --system --now\n",
            err=True,
        )
        return Unavailable.exit_code

    def _check_not_by_hand(self, unit: UnitFile, manager: Manager) -> None:
        from cep.agent.state import EndpointState, observe
        from cep.apply import facts
        from cep.boot.install import refuse_running

        seen = observe(facts.places(self._root, self._settings))
        if seen.state is not EndpointState.RUNNING or seen.lease is None:
            return
        if not (seen.here and manager.main_pid(unit.path.name) == seen.lease.pid):
            refuse_running(self._root.name, seen.lease.pid, seen.lease.host)

    # -- the changes -------------------------------------------------------------------------------

    def _install(self, unit: UnitFile, manager: Manager) -> bool:
        """Write what is needed; returns whether the unit file changed."""
        unit.check_place()
        unit.check_no_other()
        self._check_not_by_hand(unit, manager)
        identity = self._identity()
        client = None if identity is None else (identity.client_id, identity.secret)
        unit.complete(
            with_credentials=self._has_credentials(unit, given=client is not None),
            lingers=self._lingers_by_us,
        )
        return unit.put(manager, client)

    def _identity(self) -> ClientIdentity | None:
        """The client that the service logs in as; None: with the account's own login."""
        from cep.apply import facts
        from cep.service.identity import client_identity

        if self._wanted.credentials is None:
            return client_identity()
        file = Path(self._wanted.credentials).expanduser()
        found = client_identity(facts.variables_in(file))
        if found is None:
            raise UsageError(
                f"{file} sets neither GLOBUS_COMPUTE_CLIENT_ID nor GLOBUS_COMPUTE_CLIENT_SECRET."
            )
        return found

    def _has_credentials(self, unit: UnitFile, *, given: bool) -> bool:
        """Whether the unit gets a client's credentials; without any, the account is logged in."""
        from cep.apply import facts

        if not given and not unit.credentials.there():
            facts.check_login(self._root.parent, self._settings, self._who, self._root.name)
            return False
        if unit.credentials.environment_file is not None:
            click.echo(
                f"The client's secret is in the file {unit.credentials.environment_file} (mode "
                "0600): systemd keeps credentials apart only for units of the host, from version "
                "247 on.",
                err=True,
            )
        return True

    def _say(self, path: Path, manager: Manager, changed: bool) -> None:
        unit, name = path.name, self._root.name
        if not changed:
            click.echo(f"{path} is unchanged.", err=True)
        if self._wanted.now:
            running = manager.main_pid(unit) is not None
            manager.do("enable", "--now", unit)
            click.echo(f"Endpoint <{name}> is enabled on boot, and running.", err=True)
            if running and changed:
                click.echo(
                    f"What changed holds from the next start on: {_systemctl(manager)} restart "
                    f"{unit}",
                    err=True,
                )
            return
        click.echo("Systemd service installed. Run")
        click.echo(f"\t{_systemctl(manager)} enable {unit} --now")
        click.echo("to enable the service and start the endpoint.")


def _systemctl(manager: Manager) -> str:
    return "systemctl --user" if manager.user else "sudo systemctl"
