"""Which systemd unit runs an endpoint here, and asking systemd in place of the agent."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cep import errors
from cep.errors import CepError, NotAllowed, Unavailable

if TYPE_CHECKING:
    from cep.boot.systemd import Manager

# States of a unit that runs, or will by itself; the others need somebody to start it.
_GOING = ("active", "activating", "deactivating", "reloading")


@dataclass(frozen=True, slots=True)
class Unit:
    """An endpoint's unit on this host.

    Attributes:
        name: File name.
        manager: The service manager that has it.
        state: systemd's word: `active`, `activating`, `inactive`, `failed`, ...
        enabled: It starts at boot.
    """

    name: str
    manager: Manager
    state: str
    enabled: bool

    @property
    def owns(self) -> bool:
        """Whether the endpoint is systemd's to start and stop."""
        return self.enabled or self.is_going

    @property
    def is_going(self) -> bool:
        """Whether it runs, or is about to."""
        return self.state in _GOING

    @property
    def waits(self) -> bool:
        """Whether it is about to start, perhaps after a failure."""
        return self.state == "activating"

    @property
    def is_ours(self) -> bool:
        """Whether this account may start and stop it."""
        return self.manager.user or os.getuid() == 0

    @property
    def words(self) -> str:
        """For people: what it is, and how it stands."""
        return f"{self.name} ({'enabled' if self.enabled else 'disabled'}, {self.state})"

    @property
    def can_reload(self) -> bool:
        """Whether it was written with an `ExecReload=`; older ones were not."""
        return self.manager.property(self.name, "CanReload") == "yes"

    def reload(self, *, wait: bool) -> bool:
        """Have systemd ask the running agent for a reload; whether that succeeded."""
        words = ["reload", *([] if wait else ["--no-block"]), self.name]
        return self.manager.ask(*words).returncode == 0

    def do(self, verb: str, name: str) -> None:
        """Have systemd start, stop or restart the endpoint.

        Args:
            verb: What to do.
            name: The endpoint's name.

        Raises:
            NotAllowed: Only root may; the hint has the command.
            CepError: It failed; with the agent's own exit code where that is the reason.
        """
        scope = "--user " if self.manager.user else ""
        if not self.is_ours:
            raise NotAllowed(
                f"Endpoint {name} is run by systemd, as {self.name}, which is root's to {verb}.",
                hint=f"Use: sudo systemctl {verb} {self.name}",
            )
        done = self.manager.ask(verb, self.name)
        if done.returncode == 0:
            return
        told = self.manager.property(self.name, "StatusText").removeprefix("failed: ")
        raise _error_of(self.manager.property(self.name, "ExecMainStatus"))(
            f"systemd could not {verb} {self.name}: {told or done.stderr.strip()}",
            hint=f"More: systemctl {scope}status {self.name}",
        )


def unit_of(root: Path) -> Unit | None:
    """The unit that `enable-on-boot` wrote for the endpoint in this directory, if there is one."""
    from cep.boot import systemd

    if not systemd.is_running():  # as in a container; nothing more is loaded then
        return None
    from cep.boot import install

    owner = root.stat().st_uid
    folders = [(False, systemd.SYSTEM_UNITS)]
    if owner == os.getuid():
        folders.append((True, systemd.user_units(Path(pwd.getpwuid(owner).pw_dir))))
    for user, folder in folders:
        for path, _ in install.installed(root, folder):
            manager = systemd.Manager(user=user)
            state = manager.property(path.name, "ActiveState") or "unknown"
            return Unit(path.name, manager, state, manager.is_enabled(path.name))
    return None


def _error_of(status: str) -> type[CepError]:
    """The error with an agent's exit code."""
    for kind in (
        errors.InputMissing,
        errors.CantCreate,
        errors.TemporaryFailure,
        errors.NotAllowed,
        errors.ConfigError,
    ):
        if status == str(kind.exit_code):
            return kind
    return Unavailable
