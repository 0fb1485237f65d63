"""One endpoint's systemd unit: what it would be, putting it there, and taking units away again.

For `enable-on-boot`, `disable-on-boot` and `apply`. Reads nothing below the account's home, since
root may not be able to, or must not: what is to be known of it comes in as values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cep.apply import facts
from cep.apply.facts import Account
from cep.boot import install, systemd
from cep.boot.install import Credentials
from cep.boot.systemd import Manager
from cep.boot.unit import USUAL_VERSION, Mark, UnitPlan, render, unit_name
from cep.errors import UsageError
from cep.paths import EndpointPaths

_SIZE = "4G, 80% or infinity"
#: What a limit of a unit may be, by its name; each becomes a line of the unit as it is.
LIMITS = {
    "memory_max": (r"[0-9]+[KMGT]?|[0-9]+%|infinity", f"a size, e.g. {_SIZE}"),
    "cpu_quota": (r"[0-9]+%", "a percentage, e.g. 400%"),
    "tasks_max": (r"[0-9]+%?|infinity", "a number, e.g. 4096"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitWish:
    """What somebody wants of an endpoint's unit.

    Attributes:
        user: A unit of the account's own service manager, not of the host.
        name: Another name for it, with or without `.service`.
        hardening: One of `cep.boot.unit.HARDENING`.
        any_host: A user unit may start on every host that shares the home.
        replace: Take over a unit that the published endpoint wrote.
        limits: By the names of `LIMITS`.
    """

    user: bool
    name: str | None = None
    hardening: str = "compat"
    any_host: bool = False
    replace: bool = False
    limits: Mapping[str, str | None] = field(default_factory=dict)


class UnitFile:
    """The unit of one endpoint, planned; nothing is written before `put`.

    Args:
        places: The endpoint's files.
        who: The account it runs as.
        wish: What is wanted of it.
        version: systemd's version; None where there is none.
    """

    def __init__(
        self, places: EndpointPaths, who: Account, wish: UnitWish, version: int | None
    ) -> None:
        self._places = places
        self._wish = wish
        self.folder = folder(who, user=wish.user)
        self.path = self.folder / unit_name(places.name, wish.name)
        kept = facts.site_folders(install.own_text(self.path) or "")
        self.plan = _plan(places, who, wish, version or USUAL_VERSION, kept)
        self.credentials = Credentials(
            self.plan.unit, user=wish.user, directory=places.root, version=self.plan.version
        )

    def check_place(self) -> None:
        """Make sure that it may be written.

        Raises:
            CantCreate: Another's file is there.
        """
        install.check_place(self.path, self.plan.mark, replace=self._wish.replace)

    def check_no_other(self) -> None:
        """Make sure that the endpoint has no unit of another name.

        Raises:
            UsageError: It has.
        """
        for other, _ in install.installed(self._places.root, self.folder):
            if other != self.path:
                raise UsageError(
                    f"Endpoint {self._places.name} has the unit {other.name} already.",
                    hint=f"Remove it first: cep disable-on-boot {self._places.name} --now",
                )

    def complete(self, *, with_credentials: bool, lingers: bool = False) -> None:
        """Fill in what is known last.

        Args:
            with_credentials: It gets a client's id and secret, or has them already.
            lingers: For a user unit that is new: we let the account's services run without a login.
        """
        plan, found = self.plan, self.credentials
        if with_credentials:
            plan = replace(
                plan,
                credentials=found.to_load,
                environment_file=found.environment_file,
                mark=replace(plan.mark, credentials=found.files),
            )
        if self._wish.user:
            before = install.mark_at(self.path)
            lingers = lingers if before is None else before.lingers
            plan = replace(plan, mark=replace(plan.mark, lingers=lingers))
        self.plan = plan

    @property
    def text(self) -> str:
        """The unit file."""
        return render(self.plan)

    def put(self, manager: Manager, identity: tuple[str, str] | None) -> bool:
        """Write it and its credentials; returns whether the unit file changed.

        Args:
            manager: The service manager that is to have it.
            identity: A client's id and secret to store.

        Raises:
            ConfigError: systemd does not accept it.
            CantCreate: It cannot be written.
        """
        text = self.text
        manager.verify(self.plan.unit, text)
        if identity is not None:
            client_id, secret = identity
            self.credentials.put({install.CLIENT_ID: client_id, install.CLIENT_SECRET: secret})
        changed = install.put(self.path, text)
        if changed:
            manager.do("daemon-reload")
        return changed


def folder(who: Account, *, user: bool) -> Path:
    """Where units of the host, or of an account, are kept."""
    return systemd.user_units(who.home) if user else systemd.SYSTEM_UNITS


def take_down(path: Path, manager: Manager) -> list[Path]:
    """Stop, disable and remove a unit of ours; returns the files that went.

    Raises:
        Unavailable: systemd refused.
        InputMissing: It is no unit of ours.
    """
    mark = install.mark_at(path)
    manager.do("disable", "--now", path.name)
    gone = install.remove(path)
    manager.do("daemon-reload")
    manager.ask("reset-failed", path.name)
    others = any(install.mark_at(one) for one in path.parent.glob("*.service"))
    if manager.user and mark is not None and mark.lingers and not others:
        systemd.set_lingering(mark.user, False)
    return gone


def check_limits(limits: Mapping[str, str | None]) -> None:
    """A limit becomes a line of the unit as it is, so it must be one word of the right kind.

    Raises:
        UsageError: One is not.
    """
    import re

    for name, (rule, example) in LIMITS.items():
        value = limits[name]
        if value is not None and re.fullmatch(rule, value) is None:
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} takes {example}, not {value!r}.")


def _plan(
    places: EndpointPaths, who: Account, wish: UnitWish, version: int, kept: Sequence[str]
) -> UnitPlan:
    return UnitPlan(
        mark=Mark(endpoint=places.name, directory=str(places.root), user=who.name, lingers=False),
        unit=unit_name(places.name, wish.name),
        user=wish.user,
        version=version,
        program=facts.program(),
        run_as=who.name,
        group=who.group,
        home=who.home,
        base=places.root.parent,
        needed=(places.root, places.run, places.state),
        search_path=facts.search_path(kept),
        hardening=wish.hardening,
        host=None if wish.any_host else facts.host_name(),
        limits=wish.limits,
    )
