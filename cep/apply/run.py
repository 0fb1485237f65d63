"""`apply` from the document to the answer: look at everything, plan everything, then do it.

Nothing is changed before all that is wrong with the document has been found. After that the
endpoints go one by one, each with its own outcome; the failure of one does not stop the others.
Runs in the calling thread.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from cep.apply import facts
from cep.apply.document import Document, State, Wanted, WrongDocument
from cep.apply.facts import Account
from cep.apply.places import Here, Place, place_for
from cep.apply.plan import Plan, Seen, Step, plan, wrong_of
from cep.apply.result import Outcome
from cep.apply.schema import Problem
from cep.errors import CepError, NotAllowed


@dataclass(slots=True)
class _Job:
    """One endpoint on its way.

    Attributes:
        wanted: What the document says.
        who: Its account.
        spec: The same for the verbs.
        seen: What was found; None when looking failed.
        plan: What is to be done.
    """

    wanted: Wanted
    who: Account
    spec: dict[str, Any]
    seen: Seen | None = None
    plan: Plan = field(default_factory=Plan)


class Run:
    """One `apply`.

    Args:
        document: The endpoints, and what is wrong with the document already.
        place_of: Where an account's verbs are carried out; for tests.
    """

    def __init__(
        self, document: Document, *, place_of: Callable[[Account], Place] = place_for
    ) -> None:
        self._place_of = place_of
        self._root = os.getuid() == 0
        self._problems = list(document.problems)
        self._jobs = list(self._resolved(document.wanted))

    def planned(self) -> list[Outcome]:
        """Look and plan; returns the outcomes as `--dry-run` tells them.

        Raises:
            WrongDocument: With everything that is wrong.
        """
        self._look()
        problems = self._problems + [
            (job.wanted.name, Problem(job.wanted.where, f"{job.wanted.where}: {sentence}"))
            for job in self._jobs
            if job.seen is not None
            for sentence in wrong_of(job.seen.home)
        ]
        if problems:
            raise WrongDocument(problems)
        for job in self._jobs:
            if job.seen is not None:
                job.plan = plan(job.wanted, job.seen)
        return [self._outcome(job) for job in self._jobs]

    def done(self, tell: Callable[[str, str], None] = lambda _name, _action: None) -> list[Outcome]:
        """Carry the plans out; returns the outcomes.

        Args:
            tell: Is told the endpoint and the action that begins.
        """
        return [self._carried_out(job, tell) for job in self._jobs]

    # -- who and where -------------------------------------------------------------------------

    def _resolved(self, wanted: Sequence[Wanted]) -> Iterator[_Job]:
        own = pwd.getpwuid(os.getuid()).pw_name
        for one in wanted:
            try:
                who = self._account(one, own)
            except CepError as exc:
                self._wrong(one, "run_as", str(exc).replace("\n", " "))
                continue
            scoped = self._scoped(one)
            yield _Job(scoped, who, _spec(scoped, who))

    def _wrong(self, one: Wanted, key: str, sentence: str) -> None:
        place = f"{one.where}.{key}"
        self._problems.append((one.name, Problem(place, f"{place}: {sentence}")))

    def _account(self, one: Wanted, own: str) -> Account:
        who = facts.account_named(one.run_as or own)
        if who.uid != os.getuid() and not self._root:
            raise NotAllowed(f"Only root can apply endpoints of {who.name}; this is {own}.")
        if who.uid == 0 and one.run_as is None and one.state != "absent":
            raise NotAllowed(
                f"Endpoint {one.name} would be root's, and every task it receives would run as "
                "root. If that is meant: run_as: root"
            )
        return who

    def _scoped(self, one: Wanted) -> Wanted:
        """Fill in the unit's scope: root's is the host's, another's their own."""
        if not one.unit:
            return one
        user = one.unit_scope == "user" or (one.unit_scope is None and not self._root)
        if not user and not self._root:
            self._wrong(one, "unit.scope", "only root can install a unit of the host; use user.")
        return replace(one, unit=replace(one.unit, user=user))

    # -- looking -------------------------------------------------------------------------------

    def _look(self) -> None:
        by_account: dict[str, list[_Job]] = {}
        for job in self._jobs:
            by_account.setdefault(job.who.name, []).append(job)
        for jobs in by_account.values():
            try:
                answers = self._place_of(jobs[0].who).ask_all("survey", [job.spec for job in jobs])
            except CepError as exc:
                answers = [exc] * len(jobs)
            for job, answer in zip(jobs, answers, strict=True):
                self._see(job, answer)

    def _see(self, job: _Job, answer: dict[str, Any] | CepError) -> None:
        if isinstance(answer, CepError):
            job.plan = Plan(error=answer)
            return
        home = {**answer["home"], "account": job.who.name}
        job.spec |= {name: home[name] for name in ("directory", "run", "state_dir")}
        if answer["own"] is None:
            job.seen = Seen(home, root=self._root)
            return
        wish = job.spec["wish"]
        of_host = None if wish is None or wish["user"] else wish
        try:
            host = Here().ask("unit_look", {**job.spec, "user": False, "wish": of_host})
        except CepError as exc:
            job.plan = Plan(error=exc)
            return
        job.seen = Seen(
            home,
            units=(*host["found"], *answer["own"]["found"]),
            unit=host["wanted"] or answer["own"]["wanted"],
            root=self._root,
        )

    # -- doing ---------------------------------------------------------------------------------

    def _carried_out(self, job: _Job, tell: Callable[[str, str], None]) -> Outcome:
        outcome = self._outcome(job)
        if job.plan.error is not None or not job.plan.steps:
            return outcome
        outcome.begin()
        try:
            clients = self._clients(job)
            for step in job.plan.steps:
                for action in step.actions:
                    tell(job.wanted.name, action)
                answer = self._ask(job, step, clients)
                outcome.take(step.actions, answer)
                if answer.get("still_lingers") and self._root:
                    Here().ask("unlinger", job.spec)
        except CepError as exc:
            outcome.error = exc
        self._look_again(job, outcome)
        return outcome

    def _clients(self, job: _Job) -> list[str] | None:
        """The client that deletes a registration, read before its unit goes."""
        for step in job.plan.steps:
            unit = step.extra.get("client_of")
            if unit is not None:
                place = self._place_of(job.who) if unit["user"] else Here()
                answer = place.ask("stored_client", {"path": unit["path"], "user": unit["user"]})
                found: list[str] | None = answer["client"]
                return found
        return None

    def _ask(self, job: _Job, step: Step, client: list[str] | None) -> dict[str, Any]:
        place = self._place_of(job.who) if step.home else Here()
        extra = {name: value for name, value in step.extra.items() if name != "client_of"}
        spec = {**job.spec, **extra}
        if step.verb == "deregister" and spec["client"] is None:
            spec["client"] = client
        elif step.verb not in ("start", "unit_put", "deregister"):
            spec["client"] = None  # who does not need it does not get it
        return place.ask(step.verb, spec)

    def _look_again(self, job: _Job, outcome: Outcome) -> None:
        try:
            place = self._place_of(job.who)
            outcome.home |= place.ask("state", job.spec)
            units: list[Mapping[str, Any]] = []
            for user in (False, True):
                spec = {**job.spec, "user": user, "wish": None, "client": None}
                asked = place if user else Here()
                units += asked.ask("unit_look", spec)["found"]
            outcome.units = tuple(units)
        except CepError as exc:
            outcome.error = outcome.error or exc

    def _outcome(self, job: _Job) -> Outcome:
        seen = job.seen
        return Outcome(
            name=job.wanted.name,
            account=job.who.name,
            directory=str(job.spec.get("directory") or ""),
            plan=job.plan,
            home=dict(seen.home) if seen is not None else {},
            units=() if seen is None else seen.units,
            error=job.plan.error,
            actions=[] if job.plan.error is not None else list(job.plan.actions),
        )


def looked(document: Document) -> list[Outcome]:
    """What there is of these endpoints, for `--info`; nothing is planned or changed.

    Raises:
        WrongDocument: With everything that is wrong.
    """
    blank = [_blank(one, "absent") for one in document.wanted]
    outcomes = Run(replace(document, wanted=tuple(blank))).planned()
    for outcome in outcomes:
        outcome.only_looked()
    # Whether somebody has to log in is asked only of those that would have to be started.
    idle = [
        (one, outcome)
        for one, outcome in zip(document.wanted, outcomes, strict=True)
        if outcome.error is None and outcome.home.get("state") in ("Initialized", "Stopped")
    ]
    starts = tuple(_blank(one, "started") for one, _ in idle)
    started = Run(replace(document, wanted=starts)).planned() if idle else []
    for (_, outcome), would in zip(idle, started, strict=True):
        outcome.plan.waiting = would.plan.waiting
    return outcomes


def _blank(one: Wanted, state: State) -> Wanted:
    """A wish that says nothing of the configuration."""
    who = one.run_as or pwd.getpwuid(os.getuid()).pw_name
    return Wanted(
        where=one.where, name=one.name, run_as=who, config_dir=one.config_dir, state=state
    )


def all_of_this_account() -> Document:
    """Every endpoint of the calling account's user directory."""
    found = Here().ask("names", {"config_dir": None})
    return Document(
        tuple(
            Wanted(where=f"endpoints[{number}]", name=name, run_as=found["account"])
            for number, name in enumerate(found["names"])
        )
    )


def _spec(one: Wanted, who: Account) -> dict[str, Any]:
    """A wish in the plain values that the verbs take."""
    names = ("name", "state", "config_dir", "configures", "profile", "profile_dir", "site", "vars")
    names += ("config", "display_name", "service", "ca_file", "uuid")  # type: ignore[assignment]
    spec: dict[str, Any] = {name: getattr(one, name) for name in names}
    spec["configures"] = one.configures and one.state != "absent"
    spec["account"] = who.name
    spec["client"] = None if one.client is None else [one.client.client_id, one.client.secret]
    spec["wish"] = asdict(one.unit) if one.unit else None
    # A user unit gets none of what a level takes away.
    spec["hardening"] = one.unit.hardening if one.unit else None
    return spec
