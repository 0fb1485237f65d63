"""From what is wanted and what was seen to what is to be done, step by step. Pure.

The real run carries out exactly these steps, and `--dry-run` shows them, so the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cep.apply.document import Wanted
from cep.errors import AlreadyRunning, CantCreate, CepError, NotAllowed
from cep.safety.text import redact, redact_script

# States of a unit that runs, or will by itself.
_GOING = ("active", "activating", "deactivating", "reloading")


@dataclass(frozen=True, slots=True)
class Step:
    """One verb to be carried out.

    Attributes:
        verb: Of `cep.apply.home` or `cep.apply.host`.
        extra: What the verb needs beyond the endpoint's own spec.
        actions: What it is called in the answer; nothing for a part of another action.
        home: As the account; else as the caller.
    """

    verb: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    actions: tuple[str, ...] = ()
    home: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """What there is of one endpoint.

    Attributes:
        home: The answer of `home.look`.
        units: The units found, of the host and of the account.
        unit: What the wanted unit would be, if one is wanted.
        root: The caller is root.
    """

    home: Mapping[str, Any]
    units: tuple[Mapping[str, Any], ...] = ()
    unit: Mapping[str, Any] | None = None
    root: bool = False

    @property
    def running(self) -> bool:
        """Its agent runs, on whatever host."""
        return bool(self.home["state"] == "Running")


@dataclass(slots=True)
class Plan:
    """What is to be done for one endpoint.

    Attributes:
        steps: In this order.
        diff: Each file that changes, as the answer has it.
        error: Why nothing is done.
        waiting: What a person has to do before it can be started.
        restarted: It runs anew afterwards.
        restart_needed: It goes on with what held before.
        notes: Sentences for people.
    """

    steps: list[Step] = field(default_factory=list)
    diff: list[dict[str, str]] = field(default_factory=list)
    error: CepError | None = None
    waiting: str | None = None
    restarted: bool = False
    reloaded: bool = False
    restart_needed: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def actions(self) -> list[str]:
        """What is to be done, in words of the answer."""
        return [word for step in self.steps for word in step.actions]


def plan(wanted: Wanted, seen: Seen) -> Plan:
    """Decide what is to be done for one endpoint; never raises, the plan has the error."""
    try:
        return _Planning(wanted, seen).plan()
    except CepError as exc:
        return Plan(error=exc)


class _Planning:
    """One decision."""

    def __init__(self, wanted: Wanted, seen: Seen) -> None:
        self._wanted = wanted
        self._seen = seen
        self._home = seen.home
        self._plan = Plan()

    def plan(self) -> Plan:
        """The plan.

        Raises:
            CepError: What is wanted cannot be.
        """
        wanted = self._wanted
        if wanted.state == "absent":
            self._away()
        else:
            self._check_id()
            self._present()
        self._check_here()
        if not self._seen.root:
            self._check_own()
        return self._plan

    # -- away ----------------------------------------------------------------------------------

    def _away(self) -> None:
        wanted, home = self._wanted, self._home
        self._stop(named=True)
        if wanted.deregister and home["endpoint_id"] is not None:
            # Before its unit goes, whose credentials it may need, now or at the next try.
            self._do("deregister", {"client_of": self._removed_client()}, "deregister")
        for unit in self._seen.units:
            self._remove(unit)
        if wanted.purge and home["exists"]:
            self._do("purge", {}, "purge")
            self._differ(home["directory"], "the endpoint's directory\n", "")

    def _removed_client(self) -> Mapping[str, Any] | None:
        """The unit whose stored client may delete the registration."""
        needed = self._wanted.deregister and self._wanted.client is None
        return next(iter(self._seen.units), None) if needed else None

    # -- here ----------------------------------------------------------------------------------

    def _present(self) -> None:
        wanted, home = self._wanted, self._home
        runs = self._seen.running
        moves = runs and self._managed_now() != self._managed_then()
        ends = wanted.state in ("stopped", "drained")
        touched = self._touches()
        to_run = not ends and (runs or wanted.state == "started")
        if ends:
            self._stop(named=True)
        elif moves:
            self._check_login()
            self._stop(named=True)
        elif touched and runs:
            self._do("mark", {})
        self._configure()
        self._units()
        self._note_client()
        if moves and to_run:
            self._start("start")
            self._plan.restarted = True
        elif runs and to_run and (touched or home["due"]):
            self._renew()
        elif not runs and to_run:
            self._begin()

    def _touches(self) -> bool:
        return self._home["after"] is not None or self._needs_new_process()

    def _needs_new_process(self) -> bool:
        """What changes is known to a process from its start only: its unit, its credentials."""
        unit = self._seen.unit
        if unit is not None and (unit["after"] is not None or unit["store"]):
            return True
        return self._managed_then() is None and bool(self._home["other_client"])

    def _configure(self) -> None:
        wanted, home = self._wanted, self._home
        takes_id = wanted.uuid is not None and home["endpoint_id"] is None
        words = ["create" if home["before"] is None else "configure"] if home["after"] else []
        if takes_id:
            words.append("set_id")
        if words:
            self._do("configure", {}, *words)
        path = f"{home['directory']}/config.yaml"
        if home["after"] is not None:
            self._differ(path, home["before"] or "", home["after"], script=True)
        if takes_id:
            self._differ(f"{home['directory']}/endpoint.json", "", f"{wanted.uuid}\n")

    def _units(self) -> None:
        wanted, unit = self._wanted, self._seen.unit
        if wanted.unit is None:
            return
        for found in self._seen.units:
            if unit is None or found["path"] != unit["path"]:
                self._remove(found)
        if unit is None or wanted.unit is False:
            return
        user = wanted.unit.user
        if unit["linger"]:
            self._do("linger", {}, "linger", home=False)
        words = ["install_unit"] if unit["after"] is not None else []
        words += ["store_credentials"] if unit["store"] else []
        if words:
            self._do("unit_put", {"user": user, "lingered": not unit["linger"]}, *words, home=user)
        if unit["after"] is not None:
            self._differ(unit["path"], unit["before"], unit["after"])
        if unit["store"]:
            self._differ(f"{unit['path']} (client credentials)", "", "***\n")
        there = next((one for one in self._seen.units if one["path"] == unit["path"]), None)
        if wanted.unit_enabled != (there is not None and there["enabled"]):
            verb = "enable" if wanted.unit_enabled else "disable"
            self._do("unit_do", {"user": user, "unit": unit["name"], "verb": verb}, verb, home=user)

    def _note_client(self) -> None:
        unit = self._managed_then()
        if self._wanted.client is not None and self._wanted.unit is None and unit is not None:
            self._plan.notes.append(
                f"The credentials are not used: it is run by {unit[1]}, which keeps its own. To "
                "store them with it, give the unit too."
            )

    # -- start, stop, restart --------------------------------------------------------------------

    def _begin(self) -> None:
        """Start it, or say who has to log in first."""
        home = self._home
        by_unit = self._managed_then() is not None
        if self._can_log_in(by_unit=by_unit):
            self._start("start")
            return
        if home["hub"]:
            raise self._no_client()
        self._plan.waiting = (
            f"waiting for login: run `cep login` as {self._account()}, then apply again or start it"
        )

    def _no_client(self) -> NotAllowed:
        return NotAllowed(
            f"The hub {self._home['service']} knows clients only, and endpoint "
            f"{self._wanted.name} has no credentials of one.",
            hint="Give them: credentials: {client_id: ..., client_secret: ...}",
        )

    def _account(self) -> str:
        return str(self._home["account"])

    def _can_log_in(self, *, by_unit: bool) -> bool:
        home, unit = self._home, self._seen.unit
        if self._wanted.client is not None or home["login"]:
            return True
        if not by_unit:
            return bool(home["shell"])
        if unit is not None:
            return bool(unit["credentials"])
        return any(one["credentials"] for one in self._seen.units)

    def _check_login(self) -> None:
        """What runs is not stopped for a way of running in which nobody could log in."""
        if not self._can_log_in(by_unit=self._managed_then() is not None):
            raise NotAllowed(
                f"Endpoint {self._wanted.name} would be stopped and could not be started again: "
                f"{self._account()} is not logged in, and there are no credentials of a client.",
                hint="Give credentials, or log in as that account: cep login",
            )

    def _renew(self) -> None:
        """What becomes of a running endpoint that was changed, now or before."""
        wanted, home = self._wanted, self._home
        if wanted.on_change == "none":
            self._plan.restart_needed = True
        elif wanted.on_change == "reload" and not self._needs_new_process():
            if home["after"] is not None or home["due"] == "untold":
                self._do("reload", {}, "reload")
                self._plan.reloaded = True
            self._plan.restart_needed = home["due"] == "told" or not home["reloads"]
        else:
            self._do("stop", {"drain_s": wanted.stop_s}, "restart")
            self._stop_units()
            self._start()
            self._plan.restarted = True

    def _stop(self, *, named: bool) -> None:
        """End the agent, and a unit that would start it again."""
        word = ("stop",) if named else ()
        runs = self._seen.running
        going = [unit for unit in self._seen.units if unit["state"] in _GOING]
        # What a killed agent has left is cleared up as well, which is no change of the endpoint.
        if runs or self._home["state"] == "Disconnected":
            self._do("stop", {"drain_s": self._wanted.stop_s}, *(word if runs else ()))
        if going:
            self._stop_units(*(() if runs else word))

    def _stop_units(self, *words: str) -> None:
        for unit in self._seen.units:
            # An agent that ended in order leaves a unit that ends by itself; root waits for it.
            if unit["state"] not in _GOING or not (self._seen.root or unit["user"]):
                continue
            extra = {"user": unit["user"], "unit": unit["name"], "verb": "stop"}
            self._do("unit_do", extra, *words, home=unit["user"])

    def _start(self, *words: str) -> None:
        unit = self._managed_then()
        if unit is None:
            self._do("start", {}, *words)
            return
        user, name = unit
        self._do("unit_do", {"user": user, "unit": name, "verb": "start"}, *words, home=user)

    def _remove(self, unit: Mapping[str, Any]) -> None:
        extra = {"user": unit["user"], "path": unit["path"]}
        self._do("unit_remove", extra, "remove_unit", home=unit["user"])
        self._differ(unit["path"], unit["text"], "")

    # -- who runs it -----------------------------------------------------------------------------

    def _managed_now(self) -> tuple[bool, str] | None:
        """The unit that the running agent belongs to; None for one started by hand."""
        pid = self._home["pid"]
        found = (one for one in self._seen.units if pid is not None and one["pid"] == pid)
        return next(((one["user"], one["name"]) for one in found), None)

    def _managed_then(self) -> tuple[bool, str] | None:
        """The unit that is to run it; None: it runs by itself."""
        wanted = self._wanted
        if wanted.unit is False:
            return None
        if wanted.unit is not None and self._seen.unit is not None:
            return wanted.unit.user, self._seen.unit["name"]
        owners = (one for one in self._seen.units if one["enabled"] or one["state"] in _GOING)
        return next(((one["user"], one["name"]) for one in owners), None)

    # -- what stands in the way ------------------------------------------------------------------

    def _check_id(self) -> None:
        known, wanted = self._home["endpoint_id"], self._wanted.uuid
        if wanted is not None and known is not None and _plain(known) != _plain(wanted):
            raise CantCreate(
                f"Endpoint {self._wanted.name} has the id {known}, not {wanted}.",
                hint=f"To give it the other one, remove {self._home['directory']}/endpoint.json "
                "while it does not run.",
            )

    def _check_here(self) -> None:
        if not self._seen.running or self._home["here"]:
            return
        verbs = {step.verb for step in self._plan.steps}
        if verbs & {"stop", "start", "unit_do", "unit_put", "reload", "purge", "deregister"}:
            host = self._home["host"]
            raise AlreadyRunning(
                f"Endpoint {self._wanted.name} runs on {host}, not on this host.",
                hint=f"Apply this there, or stop it first: ssh {host} cep stop {self._wanted.name}",
            )

    def _check_own(self) -> None:
        for step in self._plan.steps:
            if step.verb.startswith("unit_") and not step.extra["user"]:
                name = step.extra.get("unit") or step.extra.get("path") or "the unit"
                raise NotAllowed(
                    f"Endpoint {self._wanted.name} is run by systemd as a unit of the host "
                    f"({name}), which is root's to change.",
                    hint="Apply this as root, with run_as.",
                )

    # -- noting it down --------------------------------------------------------------------------

    def _do(self, verb: str, extra: Mapping[str, Any], *actions: str, home: bool = True) -> None:
        self._plan.steps.append(Step(verb, extra, tuple(actions), home))

    def _differ(self, path: str, before: str, after: str, *, script: bool = False) -> None:
        mask = redact_script if script else redact
        self._plan.diff.append(
            {
                "before_header": path,
                "after_header": path,
                "before": mask(before),
                "after": mask(after),
            }
        )


def _plain(uuid: str) -> str:
    return uuid.replace("-", "").lower()


def wrong_of(home: Mapping[str, Any]) -> Iterable[str]:
    """What the document wants of an endpoint and cannot be, as sentences."""
    yield from home["wrong"]
    if home["hardening"] is not None:
        yield home["hardening"]
