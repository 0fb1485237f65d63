"""`enable-on-boot`: an endpoint as a systemd service."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cep.cli import naming
from cep.cli.command import CepCommand, Shared, set_up_logging
from cep.errors import CepError, Unavailable, UsageError

if TYPE_CHECKING:
    from cep.boot.install import Credentials
    from cep.boot.systemd import Manager
    from cep.boot.unit import UnitPlan
    from cep.cli.boot_facts import Account
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
    _check_limits(limits)
    wanted = Wanted(limits=limits, **words)  # type: ignore[arg-type]
    set_up_logging(shared)
    from cep.cli import boot_facts
    from cep.config.load import read

    base = boot_facts.base_under_sudo(shared.base, chosen=shared.base_is_chosen)
    root = naming.find_root(base, name)
    # It may be another account's, whose agent looks itself at who can change it.
    settings = read(root / "config.yaml").settings
    boot_facts.check_hardening(settings, wanted.hardening)
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
        from cep.boot import systemd
        from cep.cli import boot_facts

        self._root = root
        self._settings = settings
        self._wanted = wanted
        self._who: Account = boot_facts.account_of(root, wanted.run_as)
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

        plan = self._plan()
        if self._wanted.only_print:
            click.echo(self._text(plan), nl=False)
            return 0
        if not systemd.is_running():
            return self._offer_cron()
        if not self._user and os.getuid() != 0:
            return self._offer_sudo(self._text(plan), "Only root can install a unit of the host.")
        manager = systemd.Manager(user=self._user)
        if self._user:
            refusal = self._why_no_user_unit(manager)
            if refusal is not None:
                return self._offer_sudo(self._text(replace(plan, user=False)), refusal)
        try:
            path, changed = self._install(plan, manager)
        except CepError:
            self._take_back()
            raise
        self._say(path, manager, changed)
        return 0

    def _plan(self) -> UnitPlan:
        from cep.boot.unit import USUAL_VERSION, Mark, UnitPlan, unit_name
        from cep.cli import boot_facts

        places = boot_facts.places(self._root, self._settings)
        return UnitPlan(
            mark=Mark(
                endpoint=self._root.name,
                directory=str(self._root),
                user=self._who.name,
                lingers=False,
            ),
            unit=unit_name(self._root.name, self._wanted.unit),
            user=self._user,
            version=self._version or USUAL_VERSION,
            program=boot_facts.program(),
            run_as=self._who.name,
            group=self._who.group,
            home=self._who.home,
            base=self._root.parent,
            needed=(places.root, places.run, places.state),
            search_path=boot_facts.search_path(),
            hardening=self._wanted.hardening,
            host=None if self._wanted.any_host else boot_facts.host_name(),
            limits=self._wanted.limits,
        )

    def _text(self, plan: UnitPlan) -> str:
        from cep.boot.unit import render

        return render(plan)

    # -- what stands in the way --------------------------------------------------------------------

    def _why_no_user_unit(self, manager: Manager) -> str | None:
        """Let the account's services run without a login; what stands in the way of that."""
        from cep.boot import systemd

        if not systemd.lingers(self._who.name):
            self._lingers_by_us = systemd.set_lingering(True)
            if not self._lingers_by_us:
                return "This site does not let services of accounts run without a login (linger)."
        if manager.answers():
            return None
        self._take_back()
        return "This account has no service manager of its own here (systemctl --user)."

    def _take_back(self) -> None:
        """Undo what was changed for a unit that is not installed after all."""
        from cep.boot import systemd

        if self._lingers_by_us:
            systemd.set_lingering(False)

    def _offer_cron(self) -> int:
        from cep.cli import boot_facts

        words = [*boot_facts.program(), "-c", str(self._root.parent), "start", self._root.name]
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
        from cep.cli import boot_facts

        program = shlex.join([*boot_facts.program(), "-c", str(self._root.parent)])
        click.echo(
            f"\nor run this, which does all of it:\n\n\tsudo {program} enable-on-boot "
            f"{self._root.name} --system --now\n",
            err=True,
        )
        return Unavailable.exit_code

    def _check_not_by_hand(self, plan: UnitPlan, manager: Manager) -> None:
        from cep.agent.state import EndpointState, observe
        from cep.boot.install import refuse_running
        from cep.cli import boot_facts

        seen = observe(boot_facts.places(self._root, self._settings))
        if seen.state is not EndpointState.RUNNING or seen.lease is None:
            return
        if not (seen.here and manager.main_pid(plan.unit) == seen.lease.pid):
            refuse_running(self._root.name, seen.lease.pid, seen.lease.host)

    # -- the changes -------------------------------------------------------------------------------

    def _install(self, plan: UnitPlan, manager: Manager) -> tuple[Path, bool]:
        """Write what is needed; returns the unit file, and whether it changed."""
        from cep.boot import install, systemd

        folder = systemd.user_units(self._who.home) if self._user else systemd.SYSTEM_UNITS
        path = folder / plan.unit
        install.check_place(path, plan.mark, replace=self._wanted.take_over)
        for other, _ in install.installed(self._root, folder):
            if other != path:
                raise UsageError(
                    f"Endpoint {self._root.name} has the unit {other.name} already.",
                    hint=f"Remove it first: cep disable-on-boot {self._root.name} --now",
                )
        self._check_not_by_hand(plan, manager)
        credentials = install.Credentials(
            plan.unit, user=self._user, directory=self._root, version=plan.version
        )
        identity = self._identity()
        plan = self._with_credentials(plan, credentials, wanted=identity is not None)
        if self._user:
            before = install.mark_at(path)
            lingers = before.lingers if before is not None else self._lingers_by_us
            plan = replace(plan, mark=replace(plan.mark, lingers=lingers))
        text = self._text(plan)
        manager.verify(plan.unit, text)
        if identity is not None:
            credentials.put(
                {install.CLIENT_ID: identity.client_id, install.CLIENT_SECRET: identity.secret}
            )
        changed = install.put(path, text)
        if changed:
            manager.do("daemon-reload")
        return path, changed

    def _identity(self) -> ClientIdentity | None:
        """The client that the service logs in as; None: with the account's own login."""
        from cep.cli import boot_facts
        from cep.service.identity import client_identity

        if self._wanted.credentials is None:
            return client_identity()
        file = Path(self._wanted.credentials).expanduser()
        found = client_identity(boot_facts.variables_in(file))
        if found is None:
            raise UsageError(
                f"{file} sets neither GLOBUS_COMPUTE_CLIENT_ID nor GLOBUS_COMPUTE_CLIENT_SECRET."
            )
        return found

    def _with_credentials(
        self, plan: UnitPlan, credentials: Credentials, *, wanted: bool
    ) -> UnitPlan:
        from cep.cli import boot_facts

        if not wanted and not credentials.there():
            boot_facts.check_login(self._root.parent, self._settings, self._who, self._root.name)
            return plan
        if credentials.environment_file is not None:
            click.echo(
                f"The client's secret is in the file {credentials.environment_file} (mode 0600): "
                "systemd keeps credentials apart only for units of the host, from version 247 on.",
                err=True,
            )
        return replace(
            plan,
            credentials=credentials.to_load,
            environment_file=credentials.environment_file,
            mark=replace(plan.mark, credentials=credentials.files),
        )

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


def _check_limits(limits: Mapping[str, str | None]) -> None:
    """A limit becomes a line of the unit as it is, so it must be one word of the right kind."""
    import re

    kinds = {
        "memory_max": (r"\d+[KMGT]?|\d+%|infinity", f"a size, e.g. {_SIZE}"),
        "cpu_quota": (r"\d+%", "a percentage, e.g. 400%"),
        "tasks_max": (r"\d+%?|infinity", "a number, e.g. 4096"),
    }
    for name, (rule, example) in kinds.items():
        value = limits[name]
        if value is not None and re.fullmatch(rule, value) is None:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} takes {example}, not {value!r}.")
